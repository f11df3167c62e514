"""The 48 ways in which a volume's axes can lie."""

from itertools import permutations, product

ORIENTATIONS = [
    tuple(codes[i] for codes, i in zip(axes, signs, strict=True))
    for axes in permutations([("L", "R"), ("A", "P"), ("S", "I")])
    for signs in product((0, 1), repeat=3)
]
