"""The predicted memory of a training step against what a fresh process, or a GPU, is seen to hold."""

import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from data_prep.split import Segment
from pipeline.convolutions.memory_format import lay_out
from pipeline.kernels.choice import kernels_on_all_devices
from pipeline.models.ddnet import DDnet
from pipeline.models.registry import build_network
from pipeline.settings.architectures import architecture_of
from pipeline.settings.cells import CellSettings
from pipeline.settings.training import Norm
from pipeline.training.memory import LiveBytes, SavedBytes, blank_batches, build_step, largest_batch, predict
from pipeline.training.validators import ScanValidator
from tests.pipeline.cells import cell
from tests.pipeline.kernels import needs_triton
from tests.plain_ddnet import PlainDDnet
from tests.ranks import run_ranks
from tests.resident import BetweenOperators, give_back_at_once, resident
from tests.saved_memory import saved_bytes

GIB = 2**30
TOLERANCE = 0.15


def take_step(settings: CellSettings, device: str) -> None:
    gpu = device == "cuda"
    network = lay_out(build_network(settings), settings.dims).to(device)
    build_step(settings, network, gpu=gpu).take(blank_batches(settings), rate=1e-3)


@dataclass(frozen=True)
class Growth:
    """Resident bytes that a step adds: the peak between torch's operators, and within."""

    between: int
    within: int

    def workspace(self, settings: CellSettings) -> float:
        """What operators take besides, in images of 16 channels: bounded, but not predicted.

        oneDNN takes up to 16 of them on processors without AVX-512, and none on newer ones.
        """
        low_dose, *_ = next(blank_batches(settings))
        return (self.within - self.between) / (16 * low_dose.nbytes)


def growth(settings: CellSettings) -> Growth:
    """Measure a step of this process; a small one before it has loaded what is loaded once."""
    torch.set_num_threads(1)
    take_step(settings.model_copy(update={"training": settings.training.model_copy(update={"crop": 32})}), "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    with BetweenOperators() as between:
        take_step(settings, "cpu")
    return Growth(between.peak - before, resident("VmHWM") - before)


def _measure(_rank: int, settings: CellSettings, path: Path) -> None:
    give_back_at_once()
    path.write_text(json.dumps(asdict(growth(settings))))


def measured(settings: CellSettings, folder: Path) -> Growth:
    """In a process of its own."""
    run_ranks(_measure, (settings, folder / "bytes"), 1)
    return Growth(**json.loads((folder / "bytes").read_text()))


reads_peak = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak resident memory is read from Linux's /proc"
)


@pytest.mark.slow
@reads_peak
@pytest.mark.parametrize(
    "training",
    [
        {"dims": 2, "crop": 64, "batch": 8, "norm": "batch"},
        {"slices": 16, "crop": 64, "batch": 2, "ms_ssim": "authors"},
        {"dims": 2, "crop": 128, "batch": 4, "precision": "bfloat16", "norm": "batch"},
        {"crop": 64, "activation_checkpointing": True, "accumulation": 2},
    ],
    ids=lambda training: "-".join(f"{name}={value}" for name, value in training.items()),
)
def test_predicts_resident_memory(training: dict[str, Any], tmp_path: Path) -> None:
    step = measured(cell(**training), tmp_path)
    assert predict(cell(**training), gpu=False).step == pytest.approx(step.between, rel=TOLERANCE)
    assert step.workspace(cell(**training)) < 20 or "precision" in training


