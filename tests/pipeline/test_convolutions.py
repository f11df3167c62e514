"""Each pass of a convolution is computed by the quickest algorithm that is right; never by a wrong one."""

import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from pipeline.convolutions.algorithms import ALGORITHMS, LIBRARY, WIDE, Algorithm
from pipeline.convolutions.choice import OutputAlgorithms, choose, from_rows, to_rows
from pipeline.convolutions.layers import Conv2d, Conv3d, ConvTranspose2d, use_algorithms
from pipeline.convolutions.memory_format import lay_out
from pipeline.convolutions.needs import NeedsCollector
from pipeline.convolutions.shape import PASSES, ConvolutionShape, Pass
from pipeline.convolutions.trial import TOLERANCE, Trial, filled_memory, quickest, try_algorithms
from pipeline.models import REDCNN, DDnet, build_network
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.convolutions import convolutions_of
from tests.pipeline.algorithms import other_algorithms
from tests.pipeline.cells import cell
from tests.pipeline.trainings import CPU, Halted, assert_same_losses, losses, run, train_ranks

SHAPES = {
    "dense": ConvolutionShape(2, 64, 16, 5, 2, (4, 6, 8), "float32"),
    "up": ConvolutionShape(1, 32, 32, 5, 2, (1, 4, 2), "float32"),
    "stem": ConvolutionShape(2, 2, 16, 7, 3, (8, 5, 9), "float32"),
    "stem of slices": ConvolutionShape(3, 2, 16, 7, 3, (12, 9), "float32"),
    "RED-CNN": ConvolutionShape(2, 3, 5, 5, 0, (9, 8), "float32"),
    "pixel": ConvolutionShape(2, 80, 16, 1, 0, (3, 4, 5), "float32"),
}
ALONE: Mapping[Pass, Mapping[str, Algorithm]] = {name: {LIBRARY: ALGORITHMS[name][LIBRARY]} for name in PASSES}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def passes(shape: ConvolutionShape, dtype: torch.dtype) -> dict[Pass, tuple[Tensor, ...]]:
    """Return random operands of each pass, and behind them its result by autograd in float64."""
    generator = torch.Generator().manual_seed(1)
    x, weight, gradient = (
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in (
            (shape.batch, shape.channels_in, *shape.sides),
            (shape.channels_out, shape.channels_in, *[shape.kernel] * shape.dims),
            (shape.batch, shape.channels_out, *shape.output_sides),
        )
    )
    y = (nn.functional.conv2d if shape.dims == 2 else nn.functional.conv3d)(x, weight, padding=shape.padding)
    exact = dict(zip(PASSES, (y, *torch.autograd.grad(y, (x, weight), gradient)), strict=True))
    x, weight, gradient = (tensor.detach().to(dtype) for tensor in (x, weight, gradient))
    return {
        name: ((x, weight) if name == "output" else (gradient, x, weight)) + (exact[name].detach(),) for name in PASSES
    }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_algorithms_agree_with_float64(shape: ConvolutionShape) -> None:
    for name, (*operands, exact) in passes(shape, torch.float32).items():
        for algorithm in ALGORITHMS[name].values():
            if algorithm.applies(shape):
                output = algorithm.compute(shape, *operands)
                assert output.shape == exact.shape
                assert float((output - exact).abs().max() / exact.abs().max()) < 1e-5


@pytest.mark.parametrize("name", PASSES)
def test_wide_algorithms_round_once_also_within_autocast(name: Pass) -> None:
    *operands, _ = passes(SHAPES["dense"], torch.bfloat16)[name]
    exact = ALGORITHMS[name][LIBRARY].compute(SHAPES["dense"], *(operand.double() for operand in operands))
    with torch.autocast("cpu", torch.bfloat16):
        output = ALGORITHMS[name][WIDE].compute(replace(SHAPES["dense"], precision="bfloat16"), *operands)
    assert output.dtype == torch.bfloat16
    step = 2.0 ** (exact.abs().log2().floor() - 7)  # between neighbouring numbers of eight bits
    error = (output.double() - exact).abs() - 1e-6 * exact.abs().max()
    assert float((error / step).max()) < 0.5


def test_each_pass_of_the_network_has_a_choice_where_few_channels_or_planes_are_slow() -> None:
    counts = {
        key: [sum(algorithm.applies(shape) for algorithm in ALGORITHMS[name].values()) for name in PASSES]
        for key, shape in SHAPES.items()
    }
    assert counts == {
        "dense": [1, 2, 3], "up": [1, 2, 2], "stem": [3, 2, 5], "stem of slices": [3, 2, 4], "RED-CNN": [1, 2, 2],
        "pixel": [1, 1, 1],
    }  # fmt: skip


