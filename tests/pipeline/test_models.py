import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data_prep.errors import UserError
from pipeline.convolutions.memory_format import channels_last, lay_out
from pipeline.intensity import ScalingName
from pipeline.models import DDnet, build_network, inflate, load_published
from pipeline.models.convolution import NormedConvolution
from pipeline.models.norms import BatchNorm
from pipeline.settings.names import Fill
from pipeline.settings.training import Norm
from pipeline.training.distributed import joined
from pipeline.training.world import World
from tests.beside import shared_file
from tests.pipeline.cells import cell
from tests.pipeline.networks import SIDES, lively
from tests.plain_ddnet import PlainDDnet
from tests.ranks import run_ranks


@pytest.mark.parametrize(("dims", "count"), [(2, 566_451), (3, 2_619_155)])
@pytest.mark.parametrize("residual", [False, True])
def test_parameter_counts_are_the_papers(dims: int, count: int, residual: bool) -> None:
    assert sum(p.numel() for p in DDnet(dims, residual=residual).parameters()) == count


@cache
def plain_run(dims: int, *, training: bool) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
    """The network written plainly, in float64: weights, an input, its output, the gradients of its error."""
    torch.manual_seed(0)
    plain = lively(PlainDDnet(dims)).double().train(training)
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    x = torch.rand(2, 1, *SIDES[dims], dtype=torch.float64)
    output = plain(x)
    (output - x).square().mean().backward()
    return weights, x, output.detach(), gradients(plain)


def twin(dims: int, weights: dict[str, Tensor], **options: Any) -> DDnet:
    model = DDnet(dims, **options).double()
    load_published(model, {name: value.numpy() for name, value in weights.items()})
    return model


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("training", "bound"), [(False, 1e-12), (True, 1e-10)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_the_network_written_plainly(dims: int, training: bool, bound: float, checkpointing: bool) -> None:
    """Batch statistics of a few values make rounding errors large: 1e-10 is that, of outputs around 1."""
    weights, x, output, _ = plain_run(dims, training=training)
    model = twin(dims, weights, checkpointing=checkpointing).train(training)
    torch.testing.assert_close(model(x), output, rtol=1e-10 if not training else 0, atol=bound)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "frozen", "sync"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_and_statistics_equal_those_of_the_plain_network(dims: int, norm: Norm, checkpointing: bool) -> None:
    """Of the folded norms too, and after blocks were computed twice."""
    weights, x, _, of_plain = plain_run(dims, training=norm != "frozen")
    model = twin(dims, weights, norm=norm, checkpointing=checkpointing).train()
    (model(x) - x).square().mean().backward()
    ours, reference = DDnet(dims).double(), DDnet(dims).double()
    for target, source in ((ours, gradients(model)), (reference, own_names(of_plain, dims))):
        target.load_state_dict(source)
    for name, theirs in reference.state_dict().items():
        assert is_near(ours.state_dict()[name], theirs), name


def is_near(actual: Tensor, expected: Tensor) -> bool:
    return float((actual - expected).double().norm()) <= 1e-6 * float(expected.double().norm())


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """Gradients in the place of parameters, beside the running statistics."""
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    counts = {name: torch.zeros(()) for name, _ in network.named_buffers() if name.endswith("tracked")}
    return {**network.state_dict(), **grads, **counts}


def own_names(published: dict[str, Tensor], dims: int) -> dict[str, Tensor]:
    model = DDnet(dims).double()
    load_published(model, {name: value.numpy() for name, value in published.items()})
    return model.state_dict()


@pytest.mark.slow
def test_frozen_statistics_stay_and_group_norm_does_not_look_at_other_samples() -> None:
    x = torch.rand(2, 1, 16, 16, 16, dtype=torch.float64)
    frozen, group = DDnet(3, norm="frozen").double().train(), DDnet(3, norm="group").double().train()
    before = copy.deepcopy(frozen.state_dict())
    frozen(x)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    torch.testing.assert_close(group(x)[1:], group(x[1:]))
    torch.testing.assert_close(group.eval()(x), group.train()(x))


@pytest.mark.parametrize(("scaling", "sd"), [("hu", 5.0), ("unit", 0.12), ("minmax", 0.12)])
def test_group_norm_leaves_a_sample_its_hu_and_its_noise(scaling: ScalingName, sd: float) -> None:
    """A sample's own mean and deviation would make soft tissue of lung, and noise of 20 HU equal to one of 200."""
    network = build_network(cell(2, norm="group", scaling=scaling)).double()
    assert isinstance(network, DDnet)
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        standard = network.train(training).norm.standardise(3 + 10 * x)
        torch.testing.assert_close(standard, (3 + 10 * x) / sd, rtol=2e-3, atol=0)  # the norm adds 1e-5 to the variance


def _sync_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DDnet(2, norm="sync").double()
    x = torch.rand(2, 1, 32, 48, dtype=torch.float64)
    warnings.simplefilter("error", FutureWarning)
    with joined(World(rank, 2, rank, f"file://{folder}/meet"), torch.device("cpu")):
        ddp = DistributedDataParallel(model)
        (ddp(x[rank : rank + 1]) - x[rank : rank + 1]).square().mean().backward()
    torch.save(gradients(model), folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.ranks
def test_sync_of_two_ranks_is_batch_norm_of_both_their_samples(tmp_path: Path) -> None:
    run_ranks(_sync_rank, (tmp_path,), 2)
    torch.manual_seed(0)
    model = DDnet(2).double()
    x = torch.rand(2, 1, 32, 48, dtype=torch.float64)
    (model(x) - x).square().mean().backward()
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            assert is_near(gradient, gradients(model)[name]), name


def golden(name: str) -> np.ndarray:
    with np.load(shared_file("ddnet/golden_forward.npz")) as arrays:
        return np.asarray(arrays[name])


@pytest.fixture(scope="module")
def published() -> DDnet:
    model = DDnet(2)
    with np.load(shared_file("ddnet/published_2d_weights.npz")) as arrays:
        load_published(model, arrays)
    return model.eval()


def error_to_golden(output: Tensor, name: str) -> np.ndarray:
    return np.asarray(np.abs(output.numpy() - golden(name)))


def close_to_golden(output: Tensor, name: str) -> None:
    """Within 1e-5 at 99 % of the voxels; see the next test for why not at all of them."""
    error = error_to_golden(output, name)
    assert np.sqrt((error**2).mean()) < 2e-6
    assert np.quantile(error, 0.99) < 1e-5
    assert error.max() < 4e-5


@pytest.mark.slow
@torch.no_grad()
def test_the_golden_values_themselves_are_float32_and_1e_5_from_the_exact_output(published: DDnet) -> None:
    """So 1e-5 at every voxel cannot be met: even the same network in float64 is farther off."""
    x = torch.from_numpy(golden("input"))[:, None]
    exact = copy.deepcopy(published).double()(x.double())[:, 0]
    assert 1e-5 < error_to_golden(exact, "output_2d_eval").max() < 2e-5
    plain = PlainDDnet(2).eval()
    with np.load(shared_file("ddnet/published_2d_weights.npz")) as arrays:
        plain.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays})
    assert error_to_golden(plain(x)[:, 0], "output_2d_eval").max() < 4e-5  # 0 on a machine like the one of the arrays


