"""Whole runs of the graph on a toy scan, in real processes."""

import copy
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.scaling.disturbance import MEASURES as DISTURBANCE
from tests.command_line import QUARTERDOSE
from tests.forked import run_forked
from tests.scans import chest, write_nifti

DDNET: dict[str, Any] = {"model": "ddnet", "options": {}}
SMALL: dict[str, Any] = {"model": "unet", "options": {"width": 16, "levels": 1}}  # judged in a tenth of DDnet's time
SETTINGS: dict[str, Any] = {
    "name": "toy",
    "data": {
        "sources": [{"kind": "nifti", "path": "scans", "dataset": "toy", "keep_ids": True}],
        "low_dose": {"doses": 0.1, "geometry": {"views": 288, "channels": 368, "channel_arc_mm": 2.5716}},
        "split": {"validation": 0.33, "test": 0.33, "gap": 0},
    },
    "networks": {
        "2d": {
            **copy.deepcopy(SMALL), "dims": 2, "ranks": 2,
            "training": {"epochs": 2, "samples": 8, "batch": 2, "crop": 16, "validation_samples": 2},
        },
        "3d": {
            **copy.deepcopy(SMALL), "dims": 3,
            "training": {"epochs": 2, "samples": 2, "crop": 16, "validation_samples": 2, "log_steps": 1},
        },
    },
    "study": {
        "ranks": [1, 2], "slices": [16], "sampling": "window", "include_disturbed": True,  # tests run side by side
    },
    "report": {"formats": []},  # a file a figure: half of a report's time
    "evaluate": {"crop": 192, "threads": 1},  # threads wait for one another by spinning, where cores are busy
}  # fmt: skip

LEAN: dict[str, Any] = {**SETTINGS, "evaluate": {**SETTINGS["evaluate"], "also": []}}
"""For tests in which all is judged anew: only the test part is."""


def with_network(settings: dict[str, Any], network: str, *, training: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the settings with one network changed; ``training``: what changes of its training.

    No two networks share options: a settings file has no anchors.
    """
    former = settings["networks"][network]
    changed = {**former, **copy.deepcopy(changes), "training": {**former["training"], **training}}
    return {**settings, "networks": {**settings["networks"], network: changed}}


_OUTPUTS = {  # of an item of each stage, below the run folder
    "prepare": "data/**/{item}.*", "train": "cells/{item}", "study": "cells/{item}",
    "evaluate": "evaluation/{item}.*", "report": "report",
}  # fmt: skip


class Toy:
    """A folder with a scan and a settings file, and the command to run it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.run_folder = folder, folder / "runs" / "toy"
        self.write(settings)

    def write(self, settings: dict[str, Any]) -> None:
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(settings))

    def command(self, *words: str) -> list[str]:
        return [str(QUARTERDOSE), "run", "toy.yaml", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_forked(self.folder, self.command(*words)[1:])

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(), cwd=self.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def await_files(self, process: subprocess.Popen[str], pattern: str) -> None:
        """Wait for files below the run folder that a process is to write; one that ends before says why."""

        def is_written() -> bool:
            written = any_file(self.run_folder, pattern)
            assert written or process.poll() is None, process.communicate()[0]
            return written

        wait_for(is_written)

    def markers(self) -> dict[str, float]:
        """Return when each item ended."""
        markers = {path: json.loads(path.read_text()) for path in self.run_folder.glob("markers/*/*.json")}
        return {f"{path.parent.name}/{path.stem}": marker["finished"] for path, marker in markers.items()}

    def losses(self) -> dict[str, list[float]]:
        losses = {}
        for path in sorted(self.run_folder.glob("cells/*/metrics.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            losses[path.parent.name] = [line["loss"] for line in lines]
        return losses

    def forget(self, *refs: str) -> None:
        """Remove the markers and files of each ``stage/item``, as if it had never run."""
        for stage, item in (ref.split("/") for ref in refs):
            outputs = _OUTPUTS[stage].format(item=item)
            for path in (*self.run_folder.glob(f"markers/{stage}/{item}.*"), *self.run_folder.glob(outputs)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def any_file(folder: Path, pattern: str) -> bool:
    """Say whether files match in a folder into which processes write; one removed while it is listed is no error."""
    while True:
        with suppress(FileNotFoundError):
            return any(folder.glob(pattern))


def wait_for(condition: Callable[[], object], seconds: float = 120, pause: float = 0.01) -> None:
    """Wait; ``pause`` is the time between two looks, longer where a look costs a process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def make_toy_scan(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_nifti(folder / "scans" / "toy.nii.gz", chest(48, side=512))  # small crops of padding would hold no noise


def copied_run(folder: Path, toy: Toy, settings: dict[str, Any] = SETTINGS) -> Toy:
    """Copy a run with its scan, to go on with, or to change."""
    shutil.copytree(toy.folder, folder, dirs_exist_ok=True)
    return Toy(folder, settings)


def whole_run(folder: Path, settings: dict[str, Any], start: Toy | None = None) -> Toy:
    """Run the graph to its end; what ``start`` has done already, under the same settings, is copied."""
    if start:
        toy = copied_run(folder, start, settings)
    else:
        make_toy_scan(folder)
        toy = Toy(folder, settings)
    completed = toy.run()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return toy


_MACHINES_OWN = ("seconds", "peak_bytes", "nodes", "node_list", "timed_steps", "disturbed", "disturbance", "left_out",
                 *DISTURBANCE)  # fmt: skip
"""Ends of the names of columns that differ from run to run."""


def assert_alike(ours: Toy, theirs: Toy) -> None:
    """But for times, memory, nodes, and how many steps were warm."""
    assert ours.losses() == theirs.losses()
    for name in ("quality.csv", "cells.csv"):
        pd.testing.assert_frame_equal(report_table(ours, name), report_table(theirs, name))


def report_table(toy: Toy, name: str) -> pd.DataFrame:
    """Read a table of a run's report, without what differs from run to run."""
    table = pd.read_csv(toy.run_folder / "report" / name)
    return table[[column for column in table if not str(column).endswith(_MACHINES_OWN)]]