def slowed(seconds: float) -> Algorithm:
    def compute(shape: ConvolutionShape, *operands: Tensor) -> Tensor:
        time.sleep(seconds)
        return ALGORITHMS["weight gradient"][LIBRARY].compute(shape, *operands)

    return Algorithm(compute)


def spoilt(spoil: Callable[[Tensor], object]) -> Algorithm:
    """Return an algorithm whose numbers are changed in place."""

    def compute(shape: ConvolutionShape, *operands: Tensor) -> Tensor:
        output = ALGORITHMS["weight gradient"][LIBRARY].compute(shape, *operands)
        spoil(output)
        return output

    return Algorithm(compute)


def broken(shape: ConvolutionShape, *operands: Tensor) -> Tensor:
    raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nand lines of stack")


def unwritten(shape: ConvolutionShape, *operands: Tensor) -> Tensor:
    """Add what lies in free memory: nothing on new memory."""
    output = ALGORITHMS["weight gradient"][LIBRARY].compute(shape, *operands)
    return output + torch.empty_like(output)


SCALES = itertools.cycle((1, 1 + 1 / 64))  # differ in bfloat16, and are both within the tolerance
WRONG = {
    "too large": spoilt(lambda output: output.mul_(1.05)),
    "zero": spoilt(lambda output: output.zero_()),
    "without a plane": spoilt(lambda output: output[:, :, 0].zero_()),
    "wrong in one number": spoilt(lambda output: output.view(-1)[7].add_(output.abs().max())),
    "not a number": spoilt(lambda output: output.view(-1)[7].fill_(float("nan"))),
    "infinite": spoilt(lambda output: output.view(-1)[7].fill_(float("inf"))),
    "never the same": spoilt(lambda output: output.view(-1)[7].mul_(next(SCALES))),
    "of memory that it did not write": Algorithm(unwritten),
    "broken": Algorithm(broken),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_quickest_right_algorithm_is_taken_and_no_wrong_one_however_quick(precision: str) -> None:
    shape = replace(SHAPES["stem"], precision=precision)
    slow = {"slow": slowed(0.02), "slower": slowed(0.2), "inapplicable": Algorithm(broken, lambda shape: False)}
    trials = try_algorithms(shape, "weight gradient", CPU, {"weight gradient": {**WRONG, **slow}})
    assert [trial.algorithm for trial in trials] == [*WRONG, "slow", "slower"]
    assert [trial.algorithm for trial in trials if trial.is_right] == ["slow", "slower"]
    best = quickest(trials)
    assert best is not None
    assert best.algorithm == "slow"
    assert min(trial.seconds for trial in trials) < 0.02 <= best.seconds
    assert trials[-3].failure == "CUDNN_STATUS_NOT_SUPPORTED"
    assert quickest(trials[:-2]) is None


def test_float32_is_exact_also_while_a_network_runs_in_low_precision() -> None:
    """Denoising tries algorithms at its first image of a size, within autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        trials = try_algorithms(SHAPES["stem"], "output", CPU)
    assert max(trial.size_error for trial in trials) < 1e-5


def test_new_memory_holds_wrong_numbers_for_a_while() -> None:
    sizes = (7, 1000, 10**6, 10**8 // 4)  # the last is mapped anew
    with filled_memory():
        assert [float(torch.empty(size).min()) > 1e38 for size in sizes] == [True] * len(sizes)
        assert float(torch.empty(1000, dtype=torch.bfloat16).min()) > 1e38
    assert not bool((torch.empty(10**8 // 4) > 1e38).all())


def test_an_algorithm_at_the_tolerance_is_right_and_beyond_it_is_not() -> None:
    at, beyond = (
        Trial("a", 1.0, error, error, repeats=True, tolerance=TOLERANCE["bfloat16"]) for error in (0.03, 0.031)
    )
    assert at.is_right
    assert not beyond.is_right


def test_a_convolution_that_no_algorithm_computes_right_is_refused_in_a_sentence() -> None:
    shape = replace(SHAPES["dense"], precision="bfloat16")
    table = {**ALONE, "weight gradient": {"library": WRONG["too large"], "planar": WRONG["zero"]}}
    with pytest.raises(UserError) as refused:
        choose({shape: PASSES}, CPU, table)
    assert str(refused.value).startswith("convolutions in bfloat16 are wrong on this machine (")
    assert str(refused.value).endswith(
        "): no algorithm (library, planar) computes the weight gradient of one (64 to 16 channels, kernel 5 x 5 x 5, "
        "at 4 x 6 x 8) as float32 does; take training.precision: float32"
    )


def test_the_choice_is_measured_once_a_machine(tmp_path: Path) -> None:
    shape = replace(SHAPES["up"], precision="bfloat16")
    first = {**ALONE, "output": {"first": ALGORITHMS["output"][LIBRARY]}}
    chosen = choose({shape: ("output",)}, CPU, first)
    assert chosen == {shape: {"output": "first"}}
    assert choose({shape: ("output",)}, CPU, {"output": {}}) == chosen  # nothing is measured again
    both_shapes = choose({shape: PASSES, SHAPES["stem"]: ("output",)}, CPU, ALONE)
    assert both_shapes[shape]["output"] == "first"
    assert choose({SHAPES["stem"]: ("output",)}, CPU, {"output": {}}) == {SHAPES["stem"]: {"output": LIBRARY}}
    (path,) = (tmp_path / "cache/quarterdose/convolutions").iterdir()
    path.write_bytes(path.read_bytes()[:-5])  # a broken cache counts as none
    assert choose({shape: ("output",)}, CPU, ALONE) == {shape: {"output": LIBRARY}}


def test_denoising_chooses_when_a_shape_appears() -> None:
    network, x = Conv2d(2, 16, 7, padding=3), torch.randn(1, 2, 9, 8)
    with torch.inference_mode():
        exact = network(x)
        algorithms = OutputAlgorithms(CPU)
        use_algorithms(network, algorithms)
        assert torch.allclose(network(x), exact, atol=1e-6)
    assert [(shape.sides, list(names)) for shape, names in algorithms.items()] == [((9, 8), ["output"])]


def test_a_choice_survives_as_plain_values() -> None:
    chosen: dict[ConvolutionShape, dict[Pass, str]] = {
        shape: {"output": "lowered", "weight gradient": "planar"} for shape in SHAPES.values()
    }
    assert from_rows(json.loads(json.dumps(to_rows(chosen)))) == chosen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "dims"),
    [(lambda: DDnet(3, norm="frozen"), 3), (lambda: DDnet(2, norm="frozen"), 2), (REDCNN, 2)],
    ids=["3D", "2D", "RED"],
)
def test_a_network_computes_the_same_by_any_algorithms(build: Callable[[], nn.Module], dims: int) -> None:
    """A gradient sums as many rounded products as there are voxels: in which order depends on the processor."""
    torch.manual_seed(0)
    network, x = build(), torch.randn(2, 1, *([16] if dims == 3 else []), 32, 32)
    exact = run_network(copy.deepcopy(network).double(), dims, x.double())
    with NeedsCollector() as collected:
        run_network(network, dims, x)
    use_algorithms(network, other_algorithms(collected.needs))
    rounding = torch.finfo(torch.float32).eps * math.sqrt(x.numel())
    for ours, right, bound in zip(run_network(network, dims, x), exact, (1e-5, 2 * rounding), strict=True):
        assert (ours - right).norm() < bound * right.norm()


def run_network(network: nn.Module, dims: int, x: Tensor) -> tuple[Tensor, Tensor]:
    lay_out(network, dims).zero_grad()
    y = network(x)
    y.square().mean().backward()
    return y.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_without_a_choice_layers_are_torchs_to_the_bit() -> None:
    torch.manual_seed(0)
    ours = [Conv2d(3, 4, 5, padding=2), Conv3d(3, 4, 5, padding=2), ConvTranspose2d(3, 4, 5)]
    theirs = [nn.Conv2d(3, 4, 5, padding=2), nn.Conv3d(3, 4, 5, padding=2), nn.ConvTranspose2d(3, 4, 5)]
    for layer, exact in zip(ours, theirs, strict=True):
        exact.load_state_dict(layer.state_dict())
        x = torch.randn(2, 3, *[8] * (layer.weight.dim() - 2))
        assert torch.equal(layer(x), exact(x))


FLAT = cell(2, precision="bfloat16", norm="group")


@pytest.mark.slow
def test_every_convolution_of_a_training_has_its_passes_collected() -> None:
    needs = convolutions_of(FLAT, gpu=False)
    layers = [layer for layer in build_network(FLAT).modules() if isinstance(layer, Conv2d)]
    assert {shape.kernel for shape in needs} == {layer.kernel_size[0] for layer in layers}
    assert {shape.channels_out for shape in needs} == {layer.out_channels for layer in layers}
    assert {shape.sides for shape in needs} == {(side, side) for side in (1, 2, 4, 8, 16)}
    assert {shape.batch for shape in needs} == {1, FLAT.validated}  # of training and of validation
    assert {shape.precision for shape in needs} == {"bfloat16"}
    for shape, names in needs.items():
        trained = ("output", "weight gradient") if shape.channels_in == 2 else PASSES
        assert names == (trained if shape.batch == 1 else ("output",))
    assert {shape.precision for shape in convolutions_of(cell(2), gpu=True)} == {"bfloat16"}


@pytest.mark.slow
def test_a_training_in_bfloat16_is_right(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    """Some processors' gradients of 3D convolutions are wrong where there are few planes."""
    rounded, exact = (cell(3, precision=name, norm="group", epochs=1) for name in ("bfloat16", "float32"))
    data = make_pair()
    ends = [run(x, data, tmp_path / x.training.precision) for x in (rounded, exact)]
    assert ends[0]["validation"]["rmse_hu"] == pytest.approx(ends[1]["validation"]["rmse_hu"], rel=0.02)
    assert ends[1]["convolutions"] is None
    assert newest_state(tmp_path / "bfloat16")["convolutions"] == ends[0]["convolutions"]
    assert from_rows(ends[0]["convolutions"]["algorithms"]).keys() == convolutions_of(rounded, gpu=False).keys()


def table(name: Pass) -> dict[str, Algorithm]:
    algorithms = ALGORITHMS[name]
    assert isinstance(algorithms, dict)
    return algorithms


def newest_state(folder: Path) -> dict[str, Any]:
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.newest()
    assert step
    return checkpoints.load(step)


def plant_choice(folder: Path, choice: Any) -> None:
    """Let the newest checkpoint say that the training started with another choice of algorithms."""
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.newest()
    assert step
    checkpoints.save(step, {**checkpoints.load(step), "convolutions": choice}, keep=1)


def with_negative_gradients(choice: Any) -> Any:
    """Return the choice with a planted algorithm for gradients of weights, which shows in the losses."""
    for row in choice["algorithms"]:
        if row["kernel"] > 1 and "weight gradient" in row:
            row["weight gradient"] = "negative"
    return choice


@pytest.mark.slow
def test_a_training_goes_on_by_the_algorithms_with_which_it_started(
    make_pair: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, settings = make_pair(), cell(2, precision="bfloat16", norm="group", epochs=1, checkpoint_steps=1)
    monkeypatch.setitem(table("weight gradient"), "negative", spoilt(lambda output: output.neg_()))
    first, straight, stopped = (tmp_path / name for name in ("first", "straight", "stopped"))
    choice = with_negative_gradients(run(settings, data, first)["convolutions"])
    for folder in (straight, stopped):
        with pytest.raises(Halted):
            run(settings, data, folder, stop_at=1)
        plant_choice(folder, choice)
    with pytest.raises(Halted):
        run(settings, data, stopped, stop_at=2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))  # of another user, where nothing was measured
    for folder in (straight, stopped):
        assert run(settings, data, folder)["convolutions"] == choice
    assert_same_losses(stopped, straight)
    assert losses(straight) != losses(first)


@pytest.mark.slow
def test_on_another_machine_algorithms_are_chosen_anew(
    make_pair: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = make_pair(), tmp_path / "cell"
    run(FLAT, data, folder)
    choice = newest_state(folder)["convolutions"]
    plant_choice(folder, {**choice, "machine": {"device": "Tesla T4"}})
    assert run(FLAT, data, folder)["convolutions"]["machine"] == choice["machine"]
    assert "began on another device or library, so its last bits may differ" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.ranks
def test_all_ranks_compute_by_the_algorithms_of_rank_0(make_pair: Callable[..., Path], tmp_path: Path) -> None:
    data, folder = make_pair(), tmp_path / "cell"
    results = train_ranks(cell(2, ranks=2, precision="bfloat16", norm="group", epochs=1), data, folder)
    assert results[0]["convolutions"] == results[1]["convolutions"] == newest_state(folder)["convolutions"]
