"""Apodisation: the factor on the ramp of filtered backprojection, by frequency."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": torch.ones_like,
    "hann": lambda share: (1 + torch.cos(math.pi * share)) / 2,
    "cosine": lambda share: torch.cos(math.pi * share / 2),
    "shepp-logan": lambda share: torch.sinc(share / 2),
}
"""Factors by name, at frequencies from 0 to 1, where they end."""
_SAMPLES = 513


@dataclass(frozen=True)
class Apodisation:
    """Factors, 0 or more, at frequencies in cycles/mm at the isocentre.

    They are interpolated linearly, and constant beyond both ends.
    """

    frequency: tuple[float, ...]
    factor: tuple[float, ...]

    def __call__(self, frequency: Tensor) -> Tensor:
        """Return the factors at frequencies."""
        return torch.from_numpy(np.interp(frequency.numpy(), self.frequency, self.factor))


def window(name: str, limit: float) -> Apodisation:
    """Return a named apodisation that ends at ``limit``, cycles/mm."""
    share = torch.linspace(0, 1, _SAMPLES, dtype=torch.float64)
    beyond = math.nextafter(limit, math.inf)
    return Apodisation((*(share * limit).tolist(), beyond), (*WINDOWS[name](share).tolist(), 0.0))