@torch.no_grad()
def test_published_2d_weights_give_the_golden_output(published: DDnet) -> None:
    close_to_golden(published(torch.from_numpy(golden("input"))[:, None])[:, 0], "output_2d_eval")


@torch.no_grad()
def test_inflated_published_weights_give_the_golden_3d_output(published: DDnet) -> None:
    deep = DDnet(3).eval()
    inflate(published, deep)
    close_to_golden(deep(torch.from_numpy(golden("input"))[None, None])[0, 0], "output_3d_zero_inflated_eval")


@torch.no_grad()
@pytest.mark.parametrize("residual", [False, True])
def test_zero_fill_gives_the_2d_output_in_every_slice_of_a_constant_volume(residual: bool) -> None:
    torch.manual_seed(1)
    flat, deep = lively(DDnet(2, residual=residual)).eval(), DDnet(3, residual=residual).eval()
    inflate(flat, deep)
    slice_ = torch.rand(1, 1, 48, 32)
    output = deep(slice_.unsqueeze(2).repeat(1, 1, 32, 1, 1))
    for z in range(32):
        torch.testing.assert_close(output[:, :, z], flat(slice_), rtol=0, atol=1e-4)


@torch.no_grad()
def test_mean_fill_keeps_the_2d_output_far_from_the_ends() -> None:
    flat, deep = DDnet(2), DDnet(3)
    inflate(flat, deep, "mean")
    x = torch.rand(1, 1, 16, 16)
    volume = deep.stem(x.unsqueeze(2).repeat(1, 1, 9, 1, 1))
    torch.testing.assert_close(volume[:, :, 4], flat.stem(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (4, 2, 1), (3, 3, 0), (3, 1, 1), (5, 2, 2)]
)
def test_mean_fill_keeps_the_2d_output_of_transposed_convolutions(kernel: int, stride: int, padding: int) -> None:
    flat = nn.Sequential(nn.ConvTranspose2d(2, 3, kernel, stride, padding, stride - 1))
    deep = nn.Sequential(nn.ConvTranspose3d(2, 3, kernel, stride, padding, stride - 1))
    inflate(flat, deep, "mean")
    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    volume = deep(x.unsqueeze(2).repeat(1, 1, 9, 1, 1))
    for z in range(kernel, volume.shape[2] - kernel):
        torch.testing.assert_close(volume[:, :, z], flat(x), rtol=1e-5, atol=1e-6)


