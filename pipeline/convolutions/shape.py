"""Sizes of a convolution, and its passes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from pipeline.convolutions.memory_format import channels_last

Pass = Literal["output", "input gradient", "weight gradient"]
PASSES: tuple[Pass, ...] = get_args(Pass)


@dataclass(frozen=True)
class ConvolutionShape:
    """Sizes of a convolution of stride 1 whose kernel and padding are the same along all axes.

    ``sides``: of the input, with its padding where that differs between the axes; ``padding`` is then 0.
    ``precision``: the numbers' type by torch's name.
    """

    batch: int
    channels_in: int
    channels_out: int
    kernel: int
    padding: int
    sides: tuple[int, ...]
    precision: str

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Self:
        """Return the shape of a convolution of (batch, in, sides) by (out, in, kernel); ``padding``: by axis."""
        batch, channels_in, *sides = x.shape
        uniform = padding[0]
        if set(padding) != {uniform}:
            sides = [side + 2 * zeros for side, zeros in zip(sides, padding, strict=True)]
            uniform = 0
        return cls(
            batch, channels_in, weight.shape[0], weight.shape[-1], uniform, tuple(sides), str(x.dtype).split(".")[-1]
        )

    @staticmethod
    def describes(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
        """Whether a convolution of these sizes, each by axis, has a shape: those without have no algorithms."""
        return {*stride, *dilation, groups} == {1} and len(set(kernel)) == 1

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a shape from plain values, as :meth:`to_row` writes them."""
        return cls(**{**{name: row[name] for name in cls.__dataclass_fields__}, "sides": tuple(row["sides"])})

    def to_row(self) -> dict[str, Any]:
        """Return the sizes by name, as plain values."""
        return {**asdict(self), "sides": list(self.sides)}

    @property
    def dims(self) -> int:
        """Number of axes: 2 or 3."""
        return len(self.sides)

    @property
    def memory_format(self) -> torch.memory_format:
        """Torch's name of the order of images and kernels in memory: channels last."""
        return channels_last(self.dims)

    @property
    def keeps_sides(self) -> bool:
        """Whether the output has the sides of the input."""
        return 2 * self.padding == self.kernel - 1

    @property
    def output_sides(self) -> tuple[int, ...]:
        """Sides of the output."""
        return tuple(side + 2 * self.padding - self.kernel + 1 for side in self.sides)

    @property
    def operations(self) -> int:
        """Floating-point operations of a pass; a multiplication and an addition are two."""
        products = self.batch * self.channels_in * self.channels_out * self.kernel**self.dims
        return 2 * int(products) * math.prod(self.output_sides)

    def __str__(self) -> str:
        kernel, sides = (" x ".join(map(str, sizes)) for sizes in ([self.kernel] * self.dims, self.sides))
        return f"{self.channels_in} to {self.channels_out} channels, kernel {kernel}, at {sides}"
