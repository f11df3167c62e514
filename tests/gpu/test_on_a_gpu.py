"""What must hold on a GPU beyond speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from pipeline.convolutions.shape import PASSES, ConvolutionShape
from pipeline.convolutions.trial import quickest, try_algorithms
from pipeline.quality.anatomy import survey
from pipeline.quality.judge import judge
from pipeline.quality.scan import scan_on
from pipeline.training.gpu_state import GpuState
from tests.gpu.card import DRY, device
from tests.pipeline.cells import cell
from tests.pipeline.trainings import Halted, assert_same_losses, run
from tests.scans import chest

NO_GPU = not torch.cuda.is_available() and not DRY
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="no GPU; QUARTERDOSE_DRY=1 takes the CPU")]
SIDE = 64 if DRY else 512


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("channels", "kernel"), [((2, 16), 7), ((64, 16), 5), ((32, 32), 5)])
def test_each_pass_has_a_right_algorithm(channels: tuple[int, int], kernel: int, precision: str) -> None:
    for sides in ((8, 64, 64), (2, 8, 8), (64, 64)):
        shape = ConvolutionShape(1, *channels, kernel, kernel // 2, sides, precision)
        for name in PASSES:
            trials = try_algorithms(shape, name, device())
            assert quickest(trials), trials


@pytest.mark.parametrize("training", [{}, {"accumulation": 2}, {"cuda_graphs": True}], ids=str)
def test_a_training_that_was_killed_goes_on_to_the_same_losses(
    training: dict[str, Any], make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = cell(3, norm="group", crop=32, epochs=2, checkpoint_steps=1, **training)
    data, straight, stopped = make_pair(), tmp_path / "straight", tmp_path / "stopped"
    result = run(settings, data, straight)
    with pytest.raises(Halted):
        run(settings, data, stopped, stop_at=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert run(settings, data, stopped)["convolutions"] == result["convolutions"]
    assert_same_losses(stopped, straight)
    assert result["device"] == ("cpu" if device().type == "cpu" else torch.cuda.get_device_name())


def test_a_captured_training_is_the_same_to_the_bit(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data = make_pair()
    for captured in (False, True):
        settings = cell(3, norm="batch", crop=32, batch=2, average=0.2, cuda_graphs=captured)
        run(settings, data, tmp_path / str(captured))
    assert_same_losses(tmp_path / "True", tmp_path / "False")


def test_a_scan_is_judged_as_on_the_cpu() -> None:
    """By all measures, to 1e-5 of each number; and a second time to the same bits."""
    slices, side = (3, 176) if DRY else (40, 512)
    full, generator = chest(slices, side), np.random.default_rng(0)
    full[:, : side // 4, : side // 4] = generator.integers(30, 50, (slices, side // 4, side // 4))
    full[:, side // 2 :, :40] = 700
    image = np.rint(0.98 * full + generator.normal(2, 20, full.shape)).astype(np.int16)
    anatomy = survey(full, np.ones(full.shape, bool))
    first, second, exact = (
        judge(scan_on(torch.device(name), image, full, anatomy, (0.7, 0.8))) for name in (device(), device(), "cpu")
    )
    assert first == second
    assert exact[0]["noise_blocks"] > 0
    assert None not in exact[0].values()
    for ours, expected in zip((first[0], *first[1]), (exact[0], *exact[1]), strict=True):
        for name, number in expected.items():
            np.testing.assert_allclose(ours[name], number, rtol=1e-5, err_msg=name)


def test_low_dose_is_the_cpus_to_one_hu() -> None:
    hu = chest(8, SIDE)
    ours, exact = (
        LowDoseSimulator(LowDoseSettings(), SIDE, 0.7, name).low_dose(hu, "scan", 0).astype(int)
        for name in (str(device()), "cpu")
    )
    assert np.abs(ours - exact).max() <= 1
    assert (ours != exact).mean() < 0.01


@pytest.mark.skipif(DRY, reason="a CPU has no such clock")
def test_the_driver_tells_clock_rate_and_throttling() -> None:
    state = GpuState(device())
    state.sample()
    samples, rates, throttled = state.sample()
    assert samples == 2
    assert 100 < rates / samples < 5000
    assert 0 <= throttled <= samples
