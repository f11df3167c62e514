"""What the added noise of one scan is like: how much, of which grain, how alike in neighbouring slices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import UserError
from data_prep.lowdose.apodisation import Apodisation, window
from data_prep.lowdose.geometry import Fan
from data_prep.lowdose.scan_noise import LAGS
from data_prep.settings import GeometrySettings, LowDoseSettings

DEFAULT_PHOTONS, DEFAULT_SPARING, DEFAULT_WINDOW = 1.35e5, 0.3, "hann"
"""Of a scan whose own noise is not known (docs/decisions/low-dose.md)."""
SPARED_FROM = 3.0
"""Line integral from which rays are spared: 16 cm of water."""
_FREQUENCIES = 512
_MOST_SWING = 0.999
_PROJECTIONS = 200
_LONGEST = 32  # slices over which noise is alike
_LEAST, _TINY = 0.01, 1e-12
_CORRELATION_TOLERANCE = 0.05
_CHANNEL_STEP = 32
_WIDEST = 0.95  # of the radius of the source's circle: a fan of 144 degrees


@dataclass(frozen=True)
class NoiseModel:
    """The noise that a simulator adds.

    ``scanner``: its detector is as wide as the scan's field. ``photons``: per channel and view at full dose, in air.
    ``sparing``: share of a line integral above ``SPARED_FROM`` that costs no photons, as tube currents follow the body
    and scanners smooth the rays of few photons.
    ``z_filter``: the white noise of a slice and of those behind it is added with these weights; their squares sum to
    1. ``gain``: factor on the noise at ``gain_slices``, interpolated between them. ``is_cut``: the scan's field is
    wider than any fan; beyond the fan there is no noise.
    """

    scanner: GeometrySettings
    photons: float
    apodisation: Apodisation
    sparing: float = 0.0
    z_filter: tuple[float, ...] = (1.0,)
    gain_slices: tuple[float, ...] = (0.0,)
    gain: tuple[float, ...] = (1.0,)
    is_cut: bool = False

    def gains(self, slices: Sequence[int]) -> Tensor:
        """Return the factors on the noise of slices, by their indices in the scan."""
        return torch.from_numpy(np.interp(slices, self.gain_slices, self.gain)).float()

    @classmethod
    def from_record(cls, record: Mapping[str, Any], geometry: GeometrySettings) -> "NoiseModel":
        """Return the model that :meth:`as_record` recorded; ``geometry``: that of the settings."""
        window, gain = record["window"], record["gain"]
        return cls(
            geometry.model_copy(update={"channels": record["channels"]}), record["photons"],
            Apodisation(tuple(window["cycles_per_mm"]), tuple(window["factor"])), record["sparing"],
            tuple(record["z_filter"]), tuple(gain["slices"]), tuple(gain["factor"]),
        )  # fmt: skip

    def as_record(self) -> dict[str, Any]:
        """Return what is recorded with a pair: plain values, without the settings' own."""
        return {
            "channels": self.scanner.channels,
            "photons": self.photons,
            "sparing": self.sparing,
            "window": {"cycles_per_mm": [*self.apodisation.frequency], "factor": [*self.apodisation.factor]},
            "z_filter": [*self.z_filter],
            "gain": {"slices": [*self.gain_slices], "factor": [*self.gain]},
        }


