"""The last discovery in some sources, kept in the user's cache: other processes need not look again.

It holds the paths of files, which may name patients: nothing of it may be written elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_prep.cache import cache_folder, cache_path, read_cache, write_cache
from data_prep.errors import MachineError, ScanError
from data_prep.pseudonym import file_pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.series import Discovery, Exclusion, PassedOver, Series

_VERSION = 8
_FOLDER = "found"
_FAULTS: Mapping[str, type[Exception]] = {"scan": ScanError, "machine": MachineError}
_FAULT_NAMES = {fault: name for name, fault in _FAULTS.items()}


def remember(sources: Sequence[SourceSettings], discovery: Discovery) -> None:
    """Write the discovery in these sources to the cache, over an earlier one."""
    content = {
        "series": [_to_json(series) for series in discovery.series],
        "aside": [{**vars(e), "files": _by_folder(map(str, e.files))} for e in discovery.exclusions],
        "passed over": [vars(files) for files in discovery.passed_over],
        "roots": [str(settings.path.absolute()) for settings in sources if settings.path],
    }
    write_cache(_path(sources), _VERSION, content)


def recall(sources: Sequence[SourceSettings]) -> Discovery | None:
    """Read the last discovery in these sources, or None if there is none; no source is looked at."""
    content = read_cache(_path(sources), _VERSION)
    try:
        return Discovery(
            [_from_json(values) for values in content["series"]],
            [Exclusion(**{**entry, "files": tuple(map(Path, _paths(entry["files"])))}) for entry in content["aside"]],
            [PassedOver(**values) for values in content["passed over"]],
        )
    except (ValueError, TypeError, KeyError):
        return None


def find_files(identifier: str) -> dict[str, tuple[Path, ...]]:
    """Return the files that an id of a scan, a patient or a file stands for, by scan; from all of the user's caches."""
    matches = dict[str, tuple[Path, ...]]()
    for cache in sorted((cache_folder() / _FOLDER).glob("*.json")):
        with suppress(TypeError, KeyError):  # a cache of another form counts as none
            matches |= _find_in_cache(read_cache(cache, _VERSION), identifier)
    return matches


def _find_in_cache(content: Mapping[str, Any], identifier: str) -> dict[str, tuple[Path, ...]]:
    matches = dict[str, tuple[Path, ...]]()
    for entry in (*content["series"], *content["aside"]):
        paths = (*_paths(entry.get("paths", entry.get("files"))), *_paths(entry.get("low_paths", ())))
        files = tuple(map(Path, paths))
        if identifier in (entry["scan"], entry["subject"]):
            matches[entry["scan"]] = files
        elif identifier.startswith("x-"):
            matches |= {name: (path,) for name, path in _file_names(files, content["roots"]) if name == identifier}
    return matches


def _file_names(files: Sequence[Path], roots: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the pseudonym of each file, below each root that holds it, and its path."""
    for path in files:
        for root in roots:
            if path.absolute().is_relative_to(root):
                yield file_pseudonym(str(path.absolute().relative_to(root))), path


def _path(sources: Sequence[SourceSettings]) -> Path:
    return cache_path(_FOLDER, [settings.model_dump(mode="json") for settings in sources])


def _to_json(series: Series) -> dict[str, Any]:
    values = {field.name: getattr(series, field.name) for field in fields(series)}
    return {
        **values,
        "paths": _by_folder(series.paths),
        "low_paths": _by_folder(series.low_paths),
        "fault": [_FAULT_NAMES[type(series.fault)], str(series.fault)] if series.fault else None,
    }


def _by_folder(paths: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return paths as their folders, each with the names in it: a run may have a million files."""
    parts = [(folder + slash, name) for folder, slash, name in (path.rpartition("/") for path in paths)]
    return [(folder, [name for _, name in members]) for folder, members in groupby(parts, itemgetter(0))]


def _paths(folders: Iterable[tuple[str, list[str]]]) -> tuple[str, ...]:
    return tuple(folder + name for folder, names in folders for name in names)


def _from_json(values: Mapping[str, Any]) -> Series:
    converted = {
        "paths": _paths(values["paths"]),
        "low_paths": _paths(values["low_paths"]),
        "studies": tuple(values["studies"]),
        "fault": _fault(*values["fault"]) if values["fault"] else None,
    }
    return Series(**{**values, **converted})


def _fault(name: str, message: str) -> Exception:
    return _FAULTS[name](message)
