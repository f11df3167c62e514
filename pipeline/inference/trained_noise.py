"""The noise that a network was trained on, as its model file says it, and how another scan's compares with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.lowdose.record import first_correlation
from data_prep.lowdose.scan_noise import ScanNoise

SD_FACTOR, FREQUENCY_FACTOR, CORRELATION_MARGIN = 1.25, 1.15, 0.15
"""By so much a scan's noise may leave the range of the training's scans. A measured SD alone is sure to some 15 %."""

SD, FREQUENCY, CORRELATION = "SD (HU)", "mean frequency (cycles/mm)", "correlation of neighbouring slices"
_COLUMNS = {
    SD: ("noise_low_hu_low", "noise_low_hu_high"), FREQUENCY: ("noise_low_frequency",),
    CORRELATION: ("noise_low_z_correlation",),
}  # fmt: skip
"""Columns of the manifest from whose least and greatest number the ranges are."""


def describe_training(rows: Sequence[Mapping[str, Any]], dose: float) -> dict[str, Any]:
    """Describe the low dose of a training's scans for the model file: no id of a patient or scan.

    ``rows``: the scans' rows of the manifest, of several low doses a row each; ``dose``: fraction of the full dose, if
    it was simulated, of rows that do not say it, as those of earlier versions. Ranges are
    the least and the greatest of the scans whose noise could be measured, of the SD those of their slabs: one number a
    scan would say nothing of a body's thin and dense parts. They are missing if no noise could be measured.
    """
    measured = [row for row in rows if _is_number(row.get("noise_low_hu"))]
    ranges = {
        name: _range([float(row[column]) for row in measured for column in columns])
        for name, columns in _COLUMNS.items() if measured
    }  # fmt: skip
    doses = {float(row["dose"]) if _is_number(row.get("dose")) else dose for row in rows if _is_simulated(row)}
    kinds = {str(row["low_dose"]) for row in rows if not _is_simulated(row)}
    kernels = {row["kernel"] for row in rows if row.get("kernel")}
    return {**ranges, "dose": [*(f"{100 * fraction:g} %" for fraction in sorted(doses)), *sorted(kinds)],
            "kernels": sorted(kernels) or ["unknown"],
            "scans": f"{_scans(measured)} of {_scans(rows)} measured"}  # fmt: skip


def as_text(trained: Mapping[str, Any]) -> str:
    """Write what :func:`describe_training` gave for the model card."""
    return "; ".join(f"{name} {_text(name, value)}" for name, value in trained.items())


def rows_at(rows: Sequence[Mapping[str, Any]], doses: Sequence[float]) -> list[dict[str, Any]]:
    """Return rows of simulated scans at these doses.

    At a dose that is not stored, a scan has the noise of the stored one that is the nearest by its ratio, whose SD is
    scaled: the variance of all noise is inverse to the dose.
    """
    by_scan: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_scan.setdefault((row.get("dataset"), row.get("scan")), []).append(row)
    return [_row_at(stored, dose) for stored in by_scan.values() for dose in doses]


def _row_at(stored: Sequence[Mapping[str, Any]], dose: float) -> dict[str, Any]:
    nearest = min(stored, key=lambda row: abs(math.log(float(row["dose"]) / dose)))
    factor = math.sqrt(float(nearest["dose"]) / dose)
    scaled = {
        name: float(nearest[name]) * factor for name in ("noise_low_hu", *_COLUMNS[SD]) if _is_number(nearest[name])
    }
    return {**nearest, **scaled, "dose": dose}


def _scans(rows: Sequence[Mapping[str, Any]]) -> int:
    return len({(row.get("dataset"), row.get("scan")) for row in rows})


def _is_simulated(row: Mapping[str, Any]) -> bool:
    return bool(row["low_dose"] == "simulated")


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 4), round(max(values), 4)]


def compare(noise: ScanNoise | None, trained: Mapping[str, Any]) -> str:
    """Say in one line how a scan's noise lies outside of a training's; empty if it lies inside.

    ``trained``: as :func:`describe_training` gives it, or nothing.
    """
    if noise is None:
        return "its noise could not be measured, so nobody knows whether the model was trained on such noise"
    if SD not in trained:
        return "the model does not say on which noise it was trained"
    parts = [
        f"{name} {value:.3g}, trained on {_text(name, trained[name])}"
        for name, value in as_record(noise).items()
        if not _is_inside(name, value, *trained[name])
    ]
    return f"its noise is outside of what the model was trained on: {'; '.join(parts)}" if parts else ""


def as_record(noise: ScanNoise) -> dict[str, float]:
    """Return what is compared, by the names of the model file."""
    values = {SD: noise.sd, FREQUENCY: noise.centroid, CORRELATION: first_correlation(noise)}
    return {name: round(value, 4) for name, value in values.items()}


def _is_inside(name: str, value: float, low: float, high: float) -> bool:
    if name == CORRELATION:
        return low - CORRELATION_MARGIN <= value <= high + CORRELATION_MARGIN
    factor = SD_FACTOR if name == SD else FREQUENCY_FACTOR
    return low / factor <= value <= high * factor


def _text(name: str, value: Any) -> str:
    if name not in _COLUMNS:
        return ", ".join(value) if isinstance(value, list) else str(value)
    low, high = value
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
