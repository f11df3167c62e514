"""Disk that the pairs of a run will take, forecast for ``quarterdose plan``."""

from data_prep.log import describe_count
from data_prep.sources.series import Series
from jobs.stages.prepare import Prepare

SLICE_BYTES = 0.28e6
"""Of a compressed slice of one array; three public scans have 0.24 to 0.32 MB, at any dose (docs/low-dose.md)."""
_GB = 1e9


def store_note(prepare: Prepare) -> str:
    """Say how much disk the pairs take: of all scans whose slices can be counted without reading, else of a slice.

    No source is looked through for it: if none was so far, no scan is known.
    """
    low_doses = len(prepare.settings.data.low_dose.partners)
    series = list(prepare.series.values()) if prepare.is_searched() else []
    slices = [_slices(prepare, scan) for scan in series]
    counted = [count for count in slices if count]
    size = sum(
        SLICE_BYTES * count * (1 + (1 if scan.low_files else low_doses))
        for scan, count in zip(series, slices, strict=True)
    )
    arrays = f"full dose and {describe_count(low_doses, 'low dose')}"
    if not counted:
        rate = f"{SLICE_BYTES * (1 + low_doses) / 1e6:.2g} MB a slice"
        return f"Pairs on disk: about {rate} ({arrays}); the slices are counted once `quarterdose prepare` has run."
    uncounted = f"; the slices of {len(slices) - len(counted)} more are not known" if len(counted) < len(slices) else ""
    scans = f"{describe_count(len(counted), 'scan')} of {describe_count(sum(counted), 'slice')}"
    return f"Pairs on disk: about {size / _GB:.2g} GB for {scans} ({arrays}){uncounted}."


def _slices(prepare: Prepare, series: Series) -> int:
    """Return the slices of a scan: as they were prepared, else its files; 0 if unknown."""
    marker = prepare.markers.read(series.scan)
    if marker and marker.state == "done":
        return int(marker.result["slices"])
    return len(series.paths) if len(series.paths) > 1 else 0
