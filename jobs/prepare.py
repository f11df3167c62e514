"""Scans to pairs, their manifest and the split."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import write_atomic, write_json
from data_prep.progress import Progress
from data_prep.sources import Series, discover
from data_prep.split import Split, split
from jobs.stage import Ref, Stage
from pipeline.training.world import World


class Prepare(Stage):
    """An item is a scan; its output a Zarr pair."""

    name: ClassVar[str] = "prepare"

    @cached_property
    def series(self) -> dict[str, Series]:
        """The scans that the sources hold, by id."""
        return discover(self.settings.data.sources)

    def items(self) -> list[str]:
        """Scan ids."""
        return list(self.series)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The low-dose settings and the source files' sizes and times."""
        files = [list(entry) for entry in self.series[item].fingerprint()]
        return {"low_dose": self.settings.data.low_dose.model_dump(mode="json"), "source files": files}

    def outputs(self, item: str) -> list[Path]:
        """The pair."""
        return [self.folder.data / self.series[item].dataset / f"{item}.zarr"]

    def workers(self) -> int:
        """As set."""
        return self.settings.data.workers

    def tolerated(self) -> float:
        """As set."""
        return self.settings.data.max_failed

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Make the pair; one scan alone gets all the workers' cores."""
        import torch

        from data_prep.prepare import prepare

        torch.set_num_threads(1)
        threads = max(1, self.workers() // len(self.series))
        return prepare(
            self.series[item],
            self.settings.data.low_dose,
            self.folder.data,
            threads=threads,
            progress=progress,
        )


class MakeSplit(Stage):
    """The manifest of all scans, kept or turned away, and who is held out."""

    name: ClassVar[str] = "split"
    any_input: ClassVar[bool] = True

    def __init__(self, prepare: Prepare) -> None:
        super().__init__(prepare.folder)
        self.prepare = prepare

    def items(self) -> list[str]:
        """One."""
        return ["split"]

    def reads(self, item: str) -> Mapping[str, Any]:
        """The split settings."""
        return self.settings.data.split.model_dump(mode="json")

    def inputs(self, item: str) -> list[Ref]:
        """Every scan."""
        return [("prepare", scan) for scan in self.prepare.items()]

    def outputs(self, item: str) -> list[Path]:
        """``manifest.csv`` and ``split.json``."""
        return [self.folder.data / "manifest.csv", self.folder.data / "split.json"]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write both files."""
        import pandas as pd

        rows = [self._row(scan) for scan in self.prepare.items()]
        manifest, split_file = self.outputs(item)
        write_atomic(manifest, pd.DataFrame(rows).to_csv(index=False))
        made = split([row for row in rows if row["state"] == "kept"], self.settings.data.split)
        write_json(split_file, made.to_json())
        return {"by": made.by, "slices": {part: sum(map(len, found)) for part, found in made.parts.items()}}

    def _row(self, scan: str) -> dict[str, Any]:
        marker = self.prepare.markers.read(scan)
        series = self.prepare.series[scan]
        if marker and marker.state == "done":
            return {**marker.result, "state": "kept", "reason": ""}
        reason = marker.reason if marker else "not prepared"
        return {
            "dataset": series.dataset,
            "subject": series.subject,
            "scan": scan,
            "state": "turned away",
            "reason": reason,
        }


def read_split(stage: Stage) -> Split:
    """The split of the run."""
    return Split.from_json(json.loads((stage.folder.data / "split.json").read_text()))
