"""The choice of an algorithm for each pass of each convolution, and its memory in the user's cache."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from data_prep.cache import cache_folder, read_cache, write_cache
from data_prep.errors import UserError
from data_prep.files import digest_json
from pipeline.convolutions.algorithms import ALGORITHMS, Algorithm
from pipeline.convolutions.layers import Algorithms
from pipeline.convolutions.machine import describe_machine
from pipeline.convolutions.needs import Needs
from pipeline.convolutions.shape import PASSES, ConvolutionShape, Pass
from pipeline.convolutions.trial import Trial, quickest, try_algorithms

Table = Mapping[Pass, Mapping[str, Algorithm]]

_REMEDIES = {
    "bfloat16": "take training.precision: float32",
    "float16": "hide the GPU (CUDA_VISIBLE_DEVICES=)",
    "float32": "take another version of torch",
}
_VERSION = 3
"""Of the cache; raise it when an algorithm changes or comes."""


def choose(needs: Needs, device: torch.device, table: Table = ALGORITHMS) -> Algorithms:
    """Choose for each pass the quickest algorithm that is right on the device; measured once a machine.

    Raises:
        UserError: no algorithm is right for one of them.
    """
    path = cache_folder() / "convolutions" / f"{digest_json(describe_machine(device))[:32]}.json"
    cached = from_rows(read_cache(path, _VERSION) or [])
    chosen = {
        shape: {name: cached.get(shape, {}).get(name) or _measure(shape, name, device, table) for name in passes}
        for shape, passes in needs.items()
    }
    if not covers(cached, needs):
        merged = from_rows(read_cache(path, _VERSION) or [])  # others may have measured meanwhile
        for shape, names in chosen.items():
            merged[shape] = {**merged.get(shape, {}), **names}
        write_cache(path, _VERSION, to_rows(merged))
        _forget_memory(device)
    return chosen


def _forget_memory(device: torch.device) -> None:
    """Let the trials' memory not count as that of the training, or of the denoising, in which they were made."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class OutputAlgorithms(dict[ConvolutionShape, Mapping[Pass, str]]):
    """Algorithms of outputs alone, chosen when a shape first appears: denoising meets planes of any size."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __missing__(self, shape: ConvolutionShape) -> Mapping[Pass, str]:
        self[shape] = choose({shape: ("output",)}, self._device)[shape]
        return self[shape]


def _measure(shape: ConvolutionShape, computed: Pass, device: torch.device, table: Table) -> str:
    trials = try_algorithms(shape, computed, device, table)
    best = quickest(trials)
    if best is None:
        raise UserError(_describe_wrong(shape, computed, trials, describe_machine(device)["device"]))
    return best.algorithm


def _describe_wrong(shape: ConvolutionShape, computed: Pass, trials: Iterable[Trial], machine: str) -> str:
    names = ", ".join(trial.algorithm for trial in trials)
    return (
        f"convolutions in {shape.precision} are wrong on this machine ({machine}): no algorithm ({names}) computes the "
        f"{computed} of one ({shape}) as float32 does; {_REMEDIES[shape.precision]}"
    )


def covers(algorithms: Algorithms, needs: Needs) -> bool:
    """Whether the algorithms have every pass that is needed."""
    return all(set(passes) <= set(algorithms.get(shape, {})) for shape, passes in needs.items())


def to_rows(algorithms: Algorithms) -> list[dict[str, Any]]:
    """Write the algorithms as plain values, a row a shape."""
    return [{**shape.to_row(), **{str(name): names[name] for name in names}} for shape, names in algorithms.items()]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[ConvolutionShape, dict[Pass, str]]:
    """Read the algorithms from plain values, as :func:`to_rows` writes them."""
    return {ConvolutionShape.from_row(row): {name: row[name] for name in PASSES if name in row} for row in rows}
