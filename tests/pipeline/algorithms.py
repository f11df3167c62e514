"""Algorithms of convolutions for tests."""

from collections.abc import Iterable

from pipeline.convolutions.algorithms import ALGORITHMS, LIBRARY
from pipeline.convolutions.shape import PASSES, ConvolutionShape, Pass


def last_algorithms(shape: ConvolutionShape) -> dict[Pass, str]:
    """Return the last algorithm that computes each pass of the shape: not the library's, if there is one."""
    names = {name: [key for key, algorithm in ALGORITHMS[name].items() if algorithm.applies(shape)] for name in PASSES}
    return {name: names[name][-1] for name in PASSES}


def other_algorithms(shapes: Iterable[ConvolutionShape]) -> dict[ConvolutionShape, dict[Pass, str]]:
    """Return the last algorithms of the shapes of a network, which are the library's only where it has no other."""
    algorithms = {shape: last_algorithms(shape) for shape in shapes}
    assert {name for names in algorithms.values() for name in names.values()} > {LIBRARY, "mirrored"}
    return algorithms
