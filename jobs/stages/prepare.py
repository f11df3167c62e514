"""Preparation: scans become pairs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data_prep.errors import UserError
from data_prep.log import describe_count, logger, printable
from data_prep.paths import contact_path, pair_path
from data_prep.progress import Progress
from data_prep.sources.discovery import discover
from data_prep.sources.discovery_cache import recall
from data_prep.sources.series import Discovery, Exclusion, PassedOver, Series
from jobs.engine.stage import Stage
from pipeline.training.world import World

_PAIR_FILES = r"zarr\.json|(full_dose|low_dose(_[\d.e-]+_\d+)?)/(zarr\.json|c/\d+/0/0)"


class Prepare(Stage):
    """Simulate or read the low dose of one scan an item; write both doses as a Zarr pair, with a contact sheet."""

    name: str = "prepare"
    version: ClassVar[int] = 7
    modules: ClassVar[tuple[str, ...]] = (
        "data_prep.prepare", "data_prep.readers.dicom", "data_prep.readers.nifti",
    )  # fmt: skip
    private: ClassVar[bool] = True
    keeps_refusals: ClassVar[bool] = True
    uses_search: ClassVar[bool] = True
    _has_discovered = False

    def find_items(self, progress: Progress) -> str:
        """Find the scans; refuse before what would turn each of them away."""
        correlation = self.settings.data.low_dose.z_correlation
        if correlation != "scan" and correlation:
            from data_prep.lowdose.model import check_correlation

            check_correlation(correlation)
        self._discovery = discover(self.settings.data.sources, progress)
        scans = describe_count(len(self._discovery.series), "scan")
        return f"{scans} found, {len(self._discovery.exclusions)} series set aside"

    def is_searched(self) -> bool:
        return self._has_discovered or recall(self.settings.data.sources) is not None

    @cached_property
    def _discovery(self) -> Discovery:
        sources = self.settings.data.sources
        return recall(sources) or discover(sources)

    def find_or_recall_items(self) -> None:
        """Search for the items to look at, not to run: where a source is out of reach, they are those with a marker."""
        try:
            self._discovery  # noqa: B018 - it is made now
            self._has_discovered = True
        except UserError as error:
            logger.warning(f"{error}; of the scans those are listed that were tried")
            rows = {item: marker.result for item in self.markers.items() if (marker := self.markers.read(item))}
            self._discovery = Discovery(
                [Series(row.get("dataset", "unknown"), "unknown", item, (), "first", "") for item, row in rows.items()]
            )

    @cached_property
    def series(self) -> dict[str, Series]:
        """The scans of the sources, by id."""
        return {series.scan: series for series in self._discovery.series}

    @property
    def exclusions(self) -> list[Exclusion]:
        """What the sources hold and is not prepared, with reasons."""
        return self._discovery.exclusions

    @property
    def passed_over(self) -> list[PassedOver]:
        """How many files of the sources are no images; a further one makes nothing again."""
        return self._discovery.passed_over

    def items(self) -> list[str]:
        return list(self.series)

    def reads(self, item: str) -> Mapping[str, Any]:
        data, series = self.settings.data, self.series[item]
        low_dose = "measured" if series.low_files else data.low_dose.as_record()
        return {"low_dose": low_dose, "fit": data.fit, "source files": series.stamp}

    def location(self, item: str) -> str:
        return printable(str(self.series[item].location))

    def outputs(self, item: str) -> list[Path]:
        dataset = self.series[item].dataset
        return [pair_path(self.folder.data, dataset, item), contact_path(self.folder.data, dataset, item)]

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        return dict(result)  # the row of the manifest, with the digests of all arrays

    def folders(self, item: str) -> Mapping[Path, str]:
        return {pair_path(self.folder.data, self.series[item].dataset, item): _PAIR_FILES}

    def workers(self) -> int:
        return self.settings.data.workers

    def allowed_failures(self, count: int) -> int:
        return int(self.settings.data.max_failed * count)

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        import torch

        from data_prep.prepare import prepare

        torch.set_num_threads(1)
        threads = max(1, self.workers() // len(self.series))  # a single scan gets the cores of all workers
        return prepare(self.series[item], self.settings.data, self.folder.data, threads=threads, progress=progress)
