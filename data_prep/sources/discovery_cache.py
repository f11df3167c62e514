"""What was found in sources is remembered in the user's own cache, so that other processes need not look again.

It holds the paths of files, which may name patients: none of it may go elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.cache import memory_path, read_memory, write_memory
from data_prep.errors import MachineError, ScanError
from data_prep.readers.dicom import open_dicom
from data_prep.settings import SourceSettings
from data_prep.sources.bimcv import open_with_sidecar
from data_prep.sources.folders import open_first
from data_prep.sources.series import Aside, Found, Open, Series

_VERSION = 1
_OPEN: Mapping[str, Open] = {"dicom": open_dicom, "first": open_first, "with sidecar": open_with_sidecar}
_NAMES = {function: name for name, function in _OPEN.items()}
_FAULTS: Mapping[str, type[Exception]] = {"scan": ScanError, "machine": MachineError}
_KINDS = {kind: name for name, kind in _FAULTS.items()}


def remember(sources: Sequence[SourceSettings], found: Found) -> None:
    """Keep what the sources hold, in place of what they held before."""
    content = {"series": [_plain(series) for series in found.series], "aside": [asdict(other) for other in found.aside]}
    write_memory(_path(sources), _VERSION, content)


def recall(sources: Sequence[SourceSettings]) -> Found | None:
    """What :func:`data_prep.sources.discover` last found in these sources, or None; no source is looked at."""
    content = read_memory(_path(sources), _VERSION)
    try:
        return Found(
            [_series(values) for values in content["series"]], [Aside(**values) for values in content["aside"]]
        )
    except (ValueError, TypeError, KeyError):
        return None


def _path(sources: Sequence[SourceSettings]) -> Path:
    return memory_path("found", [settings.model_dump(mode="json") for settings in sources])


def _plain(series: Series) -> dict[str, Any]:
    return {
        **vars(series),
        "files": [str(path) for path in series.files],
        "low_files": [str(path) for path in series.low_files],
        "open": _NAMES[series.open],
        "fault": [_KINDS[type(series.fault)], str(series.fault)] if series.fault else None,
    }


def _series(values: Mapping[str, Any]) -> Series:
    read = {
        "files": tuple(map(Path, values["files"])),
        "low_files": tuple(map(Path, values["low_files"])),
        "open": _OPEN[values["open"]],
        "fault": _fault(*values["fault"]) if values["fault"] else None,
    }
    return Series(**{**values, **read})


def _fault(kind: str, message: str) -> Exception:
    return _FAULTS[kind](message)
