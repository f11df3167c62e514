"""Normalisation of channels: by the batch's statistics (of one rank or of all), by frozen ones, or by groups."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.settings.training import Norm

GROUP_CHANNELS = 16


class Statistics(NamedTuple):
    """Of sets of samples that are normalised apart.

    ``mean``, ``variance``: (sets, channels), alike in the neighbouring channels that are normalised ``together``.
    """

    mean: Tensor
    variance: Tensor
    together: int


class GroupNorm(nn.GroupNorm):
    """Each sample by itself, sixteen channels at a time (Wu and He 2018, arXiv:1803.08494)."""

    fixed = shared = False

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // GROUP_CHANNELS), channels)

    def standardise(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance, without the layer's own scale and shift."""
        return F.group_norm(x, self.num_groups, eps=self.eps)

    def statistics(self, x: Tensor) -> Statistics:
        """What each sample of (batch, channels, sides) is normalised by."""
        moments = [torch.batch_norm_update_stats(sample, None, None, 0.0) for sample in x.split(1)]
        means, variances = (
            torch.stack(ones).unflatten(1, (self.num_groups, -1)) for ones in zip(*moments, strict=True)
        )
        mean = means.mean(2, keepdim=True).expand_as(means)
        variance = (variances + (means - mean).square()).mean(2, keepdim=True).expand_as(means)
        return Statistics(mean.flatten(1), variance.flatten(1), means.shape[2])

    def scale_and_shift(self, found: Statistics) -> tuple[Tensor, Tensor]:
        """What the layer does to samples of these statistics: scale * x + shift, each (samples, channels)."""
        scale = self.weight * torch.rsqrt(found.variance + self.eps)
        return scale, self.bias - found.mean * scale


class BatchNorm(_BatchNorm):
    """Batch norm in any dimension.

    Args:
        channels: of the input.
        frozen: the running statistics are used, and stay as they are, in training too.
        sync: the statistics of a training step are those of all ranks' samples, on CPUs as on GPUs.
    """

    def __init__(self, channels: int, *, frozen: bool = False, sync: bool = False) -> None:
        super().__init__(channels)
        self.frozen, self.sync, self.updates = frozen, sync, True
        self.training = not frozen

    @property
    def fixed(self) -> bool:
        """Whether the layer is now the same map for every input: :meth:`scale_and_shift`."""
        return not self.training

    def train(self, mode: bool = True) -> Self:
        """As every module; a frozen one stays in eval mode."""
        return super().train(mode and not self.frozen)

    @property
    def shared(self) -> bool:
        """Whether the statistics are those of all ranks, through which gradients travel."""
        return self.sync and self.training

    def statistics(self, x: Tensor) -> Statistics:
        """What (batch, channels, sides) is normalised by in a training step; the running ones move."""
        mean, variance = torch.batch_norm_update_stats(x, self.running_mean, self.running_var, self._share())
        return Statistics(mean[None], variance[None], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, sides)."""
        if self.shared:
            return torch.addcmul(_beside(self.bias, x), self.standardise(x), _beside(self.weight, x))
        return self._native(x, self.weight, self.bias)

    def standardise(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance, without the layer's own scale and shift."""
        if not self.shared:
            return self._native(x, None, None)
        mean, variance = self._statistics_of_all(x)
        return (x - _beside(mean, x)) * _beside(torch.rsqrt(variance + self.eps), x)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the layer does when it is fixed: scale * x + shift, each (channels,)."""
        assert self.running_var is not None
        assert self.running_mean is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - scale * self.running_mean

    def _native(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, self._share(), self.eps
        )

    def _share(self) -> float:
        """Share of the batch in the new running statistics."""
        assert self.momentum is not None
        return self.momentum if self.updates else 0.0

    def _statistics_of_all(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over all ranks' samples, of which each rank has as many (Chan et al. 1979)."""
        own = torch.stack(torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
        several = dist.is_initialized() and dist.get_world_size() > 1
        variances, means = torch.stack(all_gather(own) if several else [own]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._update(mean.detach(), variance.detach(), x.numel() // x.shape[1] * len(means))
        return mean, variance

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_var is not None
        assert self.running_mean is not None
        self.running_mean.lerp_(mean, self._share())
        self.running_var.lerp_(variance * count / (count - 1), self._share())


def pooled(parts: Sequence[tuple[int, Statistics]]) -> Statistics:
    """Statistics of images that are joined from parts of these sizes (Chan et al. 1979)."""
    sizes = torch.tensor([size for size, _ in parts], dtype=torch.float64, device=parts[0][1].mean.device)
    share = (sizes / sizes.sum())[:, None, None]
    means, variances = (torch.stack([getattr(part, name) for _, part in parts]) for name in ("mean", "variance"))
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return Statistics(mean.to(means.dtype), variance.to(means.dtype), parts[0][1].together)


def normalised(norm: "ChannelNorm", x: Tensor) -> Tensor:
    """The normalised image; in the memory of ``x``, which is then lost, where no gradient will want it."""
    if not by_scale_and_shift(norm, x):
        y: Tensor = norm(x)
        return y
    return scaled_and_shifted(x, *scale_and_shift(norm, [x]))


def by_scale_and_shift(norm: "ChannelNorm", x: Tensor) -> bool:
    """Whether each sample's own statistics, or fixed ones, are all to heed: no gradient, no lower precision."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or x.dtype != norm.weight.dtype:
        return False
    return isinstance(norm, GroupNorm) or norm.fixed


def scale_and_shift(norm: "ChannelNorm", parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """What the norm does to the image of these parts, some rows each, where :func:`by_scale_and_shift` holds."""
    if isinstance(norm, GroupNorm):
        return norm.scale_and_shift(pooled([(part.shape[-2], norm.statistics(part)) for part in parts]))
    return norm.scale_and_shift()


def scaled_and_shifted(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * x + shift`` in the memory of ``x``; of each channel, or each sample's: (samples, channels)."""
    shape = -1, x.shape[1], *[1] * (x.dim() - 2)
    return torch.addcmul(shift.reshape(shape), x, scale.reshape(shape), out=x)


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """(channels,) shaped to stand beside (batch, channels, sides)."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


ChannelNorm = BatchNorm | GroupNorm


def make_norm(kind: Norm, channels: int) -> ChannelNorm:
    """The normalisation layer of (batch, ``channels``, sides) of any dimension."""
    if kind == "group":
        return GroupNorm(channels)
    return BatchNorm(channels, frozen=kind == "frozen", sync=kind == "sync")


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """While a block is computed again, its running statistics do not move a second time."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.updates = False
    try:
        yield
    finally:
        for layer in layers:
            layer.updates = True
