"""Look through the sources of a run."""

from collections.abc import Sequence
from pkgutil import resolve_name

from data_prep.errors import UserError
from data_prep.progress import Progress, ignore_progress
from data_prep.settings import SourceSettings
from data_prep.sources.discovery_cache import remember
from data_prep.sources.kinds import KINDS
from data_prep.sources.series import Discovery, Series


def discover(sources: Sequence[SourceSettings], progress: Progress = ignore_progress) -> Discovery:
    """List all series of the sources, and all that they set aside, by headers alone.

    The list is kept in the user's cache, where :func:`data_prep.sources.discovery_cache.recall` finds it.

    Raises:
        UserError: a source's path does not exist or holds no scan, or two series share an id.
    """
    total = Discovery()
    for settings in sources:
        discovery: Discovery = resolve_name(KINDS[settings.kind].finder)(settings, progress)
        total.series.extend(discovery.series)
        total.exclusions.extend(discovery.exclusions)
    _check_ids(total.series)
    remember(sources, total)
    return total


def _check_ids(all_series: Sequence[Series]) -> None:
    by_id: dict[str, Series] = {}
    for series in all_series:
        first = by_id.setdefault(series.scan, series)
        if first is not series:
            raise UserError(f"two series have the id {series.scan}: {first.location} and {series.location}")
