"""Names of denoisers, and of choices in the settings that several modules use."""

from typing import Literal

LOW_DOSE_INPUT = "low-dose"
"""Name of the untouched input where networks are listed: the baseline of every table."""

TOTAL_VARIATION = "tv"
"""Name of the classical denoiser where networks are listed."""

Fill = Literal["zero", "repeat", "mean", "noise"]
"""How the planes of a 3D kernel are filled from a 2D one."""

Transfer = Literal["none", Fill]
