"""Scans to pairs, their manifest and the split."""

import json
from collections.abc import Mapping
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import digest_json, write_atomic, write_json
from data_prep.paths import contact_path, pair_path
from data_prep.progress import Progress
from data_prep.sources.discovery import discover
from data_prep.sources.discovery_cache import recall
from data_prep.sources.series import Discovery, Exclusion, Series
from data_prep.split import Split, split
from jobs.engine.stage import Ref, Stage
from pipeline.training.world import World


class Prepare(Stage):
    """An item is a scan; its output a Zarr pair and a contact sheet."""

    name: ClassVar[str] = "prepare"
    version: ClassVar[int] = 2
    private: ClassVar[bool] = True
    uses_search: ClassVar[bool] = True

    def find_items(self, progress: Progress) -> str:
        """Look through the sources; workers then see what was found."""
        self._discovery = discover(self.settings.data.sources, progress)
        return f"{len(self._discovery.series)} scans found, {len(self._discovery.exclusions)} series set aside"

    def is_searched(self) -> bool:
        """Whether the sources were looked through before."""
        return recall(self.settings.data.sources) is not None

    @cached_property
    def _discovery(self) -> Discovery:
        sources = self.settings.data.sources
        return recall(sources) or discover(sources)

    @cached_property
    def series(self) -> dict[str, Series]:
        """The scans that the sources hold, by id."""
        return {series.scan: series for series in self._discovery.series}

    @property
    def exclusions(self) -> list[Exclusion]:
        """What the sources hold besides."""
        return self._discovery.exclusions

    def items(self) -> list[str]:
        """Scan ids."""
        return list(self.series)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The low-dose settings, if they are used, and the source files' names, sizes and times."""
        data, series = self.settings.data, self.series[item]
        low_dose = "measured" if series.low_files else data.low_dose.model_dump(mode="json")
        return {"low_dose": low_dose, "fit": data.fit, "source files": series.stamp}

    def location(self, item: str) -> str:
        """The file or folder of the scan."""
        return str(self.series[item].location)

    def outputs(self, item: str) -> list[Path]:
        """The pair and its contact sheet."""
        dataset = self.series[item].dataset
        return [pair_path(self.folder.data, dataset, item), contact_path(self.folder.data, dataset, item)]

    def workers(self) -> int:
        """As set."""
        return self.settings.data.workers

    def allowed_failures(self, count: int) -> int:
        """As set."""
        return int(self.settings.data.max_failed * count)

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Make the pair; one scan alone gets all the workers' cores."""
        import torch

        from data_prep.prepare import prepare

        torch.set_num_threads(1)
        threads = max(1, self.workers() // len(self.series))
        return prepare(self.series[item], self.settings.data, self.folder.data, threads=threads, progress=progress)


class MakeSplit(Stage):
    """The manifest of all scans, kept or turned away, and who is held out."""

    name: ClassVar[str] = "split"
    version: ClassVar[int] = 2
    accepts_failed_inputs: ClassVar[bool] = True
    gathers: ClassVar[str] = Prepare.name

    def __init__(self, prepare: Prepare) -> None:
        super().__init__(prepare.folder)
        self.prepare = prepare

    def items(self) -> list[str]:
        """One."""
        return ["split"]

    @property
    def least(self) -> int:
        """Slices that a scan must have: those of the study's thickest volume."""
        return max(self.settings.study.slices)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The split settings, the slices of a volume, and what was set aside."""
        aside = digest_json(sorted(map(astuple, self.prepare.exclusions)))
        return {**self.settings.data.split.model_dump(mode="json"), "least": self.least, "set aside": aside}

    def inputs(self, item: str) -> list[Ref]:
        """Every scan."""
        return [(self.gathers, scan) for scan in self.prepare.items()]

    def outputs(self, item: str) -> list[Path]:
        """``manifest.csv`` and ``split.json``."""
        return [self.folder.data / "manifest.csv", self.folder.data / "split.json"]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write both files."""
        import pandas as pd

        from data_prep.overview import draw_pages

        rows = [self._row(scan) for scan in self.prepare.items()]
        kept = [row for row in rows if row["state"] == "kept"]
        manifest, split_file = self.outputs(item)
        for dataset in sorted({row["dataset"] for row in kept}):
            draw_pages(self.folder.data, [row for row in kept if row["dataset"] == dataset])
        turned_away = [_turned_away(other, other.reason, other.images) for other in self.prepare.exclusions]
        write_atomic(manifest, pd.DataFrame(rows + turned_away).to_csv(index=False))
        made = split(kept, self.settings.data.split, self.least)
        write_json(split_file, made.to_json())
        return {"by": made.by, "slices": {part: sum(map(len, found)) for part, found in made.parts.items()}}

    def _row(self, scan: str) -> dict[str, Any]:
        marker = self.prepare.markers.read(scan)
        if marker and marker.state == "done":
            short = marker.result["slices"] < self.least
            reason = f"{marker.result['slices']} slices, a volume of the study takes {self.least}" if short else ""
            return {**marker.result, "state": "turned away" if short else "kept", "reason": reason}
        series = self.prepare.series[scan]
        return _turned_away(series, marker.reason if marker else "not prepared", len(series.files))


def _turned_away(series: Series | Exclusion, reason: str, slices: int) -> dict[str, Any]:
    names = {"dataset": series.dataset, "subject": series.subject, "scan": series.scan}
    return {**names, "slices": slices, "state": "turned away", "reason": reason}


def read_split(stage: Stage) -> Split:
    """The split of the run."""
    return Split.from_json(json.loads((stage.folder.data / "split.json").read_text()))


def count_states(data: Path) -> list[tuple[str, str, int]]:
    """Data set, state and how many series, from the manifest."""
    import pandas as pd

    counts = pd.read_csv(data / "manifest.csv", dtype=str).groupby(["dataset", "state"]).size().reset_index()
    return [(str(dataset), str(state), int(count)) for dataset, state, count in counts.itertuples(index=False)]
