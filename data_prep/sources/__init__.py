"""Where scans come from: each source lists the series that it finds, and what it sets aside."""

from collections.abc import Callable, Mapping, Sequence

from data_prep.errors import UserError
from data_prep.progress import Progress, untold
from data_prep.settings import SourceSettings
from data_prep.sources.bimcv import find_bimcv
from data_prep.sources.discovery_cache import recall, remember
from data_prep.sources.folders import find_dicom, find_nifti
from data_prep.sources.lidc import find_lidc
from data_prep.sources.mayo import find_mayo
from data_prep.sources.sample import find_sample
from data_prep.sources.series import Aside, Found, Series

__all__ = ["SOURCES", "Aside", "Found", "Series", "discover", "recall"]

SOURCES: Mapping[str, Callable[[SourceSettings, Progress], Found]] = {
    "sample": find_sample,
    "dicom": find_dicom,
    "nifti": find_nifti,
    "lidc": find_lidc,
    "mayo": find_mayo,
    "bimcv": find_bimcv,
}


def discover(sources: Sequence[SourceSettings], progress: Progress = untold) -> Found:
    """Every series of the sources and all that they set aside, by headers alone; :func:`recall` has it from then on.

    Raises:
        UserError: a source's path does not exist or holds no scan, or two series share an id.
    """
    every = Found()
    for settings in sources:
        found = SOURCES[settings.kind](settings, progress)
        every.series.extend(found.series)
        every.aside.extend(found.aside)
    _check_ids(every.series)
    remember(sources, every)
    return every


def _check_ids(found: Sequence[Series]) -> None:
    places: dict[str, Series] = {}
    for series in found:
        other = places.setdefault(series.scan, series)
        if other is not series:
            raise UserError(f"two series have the id {series.scan}: {other.place} and {series.place}")