@pytest.mark.slow
@reads_peak
@pytest.mark.parametrize(
    ("model", "options"),
    [("unet", {"width": 16}), ("nafnet", {"width": 16, "blocks": [1, 1], "middle": 1, "decoder": 1})],
)
def test_predicts_resident_memory_of_narrow_3d_networks(model: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Of small volumes torch's own convolutions take 27 times the image besides: a third of all, or half.

    Without AVX-512 oneDNN's take 5 times the image.
    """
    sizes = architecture_of(model).options(**options).model_dump()
    settings = cell(crop=64, norm="group").model_copy(update={"model": model, "options": sizes})
    step = measured(settings, tmp_path)
    assert predict(settings, gpu=False).step == pytest.approx(step.between, rel=TOLERANCE)
    assert step.workspace(settings) < 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: max_memory_allocated against the prediction")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predicts_gpu_memory(precision: str, checkpointing: bool) -> None:
    settings = cell(crop=256, precision=precision, activation_checkpointing=checkpointing)
    take_step(cell(crop=32), "cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    take_step(settings, "cuda")
    held = torch.cuda.max_memory_allocated() - before
    assert predict(settings, gpu=True).step == pytest.approx(held, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        {"norm": "group", "average": 0.1},
        {"norm": "sync"},
        {"precision": "bfloat16", "activation_checkpointing": True, "crop": 16},
    ],
)
def test_fake_tensors_hold_to_the_byte_what_real_ones_do(training: dict[str, Any]) -> None:
    settings = cell(**{"crop": 32, **training})
    network = lay_out(build_network(settings), 3)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    with LiveBytes() as live:
        network.to_empty(device="cpu").load_state_dict(weights)
        step = build_step(settings, network, gpu=False)
        peak = live.peak_of(lambda: step.take(blank_batches(settings), rate=1e-3))
    assert peak == predict(settings, gpu=False).step


def _collect_garbage(*_arguments: object) -> None:
    """The interpreter keeps images for a while."""
    gc.collect()


@pytest.mark.slow
@needs_triton
def test_with_kernels_of_gpus_too() -> None:
    """In Triton's interpreter; bfloat16, in which autocast has every type of number, and blocks computed twice."""
    settings = cell(2, crop=32, norm="group", precision="bfloat16", activation_checkpointing=True)
    network = lay_out(build_network(settings), 2)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    with LiveBytes() as live, kernels_on_all_devices():
        network.register_forward_pre_hook(_collect_garbage)
        network.register_forward_hook(_collect_garbage)
        saved = SavedBytes(network, live)
        network.to_empty(device="cpu").load_state_dict(weights)
        step = build_step(settings, network, gpu=True)
        peak = live.peak_of(lambda: step.take(blank_batches(settings), rate=1e-3))
    gc.disable()  # what is computed twice is freed without it
    try:
        predicted = predict(settings, gpu=True)
    finally:
        gc.enable()
    is_old = torch.__version__ < "2.13"  # 2.8 keeps a number, and products of matrices, that hold no data for longer
    assert 0 <= predicted.step - peak <= (4 if is_old else 0)
    assert 0 <= predicted.saved - saved.count <= (11_140 if is_old else 0)


def test_counts_storages_once_and_until_they_are_freed() -> None:
    with LiveBytes() as live:
        a = torch.ones(1000)
        view, b = a[10:].reshape(-1, 2), a + 1
        assert live.current == 8000
        del a, b
        assert live.current == 4000  # the view keeps it
        view.add_(1)
        del view
    assert (live.current, live.peak) == (0, 8000)


@pytest.mark.slow
def test_weights_moments_and_shared_gradients() -> None:
    alone, shared = (predict(cell(ranks=ranks, crop=32, average=None), gpu=False) for ranks in (1, 2))
    network = build_network(cell())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    counters = 4 * len(list(network.parameters()))  # Adam's number of steps, beside each parameter
    assert alone.parameters == 2_619_155
    assert alone.weights == 4 * alone.parameters + buffers
    assert alone.optimiser == 2 * 4 * alone.parameters + counters
    assert shared.optimiser - alone.optimiser == 4 * alone.parameters
    averaged = predict(cell(crop=32, average=0.1), gpu=False)
    assert averaged.optimiser - alone.optimiser == alone.weights
    assert averaged.step - alone.step == averaged.validation - alone.validation == alone.weights


@pytest.mark.slow
@pytest.mark.parametrize("average", [None, 0.1])
def test_a_validation_by_whole_scans_holds_a_copy_of_the_network(average: float | None, data: Path) -> None:
    crops, scans = (cell(2, average=average, validation=way) for way in ("crops", "scans"))
    with LiveBytes() as live:
        step = build_step(scans, lay_out(build_network(scans), 2), gpu=False)
        before = live.current
        validator = ScanValidator(data, [Segment("toy", "a", 0, 2)], scans, step)
        copied = live.current - before
        del validator
    predicted, less = (predict(settings, gpu=False) for settings in (scans, crops))
    assert copied == predicted.weights == predicted.optimiser - less.optimiser == predicted.step - less.step > 0


@pytest.mark.slow
def test_checkpointing_keeps_a_sixth_or_less() -> None:
    sides = (1, 1, 16, 512, 512)
    assert saved_bytes(PlainDDnet(3), sides) / GIB == pytest.approx(6.7, abs=0.3)  # measured with the authors' code
    assert saved_bytes(DDnet(3, checkpointing=True), sides) * 6 < saved_bytes(PlainDDnet(3), sides)


@pytest.mark.slow
def test_tracing_allocates_next_to_nothing() -> None:
    before = resident("VmRSS")
    assert predict(cell(slices=32, crop=512), gpu=False).peak > 8 * GIB
    assert resident("VmRSS") - before < GIB // 4


@pytest.mark.slow
@pytest.mark.parametrize("norm", get_args(Norm))
def test_no_operator_runs_on_real_tensors(norm: Norm) -> None:
    """Also those for which torch knows no shapes, and would run them to find out: gigabytes at this size."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    assert predict(cell(slices=32, crop=512, norm=norm), gpu=True).peak > 3 * GIB
    assert resident("VmHWM") - before < GIB // 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "training", "usable"),
    [
        ("ddnet", {"slices": 16, "crop": 512, "activation_checkpointing": True}, 35 * GIB),
        ("redcnn", {"dims": 2, "crop": 64, "batch": 4}, 2 * GIB),
        ("redcnn", {"dims": 2, "crop": 256, "batch": 8}, 7 * GIB),
    ],
)
def test_largest_batch_is_the_last_that_fits(model: str, training: dict[str, Any], usable: int) -> None:
    def with_batch(count: int) -> CellSettings:
        return cell(**{**training, "batch": count}).model_copy(update={"model": model})

    batch = largest_batch(with_batch(training.get("batch", 1)), usable)
    fits, fits_not = (predict(with_batch(count), gpu=True).peak for count in (batch, batch + 1))
    assert batch > 1
    assert fits <= usable < fits_not


def test_weights_that_no_machine_holds_are_predicted_too() -> None:
    width = 100_000
    large = cell(2, crop=64).model_copy(update={"model": "redcnn", "options": {"width": width}})
    memory = predict(large, gpu=True)
    assert memory.weights == 4 * memory.parameters == 4 * (8 * (25 * width + 1) * width + 2 * 25 * width + width + 1)


@pytest.mark.slow
def test_no_batch_fits() -> None:
    assert largest_batch(cell(slices=32, crop=512), 2 * GIB) == 0