def test_fills_differ_as_they_say() -> None:
    torch.manual_seed(0)
    flat, deep = DDnet(2), DDnet(3)
    kernel, aside = flat.state_dict()["stem.weight"], [0, 1, 2, 4, 5, 6]

    def stem(fill: Fill, seed: int = 0) -> Tensor:
        inflate(flat, deep, fill, seed=seed)
        weight: Tensor = deep.state_dict()["stem.weight"]
        return weight.clone()

    zero, noise = stem("zero"), stem("noise", seed=3)
    assert torch.equal(zero[:, :, 3], kernel)
    assert zero[:, :, aside].abs().max() == 0
    assert all(torch.equal(stem("repeat")[:, :, z], kernel) for z in range(7))
    assert torch.equal(noise[:, :, 3], kernel)
    assert float(noise[:, :, aside].std()) == pytest.approx(0.01 * float(kernel.std()), rel=0.1)
    assert torch.equal(stem("noise", seed=3), noise)
    assert not torch.equal(stem("noise", seed=4), noise)


def test_wrong_transfers_and_weights_are_refused() -> None:
    flat, deep = DDnet(2), DDnet(3)
    with pytest.raises(UserError, match="from 2 to 3 dimensions"):
        inflate(deep, flat)
    with pytest.raises(UserError, match="both networks residual"):
        inflate(flat, DDnet(3, residual=True))
    with pytest.raises(UserError, match="valid: zero, repeat, mean, noise"):
        inflate(flat, deep, "half")  # type: ignore[arg-type]
    arrays = {name: value.numpy() for name, value in PlainDDnet(2).state_dict().items()}
    with pytest.raises(UserError, match=r"lack convT8\.bias"):
        load_published(flat, {name: value for name, value in arrays.items() if name != "convT8.bias"})
    with pytest.raises(UserError, match="1 unknown arrays, first extra"):
        load_published(flat, {**arrays, "extra": np.zeros(1)})
    with pytest.raises(UserError, match="have shape"):
        load_published(deep, arrays)
    with pytest.raises(UserError, match=r"have shape \(3,\), wanted"):
        load_published(flat, {**arrays, "convT1.weight": np.ones(3)})


def test_noise_is_finite_beside_a_kernel_of_one_weight() -> None:
    """Which has no deviation."""
    deep = torch.nn.Conv3d(1, 1, (3, 1, 1))
    inflate(torch.nn.Conv2d(1, 1, 1), deep, "noise")
    assert deep.weight.flatten()[[0, 2]].tolist() == [0, 0]


def test_an_untrained_residual_network_returns_its_input() -> None:
    x = torch.randn(1, 1, 16, 32, 16)
    assert torch.equal(DDnet(3, residual=True)(x), x)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(UserError, match=r"sides \(16, 20\).*multiple of 16"):
        DDnet(2)(torch.zeros(1, 1, 16, 20))


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_come_in_the_order_of_their_kernels(dims: int) -> None:
    """Else DDP copies them into its buckets one by one, and warns of it."""
    network = lay_out(DDnet(dims, residual=True), dims)
    x = torch.rand(1, 1, *[16] * (dims - 2), 32, 32).contiguous(memory_format=channels_last(dims))
    network(x).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.stride() == parameter.stride(), name


def test_statistics_of_all_ranks_are_those_of_float32_for_samples_in_bfloat16() -> None:
    """Of values far from zero, whose variance bfloat16 cannot hold."""
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 8, 8) + 50).bfloat16()
    shared, plain = BatchNorm(3, sync=True).train(), BatchNorm(3).train()
    normalised, expected = shared(x), plain(x.float())
    assert normalised.dtype == torch.bfloat16
    torch.testing.assert_close(normalised.float(), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(shared.running_var, plain.running_var)


@pytest.mark.slow
def test_torch_compiles_a_norm_in_a_validation_without_a_break() -> None:
    """Of a network it made as many pieces as it has norms, and gave up on most, in five lines of its own each."""
    layer, x = lively(NormedConvolution(2, 16, 16, 3, "group")).eval(), torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x.contiguous(memory_format=channels_last(2)))
        torch.testing.assert_close(compiled, layer(x), rtol=1e-4, atol=1e-5)
