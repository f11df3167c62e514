"""Names of denoisers, and of choices in the settings that several modules use."""

from typing import Literal, get_args

LOW_DOSE_INPUT = "low-dose"
"""Name of the untouched input where networks are listed: the baseline of every table."""

ClassicalName = Literal["tv", "nlm"]
CLASSICAL_TITLES: dict[str, str] = {"tv": "total variation", "nlm": "3D non-local means"}
"""Names of the classical denoisers where networks are listed, with what people call them."""

FigureFormat = Literal["png", "svg", "pdf"]
FORMATS: tuple[FigureFormat, ...] = get_args(FigureFormat)

Fill = Literal["zero", "repeat", "mean", "noise"]
"""How the planes of a 3D kernel are filled from a 2D one."""

Transfer = Literal["none", Fill]
