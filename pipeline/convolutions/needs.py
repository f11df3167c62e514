"""The convolutions that run in a program, collected as they run."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.convolutions.described import as_described
from pipeline.convolutions.shape import PASSES, ConvolutionShape, Pass

Needs = Mapping[ConvolutionShape, tuple[Pass, ...]]
"""By shape, the passes that are computed."""


class NeedsCollector(TorchDispatchMode):
    """Collects the convolutions that torch runs under it, in the order of their first run.

    Those that :class:`ConvolutionShape` does not describe are not collected, since torch's own are taken for them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._passes = dict[ConvolutionShape, set[Pass]]()
        self._described = ExitStack()

    def __enter__(self) -> Self:
        self._described.enter_context(as_described())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        self._described.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @property
    def needs(self) -> Needs:
        """The convolutions so far."""
        return {shape: tuple(name for name in PASSES if name in passes) for shape, passes in self._passes.items()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for shape, name in _passes_of(func, args):
            self._passes.setdefault(shape, set()).add(name)
        return func(*args, **(kwargs or {}))


def _passes_of(func: Any, args: tuple[Any, ...]) -> Iterator[tuple[ConvolutionShape, Pass]]:
    if func is torch.ops.aten.convolution.default and ConvolutionShape.describes(
        args[1].shape[2:], args[3], args[5], args[8]
    ):
        yield _shape_of(args[0], args[1], args[4], transposed=args[6]), "output"
    elif func is torch.ops.aten.convolution_backward.default and ConvolutionShape.describes(
        args[2].shape[2:], args[4], args[6], args[9]
    ):
        shape = _shape_of(args[1], args[2], args[5], transposed=args[7])
        yield from ((shape, name) for name, is_needed in zip(PASSES[1:], args[10], strict=False) if is_needed)


def _shape_of(x: Tensor, weight: Tensor, padding: list[int], *, transposed: bool) -> ConvolutionShape:
    if transposed:
        mirrored = [weight.shape[-1] - 1 - side for side in padding]
        return ConvolutionShape.of(x, weight.transpose(0, 1), mirrored)
    return ConvolutionShape.of(x, weight, padding)
