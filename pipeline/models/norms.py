"""Normalisation of channels by a batch's statistics (of one rank or of all ranks), by fixed ones, or by groups."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.kernels.choice import uses_kernels
from pipeline.kernels.group_norm import group_norm
from pipeline.settings.training import Norm

GROUP_CHANNELS = 16


class Statistics(NamedTuple):
    """Mean and variance of sets of samples; each set is normalised by its statistics.

    ``mean``, ``variance``: (sets, channels), the same within each group of ``group_size`` neighbouring channels.
    """

    mean: Tensor
    variance: Tensor
    group_size: int


class GroupNorm(nn.GroupNorm):
    """Normalisation of each sample by itself, sixteen channels at a time (Wu and He 2018, arXiv:1803.08494)."""

    is_fixed = is_shared = False

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // GROUP_CHANNELS), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, sides)."""
        if uses_kernels(x):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(x)

    def standardise(self, x: Tensor) -> Tensor:
        """Bring x to zero mean and unit variance, without the layer's scale and shift."""
        if uses_kernels(x):
            return group_norm(x, self.num_groups, None, None, self.eps)
        return F.group_norm(x, self.num_groups, eps=self.eps)

    def statistics(self, x: Tensor) -> Statistics:
        """Measure the statistics of each sample of (batch, channels, sides)."""
        moments = [torch.batch_norm_update_stats(sample, None, None, 0.0) for sample in x.split(1)]
        means, variances = (
            torch.stack(samples).unflatten(1, (self.num_groups, -1)) for samples in zip(*moments, strict=True)
        )
        mean = means.mean(2, keepdim=True).expand_as(means)
        variance = (variances + (means - mean).square()).mean(2, keepdim=True).expand_as(means)
        return Statistics(mean.flatten(1), variance.flatten(1), means.shape[2])

    def scale_and_shift(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Return what the layer does to samples of these statistics: scale * x + shift, each (samples, channels)."""
        scale = self.weight * torch.rsqrt(statistics.variance + self.eps)
        return scale, self.bias - statistics.mean * scale


class BatchNorm(_BatchNorm):
    """Batch norm of any number of dimensions.

    Args:
        channels: of the input.
        frozen: the layer uses its running statistics in training too, and does not change them.
        sync: in training, the statistics are those of all ranks' samples, on CPUs as on GPUs.
    """

    def __init__(self, channels: int, *, frozen: bool = False, sync: bool = False) -> None:
        super().__init__(channels)
        self.frozen, self.sync, self.updates = frozen, sync, True
        self.training = not frozen

    @property
    def is_fixed(self) -> bool:
        """Whether the layer does the same to every input now: :meth:`scale_and_shift`."""
        return not self.training

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; a frozen layer stays in eval mode."""
        return super().train(mode and not self.frozen)

    @property
    def is_shared(self) -> bool:
        """Whether the statistics are those of all ranks now; gradients then pass between ranks too."""
        return self.sync and self.training

    def statistics(self, x: Tensor) -> Statistics:
        """Measure (batch, channels, sides) for a training step and update the running statistics."""
        mean, variance = torch.batch_norm_update_stats(x, self.running_mean, self.running_var, self._update_share())
        return Statistics(mean[None], variance[None], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, sides)."""
        if self.is_shared:
            shift, scale = _as_channels(self.bias, x), _as_channels(self.weight, x)
            return torch.addcmul(shift, self.standardise(x), scale).to(x.dtype)
        return self._normalise(x, self.weight, self.bias)

    def standardise(self, x: Tensor) -> Tensor:
        """Bring x to zero mean and unit variance, without the layer's scale and shift."""
        if not self.is_shared:
            return self._normalise(x, None, None)
        precise = x.to(self.weight.dtype)  # of bfloat16 no statistics are taken
        mean, variance = self._statistics_of_ranks(precise)
        return ((precise - _as_channels(mean, x)) * _as_channels(torch.rsqrt(variance + self.eps), x)).to(x.dtype)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return what the layer does while it is fixed: scale * x + shift, each (channels,)."""
        assert self.running_var is not None
        assert self.running_mean is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - scale * self.running_mean

    def _normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, self._update_share(), self.eps
        )

    def _update_share(self) -> float:
        """Share of the new batch in the running statistics."""
        assert self.momentum is not None
        return self.momentum if self.updates else 0.0

    def _statistics_of_ranks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the samples of all ranks, which are equally many (Chan et al. 1979)."""
        local = torch.stack(torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
        has_peers = dist.is_initialized() and dist.get_world_size() > 1
        variances, means = (_of_all_ranks(local) if has_peers else local[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._update(mean.detach(), variance.detach(), x.numel() // x.shape[1] * len(means))
        return mean, variance

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_var is not None
        assert self.running_mean is not None
        self.running_mean.lerp_(mean, self._update_share())
        self.running_var.lerp_(variance * count / (count - 1), self._update_share())


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ranks = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, x)
        return torch.stack(ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _of_all_ranks(x: Tensor) -> Tensor:
    """Stack the contiguous tensors of all ranks; the gradient of each is summed over all of them."""
    ranks: Tensor = _AllGather.apply(x)  # type: ignore[no-untyped-call]
    return ranks


ChannelNorm = BatchNorm | GroupNorm


def build_norm(kind: Norm, channels: int) -> ChannelNorm:
    """Build the normalisation of (batch, ``channels``, sides) with any number of sides."""
    if kind == "group":
        return GroupNorm(channels)
    return BatchNorm(channels, frozen=kind == "frozen", sync=kind == "sync")


def fixed_norm(sd: float) -> BatchNorm:
    """Build the normalisation of one channel by zero mean and this standard deviation, which no input changes."""
    norm = BatchNorm(1, frozen=True)
    assert norm.running_var is not None
    norm.running_var.fill_(sd**2)
    return norm


def pool_statistics(parts: Sequence[tuple[int, Statistics]]) -> Statistics:
    """Compute the statistics of an image from the sizes and statistics of its parts (Chan et al. 1979)."""
    sizes = torch.tensor([size for size, _ in parts], dtype=torch.float64, device=parts[0][1].mean.device)
    share = (sizes / sizes.sum())[:, None, None]
    means, variances = (torch.stack([getattr(part, name) for _, part in parts]) for name in ("mean", "variance"))
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return Statistics(mean.to(means.dtype), variance.to(means.dtype), parts[0][1].group_size)


def normalise(norm: ChannelNorm, x: Tensor) -> Tensor:
    """Normalise the image; where no gradient needs ``x``, its memory holds the output."""
    if not is_scale_and_shift(norm, x):
        y: Tensor = norm(x)
        return y
    return apply_scale_and_shift(x, *scale_and_shift_of(norm, [x]))


def is_scale_and_shift(norm: ChannelNorm, x: Tensor) -> bool:
    """Whether the norm can be computed as a scale and a shift of ``x`` in place.

    That needs fixed statistics or those of each sample, no gradient, and the precision of the norm's weights. In
    torch.compile each would end a graph.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled(x.device.type) or x.dtype != norm.weight.dtype:
        return False
    return isinstance(norm, GroupNorm) or norm.is_fixed


def scale_and_shift_of(norm: ChannelNorm, parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the norm does to an image, where :func:`is_scale_and_shift`; ``parts``: rows of the image each."""
    if isinstance(norm, GroupNorm):
        return norm.scale_and_shift(pool_statistics([(part.shape[-2], norm.statistics(part)) for part in parts]))
    return norm.scale_and_shift()


def apply_scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``scale * x + shift`` in the memory of ``x``; scale and shift: (channels,) or (samples, channels)."""
    shape = -1, x.shape[1], *[1] * (x.dim() - 2)
    return torch.addcmul(shift.reshape(shape), x, scale.reshape(shape), out=x)


def _as_channels(vector: Tensor, x: Tensor) -> Tensor:
    """View (channels,) in the shape that broadcasts against (batch, channels, sides)."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


@contextmanager
def held_statistics(module: nn.Module) -> Iterator[None]:
    """Hold the module's running statistics, so that a block that is computed again does not update them twice."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.updates = False
    try:
        yield
    finally:
        for layer in layers:
            layer.updates = True
