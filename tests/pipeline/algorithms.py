"""Algorithms of convolutions for tests."""

from pipeline.convolutions.algorithms import ALGORITHMS
from pipeline.convolutions.shape import PASSES, ConvolutionShape, Pass


def last_algorithms(shape: ConvolutionShape) -> dict[Pass, str]:
    """Return the last algorithm that computes each pass of the shape: not the library's, if there is one."""
    names = {name: [key for key, algorithm in ALGORITHMS[name].items() if algorithm.applies(shape)] for name in PASSES}
    return {name: names[name][-1] for name in PASSES}