def reached_correlation(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the correlation of slices 1, 2 ... apart that a z filter gives to white noise."""
    lags = np.correlate(weights, weights, "full")[len(weights) :]
    return tuple(lags.tolist())


def named_model(settings: LowDoseSettings) -> NoiseModel:
    """Return the model that the settings name, with defaults for what they leave to the scan."""
    photons = DEFAULT_PHOTONS if isinstance(settings.photons, str) else settings.photons
    sparing = DEFAULT_SPARING if settings.photons == "scan" else 0.0
    correlation = () if settings.z_correlation == "scan" else settings.z_correlation
    return NoiseModel(settings.geometry, photons, named_window(settings), sparing, z_filter(correlation))


def named_window(settings: LowDoseSettings) -> Apodisation:
    """Return the window that the settings name, or the default for ``scan``."""
    name = DEFAULT_WINDOW if settings.window == "scan" else settings.window
    return window(name, Fan(settings.geometry).nyquist * settings.cutoff)


def z_filter(correlation: Sequence[float]) -> tuple[float, ...]:
    """Return weights for a slice and those behind it that give white noise this correlation of slices 1, 2 ... apart.

    They are the spectral factor of the correlation, of minimum phase. A correlation that no noise has, for its spectrum
    is below zero somewhere, is replaced by a similar one.
    """
    possible = _possible(np.trim_zeros(np.asarray(correlation, np.float64), "b"))
    shrunk = possible * min(1.0, _MOST_SWING / max(1 - _spectrum(possible).min(), _TINY))
    roots = np.roots(np.concatenate([shrunk[::-1], [1.0], shrunk]))
    weights = np.atleast_1d(np.poly(sorted(roots, key=abs)[: len(roots) // 2])).real
    return tuple((weights / np.linalg.norm(weights)).tolist())


def check_correlation(correlation: Sequence[float]) -> None:
    """Check that noise can have the correlation of slices 1, 2 ... apart that settings name.

    Raises:
        UserError: none has it.
    """
    weights = z_filter(correlation)
    reached = np.zeros(max(len(correlation), len(weights) - 1))
    reached[: len(weights) - 1] = reached_correlation(weights)
    reached = reached[: len(correlation)]
    if np.abs(reached - correlation).max(initial=0) > _CORRELATION_TOLERANCE:
        nearest = ", ".join(f"{number:.2f}" for number in reached)
        raise UserError(f"no noise has data.low_dose.z_correlation {list(correlation)}; similar is [{nearest}]")


def _possible(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a similar correlation whose spectrum is hardly below zero.

    One of as many slices as are measured goes on in a line to zero. Then by turns its spectrum is kept from being below
    zero, and the correlation is set to what it was, and to zero beyond its slices, until both hardly change.
    """
    if _spectrum(correlation).min() >= 0:
        return correlation
    similar = np.array([*correlation, *(_continued(correlation) if len(correlation) == LAGS else ())])
    reach = len(similar) + len(correlation)
    for _ in range(_PROJECTIONS):
        similar[: len(correlation)] = correlation
        lags = np.fft.irfft(np.maximum(_spectrum(similar), 0))
        similar = lags[1 : reach + 1] / lags[0]
    return similar[: np.flatnonzero(np.abs(similar) >= _LEAST).max(initial=0) + 1]


def _continued(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the line through the last two correlations, down to zero."""
    line = correlation[-1] + (correlation[-1] - correlation[-2]) * np.arange(1, _LONGEST - len(correlation) + 1)
    return np.asarray(line[np.cumprod(line > 0) > 0], np.float64)


def _spectrum(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spectrum of noise of variance 1 and this correlation, from frequency 0 to the highest."""
    lags = np.zeros(_FREQUENCIES)
    lags[: len(correlation) + 1] = 1, *correlation
    return np.asarray(2 * np.fft.rfft(lags).real - 1)


def widened(scanner: GeometrySettings, radius: float) -> GeometrySettings:
    """Return a scanner whose detector sees a disc of this radius (mm) in every view; the same one if it does so.

    No fan sees what lies near the circle of the source or outside of it.
    """
    radius = min(radius, _WIDEST * scanner.source_isocentre_mm)
    if Fan(scanner).reach >= radius:
        return scanner
    half = (
        math.asin(radius / scanner.source_isocentre_mm) / Fan(scanner).channel_angle + 2 + abs(scanner.channel_offset)
    )
    return scanner.model_copy(update={"channels": _CHANNEL_STEP * math.ceil((2 * half + 1) / _CHANNEL_STEP)})
