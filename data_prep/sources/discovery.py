"""Look through the sources of a run."""

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from pkgutil import resolve_name

from data_prep.errors import UserError
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.discovery_cache import remember
from data_prep.sources.kinds import KINDS
from data_prep.sources.series import Discovery, Series

_NEW_OBJECTS = 100_000  # between two collections of garbage; Python's default is 700


def discover(sources: Sequence[SourceSettings], progress: Progress = ignore_progress) -> Discovery:
    """List all series of the sources, and all that they set aside, by headers alone.

    The list is kept in the user's cache, where :func:`data_prep.sources.discovery_cache.recall` finds it.

    Raises:
        UserError: a source's path does not exist or holds no scan, or it is listed twice.
    """
    total = Discovery()
    with _collecting_garbage_rarely():
        for settings in sources:
            discovery: Discovery = resolve_name(KINDS[settings.kind].finder)(settings, progress)
            total.series.extend(discovery.series)
            total.exclusions.extend(discovery.exclusions)
            total.passed_over.extend(discovery.passed_over)
    distinct = replace(total, series=_with_distinct_ids(total.series))
    remember(sources, distinct)
    return distinct


@contextmanager
def _collecting_garbage_rarely() -> Iterator[None]:
    """Let the collector run seldom: it looks through all that is remembered of the files, a quarter of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _with_distinct_ids(all_series: Sequence[Series]) -> list[Series]:
    """Add a pseudonym of the location to ids that several series have because they are named by their relative path.

    Raises:
        UserError: two series share an id otherwise, or share a file.
    """
    by_id = defaultdict[str, list[Series]](list)
    for series in all_series:
        by_id[series.scan].append(series)
    for namesakes in by_id.values():
        for first, second in combinations(namesakes, 2):
            is_named_by_path = first.is_named_by_path and second.is_named_by_path
            if not is_named_by_path or {*_real_files(first)} & {*_real_files(second)}:
                raise UserError(
                    f"two series have the id {first.scan}: {first.location} and {second.location}; "
                    "a scan may be listed once, so leave one of them out"
                )
    return [_distinct(series) if len(by_id[series.scan]) > 1 else series for series in all_series]


def _distinct(series: Series) -> Series:
    """Add the pseudonym to the scan's id, and to the patient's where nothing tells the patient."""
    scan = f"{series.scan}-{pseudonym(str(series.location.absolute()))}"
    return replace(series, scan=scan, subject=scan if series.is_own_patient else series.subject)


def _real_files(series: Series) -> Iterator[Path]:
    return (Path(os.path.realpath(path)) for path in series.files)
