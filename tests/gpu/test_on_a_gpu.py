"""What must hold on a GPU beyond speed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.settings import LowDoseSettings
from pipeline.convolutions.shape import PASSES, ConvolutionShape
from pipeline.convolutions.trial import quickest, try_algorithms
from tests.gpu.card import DRY, device, needs_gpu
from tests.pipeline.cells import cell
from tests.pipeline.trainings import Halted, assert_same_losses, run
from tests.scans import chest

pytestmark = [pytest.mark.gpu, needs_gpu]
SIDE = 64 if DRY else 512


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("channels", "kernel"), [((2, 16), 7), ((64, 16), 5), ((32, 32), 5)])
def test_each_pass_has_a_right_algorithm(channels: tuple[int, int], kernel: int, precision: str) -> None:
    for sides in ((8, 64, 64), (2, 8, 8), (64, 64)):
        shape = ConvolutionShape(1, *channels, kernel, kernel // 2, sides, precision)
        for name in PASSES:
            trials = try_algorithms(shape, name, device())
            assert quickest(trials), trials


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_that_was_killed_goes_on_to_the_same_losses(
    accumulation: int, make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = cell(3, norm="group", crop=32, epochs=2, checkpoint_steps=1, accumulation=accumulation)
    data, straight, stopped = make_pair(), tmp_path / "straight", tmp_path / "stopped"
    result = run(settings, data, straight)
    with pytest.raises(Halted):
        run(settings, data, stopped, stop_at=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert run(settings, data, stopped)["convolutions"] == result["convolutions"]
    assert_same_losses(stopped, straight)
    assert result["device"] == ("cpu" if device().type == "cpu" else torch.cuda.get_device_name())


def test_low_dose_is_the_cpus_to_one_hu() -> None:
    hu = chest(8, SIDE)
    ours, exact = (
        LowDoseSimulator(LowDoseSettings(), SIDE, 0.7, name).low_dose(hu, "scan", 0).astype(int)
        for name in (str(device()), "cpu")
    )
    assert np.abs(ours - exact).max() <= 1
    assert (ours != exact).mean() < 0.01
