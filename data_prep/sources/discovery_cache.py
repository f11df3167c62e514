"""The last discovery in some sources, kept in the user's cache: other processes need not look again.

It holds the paths of files, which may name patients: nothing of it may be written elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from data_prep.cache import cache_path, read_cache, write_cache
from data_prep.errors import MachineError, ScanError
from data_prep.settings import SourceSettings
from data_prep.sources.kinds import OPENERS
from data_prep.sources.series import Discovery, Exclusion, Open, Series

_VERSION = 1
_OPENER_NAMES = {path: name for name, path in OPENERS.items()}
_FAULTS: Mapping[str, type[Exception]] = {"scan": ScanError, "machine": MachineError}
_FAULT_NAMES = {fault: name for name, fault in _FAULTS.items()}


def remember(sources: Sequence[SourceSettings], discovery: Discovery) -> None:
    """Write the discovery in these sources to the cache, over an earlier one."""
    content = {
        "series": [_to_json(series) for series in discovery.series],
        "aside": [asdict(exclusion) for exclusion in discovery.exclusions],
    }
    write_cache(_path(sources), _VERSION, content)


def recall(sources: Sequence[SourceSettings]) -> Discovery | None:
    """Read the last discovery in these sources, or None if there is none; no source is looked at."""
    content = read_cache(_path(sources), _VERSION)
    try:
        return Discovery(
            [_from_json(values) for values in content["series"]], [Exclusion(**values) for values in content["aside"]]
        )
    except (ValueError, TypeError, KeyError):
        return None


def _path(sources: Sequence[SourceSettings]) -> Path:
    return cache_path("found", [settings.model_dump(mode="json") for settings in sources])


def _to_json(series: Series) -> dict[str, Any]:
    return {
        **vars(series),
        "files": [str(path) for path in series.files],
        "low_files": [str(path) for path in series.low_files],
        "open": _opener_name(series.open),
        "fault": [_FAULT_NAMES[type(series.fault)], str(series.fault)] if series.fault else None,
    }


def _opener_name(opener: Open) -> str:
    return _OPENER_NAMES[f"{opener.__module__}:{opener.__qualname__}"]


def _from_json(values: Mapping[str, Any]) -> Series:
    converted = {
        "files": tuple(map(Path, values["files"])),
        "low_files": tuple(map(Path, values["low_files"])),
        "open": resolve_name(OPENERS[values["open"]]),
        "fault": _fault(*values["fault"]) if values["fault"] else None,
    }
    return Series(**{**values, **converted})


def _fault(name: str, message: str) -> Exception:
    return _FAULTS[name](message)
