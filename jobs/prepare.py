"""Scans to pairs, their manifest and the split."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import write_atomic, write_json
from data_prep.layout import pair_path
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
        low_dose = self.settings.data.low_dose.model_dump(mode="json")
        return {"low_dose": low_dose, "source files": self.series[item].fingerprint()}

    def place(self, item: str) -> str:
        """The file or folder of the scan."""
        return str(self.series[item].path)

    def outputs(self, item: str) -> list[Path]:
        """The pair."""
        return [pair_path(self.folder.data, self.series[item].dataset, item)]

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

    @property
    def least(self) -> int:
        """Slices that a scan must have: those of the study's thickest volume."""
        return max(self.settings.study.slices)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The split settings and the slices of a volume."""
        return {**self.settings.data.split.model_dump(mode="json"), "least": self.least}

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
        made = split([row for row in rows if row["state"] == "kept"], self.settings.data.split, self.least)
        write_json(split_file, made.to_json())
        return {"by": made.by, "slices": {part: sum(map(len, found)) for part, found in made.parts.items()}}

    def _row(self, scan: str) -> dict[str, Any]:
        marker = self.prepare.markers.read(scan)
        series = self.prepare.series[scan]
        if marker and marker.state == "done":
            short = marker.result["slices"] < self.least
            reason = f"{marker.result['slices']} slices, a volume of the study takes {self.least}" if short else ""
            return {**marker.result, "state": "turned away" if short else "kept", "reason": reason}
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
