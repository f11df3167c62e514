"""Trials of a pass's algorithms on a device: how long each takes, and how far it is from float32 on random images."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.convolutions.algorithms import (
    ALGORITHMS,
    Algorithm,
    library_input_gradient,
    library_output,
    library_weight_gradient,
)
from pipeline.convolutions.shape import ConvolutionShape, Pass

TOLERANCE = {"bfloat16": 0.03, "float16": 0.005, "float32": 0.005}
"""Error above which an algorithm is wrong, relative to the size of the right numbers.

Rounding to bfloat16 gives 0.002, to float16 and TF32 0.0003; wrong gradients were off by 0.8.
"""
LARGEST_TOLERANCE = 0.1
"""Error of a single number above which an algorithm is wrong, relative to the largest right number."""
REPETITIONS = 3
HOPELESS = 3
"""An algorithm that takes so many times the quickest's seconds in its second call is not timed again."""

_M_PERTURB = -6
"""Option of ``mallopt``, from malloc.h: new memory is filled with the complement of a byte; 0 ends it."""

_EXACT: Mapping[Pass, Callable[..., Tensor]] = {
    "output": library_output,
    "input gradient": library_input_gradient,
    "weight gradient": library_weight_gradient,
}


@dataclass(frozen=True)
class Trial:
    """An algorithm's ``seconds`` and errors: relative to the ``size`` of all numbers, and to the ``largest``.

    ``repeats``: it computes the same bits again. ``failure``: the library's reason why it computes nothing, or empty.
    """

    algorithm: str
    seconds: float
    size_error: float
    largest_error: float
    repeats: bool
    tolerance: float
    failure: str = ""

    @property
    def is_right(self) -> bool:
        """Whether a training may use the algorithm; errors may be no numbers."""
        exact = self.size_error <= self.tolerance and self.largest_error <= LARGEST_TOLERANCE
        return exact and self.repeats and not self.failure


def quickest(trials: Sequence[Trial]) -> Trial | None:
    """Return the quickest trial of an algorithm that is right, None if there is none."""
    return min((trial for trial in trials if trial.is_right), key=lambda trial: trial.seconds, default=None)


def try_algorithms(
    shape: ConvolutionShape, computed: Pass, device: torch.device,
    algorithms: Mapping[Pass, Mapping[str, Algorithm]] = ALGORITHMS,
) -> list[Trial]:  # fmt: skip
    """Try all algorithms that compute the pass of this shape."""
    operands = Operands(shape, device)
    trials = list[Trial]()
    for name, algorithm in algorithms[computed].items():
        if algorithm.applies(shape):
            best = min((trial.seconds for trial in trials if not trial.failure), default=float("inf"))
            with _set(torch.backends.cudnn, deterministic=True), torch.autocast(device.type, enabled=False):
                trials.append(operands.try_algorithm(computed, name, algorithm, best))
    return trials


class Operands:
    """Random input, kernels and gradient of the output in the precision of a shape, channels last."""

    def __init__(self, shape: ConvolutionShape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self._generator = torch.Generator(device).manual_seed(0)
        self.x = self._random(shape.batch, shape.channels_in, *shape.sides)
        self.weight = self._random(shape.channels_out, shape.channels_in, *[shape.kernel] * shape.dims)
        self.gradient = self._random(shape.batch, shape.channels_out, *shape.output_sides)

    def _random(self, *size: int) -> Tensor:
        image = torch.randn(size, generator=self._generator, device=self.device)
        return image.to(getattr(torch, self.shape.precision)).contiguous(memory_format=self.shape.memory_format)

    def of(self, computed: Pass) -> tuple[Tensor, ...]:
        """Return the operands of a pass."""
        return (self.x, self.weight) if computed == "output" else (self.gradient, self.x, self.weight)

    def try_algorithm(self, computed: Pass, name: str, algorithm: Algorithm, best: float) -> Trial:
        """Try an algorithm; ``best``: seconds of the quickest so far."""
        tolerance = TOLERANCE[self.shape.precision]
        try:
            with self._spoilt_memory():
                first, _ = self._time(computed, algorithm)  # a first call also looks for kernels and memory
                second, seconds = self._time(computed, algorithm)
            if seconds < HOPELESS * best:
                seconds = statistics.median(self._time(computed, algorithm)[1] for _ in range(REPETITIONS))
            errors = self._errors(computed, first)
        except RuntimeError as error:  # memory is too small, or the library has no such convolution
            nan = float("nan")
            return Trial(name, nan, nan, nan, False, tolerance, str(error).splitlines()[0])
        return Trial(name, seconds, *errors, torch.equal(first, second), tolerance)

    @contextmanager
    def _spoilt_memory(self) -> Iterator[None]:
        """Let new memory hold wrong numbers: a library that reads what it did not write is right only by chance."""
        if self.device.type == "cuda":  # whose free memory torch hands out again
            sizes = [2**8, 2**12, 2**16, 2**20, self.x.numel() + self.gradient.numel()]
            blocks = [torch.full((size,), torch.nan, device=self.device) for size in sizes]
            del blocks
            yield
        else:
            with filled_memory():
                yield

    def _time(self, computed: Pass, algorithm: Algorithm) -> tuple[Tensor, float]:
        self._synchronise()
        start = time.perf_counter()
        output = algorithm.compute(self.shape, *self.of(computed))
        self._synchronise()
        return output, time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _errors(self, computed: Pass, output: Tensor) -> tuple[float, float]:
        """Compute an output's errors, relative to the size of all numbers and to the largest."""
        error, size, largest_error, largest = (torch.zeros((), dtype=torch.float64, device=self.device) for _ in "1234")
        for part, exact in self._exact(computed):
            difference = output[part].float() - exact
            error += difference.square().sum(dtype=torch.float64)
            size += exact.square().sum(dtype=torch.float64)
            largest_error = torch.maximum(largest_error, difference.abs().max())
            largest = torch.maximum(largest, exact.abs().max())
        return float((error / size).sqrt()), float(largest_error / largest)

    def _exact(self, computed: Pass) -> Iterator[tuple[slice, Tensor]]:
        """Yield parts of what float32 gives: sample by sample, as a batch may fill the memory."""
        if computed == "weight gradient":
            yield slice(None), self._exact_weight_gradient
        else:
            for number in range(self.shape.batch):
                yield slice(number, number + 1), self._exact_sample(computed, number)

    @cached_property
    def _exact_weight_gradient(self) -> Tensor:
        samples = (self._exact_sample("weight gradient", number) for number in range(self.shape.batch))
        return sum(samples, torch.zeros((), device=self.device))

    def _exact_sample(self, computed: Pass, number: int) -> Tensor:
        part = slice(number, number + 1)
        gradient, x = (images[part].float() for images in (self.gradient, self.x))
        shape = replace(self.shape, batch=1, precision="float32")
        operands = (x, self.weight.float()) if computed == "output" else (gradient, x, self.weight.float())
        with _set(torch.backends.cudnn, allow_tf32=False), _set(torch.backends.cuda.matmul, allow_tf32=False):
            return _EXACT[computed](shape, *operands)


@contextmanager
def _set(owner: object, **switches: bool) -> Iterator[None]:
    """Set switches of one of torch's backends for a while."""
    before = {name: getattr(owner, name) for name in switches}
    try:
        for name, value in switches.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def filled_memory() -> Iterator[None]:
    """Have glibc fill memory that it allocates with bytes of 0x7F, which are 3e38 in float32 and in bfloat16."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_PERTURB, 0x80)
    try:
        yield
    finally:
        libc.mallopt(_M_PERTURB, 0)
