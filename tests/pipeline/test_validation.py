"""The numbers of a validation during a training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.evaluate.denoisers import load_denoiser
from pipeline.losses import build_loss
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import EvaluateSettings
from pipeline.training.arithmetic import count_operations
from pipeline.training.clock import StepClock
from pipeline.training.memory import predict
from pipeline.training.metrics_file import read_metrics
from pipeline.training.step import TrainingStep
from pipeline.training.validators import ScanValidator
from pipeline.training.world import World
from tests.pairs import write_pair, write_toy_pair
from tests.pipeline.cells import cell
from tests.pipeline.trainings import run
from tests.scans import chest


def test_validation_in_bfloat16_rounds_the_output_and_no_error() -> None:
    settings = cell(2, precision="bfloat16", norm="group", residual=False, ms_ssim_weight=0.5, scaling="unit")
    torch.manual_seed(0)
    network = build_network(settings).eval()
    step = TrainingStep(settings, network, network, StepClock(torch.device("cpu")), low_precision=True)
    low, full = torch.rand(2, 2, 64, 64)
    errors = step.judge(low, full, torch.tensor([[-1024.0, 4096.0], [-1000.0, 4000.0]]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(low[:, None])
    assert output.dtype == torch.bfloat16
    assert errors["loss"] == float(build_loss(settings.training)(output.float(), full[:, None]))
    squares = (4000 * (output[:, 0].double() - full)).square().sum()
    assert errors["squares"] == pytest.approx(float(squares), rel=1e-9)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "training"),
    [(2, {"scaling": "minmax"}), (2, {"average": 0.3, "precision": "bfloat16"}), (3, {"norm": "batch", "crop": 32})],
)
def test_by_scans_a_validation_has_the_error_of_what_is_shipped(
    data: Path, tmp_path: Path, dims: int, training: dict[str, Any]
) -> None:
    settings = cell(dims, epochs=1, learning_rate=1e-2, validation="scans", **training)
    validation = run(settings, data, tmp_path)["validation"]
    full, low = (Pair(data / "toy" / "a.zarr").read(name, 24, 40).astype(float) for name in ("full_dose", "low_dose"))
    shipped = load_denoiser(settings, tmp_path, EvaluateSettings(device="cpu", threads=1))(low.astype(np.int16), None)
    assert np.abs(shipped - low).mean() > 1
    rmse = {"rmse_hu": shipped, "low_dose_rmse_hu": low}
    assert validation == pytest.approx({name: np.sqrt(np.mean((x - full) ** 2)) for name, x in rmse.items()}, rel=1e-12)


def test_a_validation_without_noise_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """As of small crops, all of which lie in padding."""
    full = chest(48, 32)
    write_pair(tmp_path / "toy" / "a.zarr", {"full_dose": full, "low_dose": full}, (2.5, 0.7, 0.7), {})
    settings = cell(2, crop=32)
    with pytest.raises(UserError, match=rf"cell {settings.id} is validated where the low dose has no noise, .*\.crop"):
        run(settings, tmp_path, tmp_path / "cell")
    assert not read_metrics(tmp_path / "cell")


def build_step(settings: CellSettings) -> TrainingStep:
    torch.manual_seed(0)
    network = build_network(settings)
    torch.nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.1)
    return TrainingStep(settings, network, network, StepClock(torch.device("cpu")), low_precision=False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_share_the_scans(data: Path, size: int) -> None:
    settings = cell(2, validation="scans")
    segments = [Segment("toy", "a", *limits) for limits in ((0, 9), (9, 25), (25, 30), (30, 48))]
    step = build_step(settings)
    validator = ScanValidator(data, segments, settings, step)
    alone, shared = ([list(validator.judge(step, World(r, n))) for r in range(n)] for n in (1, size))
    assert len(alone[0]) == validator.rounds(World()) == 48
    assert max(map(len, shared)) == validator.rounds(World(0, size))
    assert sorted(map(str, alone[0])) == sorted(str(slices) for rank in shared for slices in rank)


def test_of_several_windows_each_voxel_counts_once(data: Path) -> None:
    settings = cell(3, validation="scans")
    step = build_step(settings)
    (sums,) = ([*ScanValidator(data, [Segment("toy", "a", 5, 42)], settings, step).judge(step, World())],)
    assert len(sums) == 37
    assert sum(x["voxels"] for x in sums) == 37 * 64 * 64
    full, low = (Pair(data / "toy" / "a.zarr").read(name, 5, 42).astype(float) for name in ("full_dose", "low_dose"))
    assert sum(x["low_squares"] for x in sums) == np.square(low - full).sum()


def test_a_change_that_is_no_number_is_an_error_that_is_none(data: Path) -> None:
    settings = cell(2, validation="scans")
    step = build_step(settings)
    validator = ScanValidator(data, [Segment("toy", "a", 0, 2)], settings, step)
    torch.nn.init.constant_(step.model.get_parameter("up.3.reduce.conv.weight"), 3e38)
    assert all(math.isnan(sums["squares"]) for sums in validator.judge(step, World()))


@pytest.mark.slow
def test_windows_of_scans_are_counted_in_operations_and_memory() -> None:
    """A plane of 512 x 512 is four times 16 crops of 64 x 64."""
    crops, two_crops, scans = (
        cell(2, crop=64, epochs=3, ms_ssim_weight=0, **validation)
        for validation in ({"validation_samples": 1}, {"validation_samples": 2}, {"validation": "scans"})
    )
    a_crop = count_operations(two_crops, 4, ()) - count_operations(crops, 4, ())
    assert count_operations(scans, 4, [7, 3]) - count_operations(scans, 4, ()) == pytest.approx(4 * 10 * a_crop)
    rarely = scans.model_copy(update={"training": scans.training.model_copy(update={"validation_epochs": 2})})
    assert count_operations(rarely, 4, [10]) - count_operations(rarely, 4, ()) == pytest.approx(3 * 10 * a_crop)
    by_scans, by_crops = (predict(settings, gpu=False) for settings in (scans, crops))
    assert by_scans.step == by_crops.step + by_scans.weights  # of the copy that is judged
    assert by_scans.validation > 2 * by_crops.validation
