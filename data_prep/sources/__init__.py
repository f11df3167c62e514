"""Where scans come from: each source lists the series that it finds."""

from collections.abc import Callable, Mapping

from data_prep.errors import UserError
from data_prep.settings import SourceSettings
from data_prep.sources.folders import find_dicom, find_nifti
from data_prep.sources.sample import find_sample
from data_prep.sources.series import Series

__all__ = ["SOURCES", "Series", "discover"]

SOURCES: Mapping[str, Callable[[SourceSettings], list[Series]]] = {
    "sample": find_sample,
    "dicom": find_dicom,
    "nifti": find_nifti,
}


def discover(sources: tuple[SourceSettings, ...]) -> dict[str, Series]:
    """Every series of the sources by its scan id.

    Raises:
        UserError: a source's path does not exist or holds no scan, or two series share an id.
    """
    found: dict[str, Series] = {}
    for settings in sources:
        for series in SOURCES[settings.kind](settings):
            if series.scan in found:
                raise UserError(f"two series have the id {series.scan}: {found[series.scan].path} and {series.path}")
            found[series.scan] = series
    return found
