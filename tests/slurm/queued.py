"""Toy runs on a cluster, and what of them can be seen from outside."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from slurm.devcluster import Cluster
from tests.command_line import QUARTERDOSE
from tests.toy_runs import SETTINGS, SMALL, Toy, wait_for, with_network

PROFILE: dict[str, Any] = {
    "executor": "slurm", "partition": "gpu", "minutes": 30, "tasks_a_node": 2, "gpus_a_task": 1, "memory_a_cpu": 8192,
    "signal_seconds": 30, "environment": {"GLOO_SOCKET_IFNAME": "lo"},
}  # fmt: skip
WHOLE = 600.0  # seconds within which a run has ended, on a slow machine
CELL = "3d-s16-r2"


class Queued(Toy):
    """A toy run on a cluster."""

    def __init__(self, folder: Path, settings: dict[str, Any], cluster: Cluster, **profile: Any) -> None:
        super().__init__(folder, settings)
        self.cluster = cluster
        self.profile(**profile)

    def profile(self, **changes: Any) -> None:
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump({**PROFILE, **changes}))

    def submit(self, *words: str) -> str:
        completed = self.run("--on", "cluster.yaml", *words)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def tell(self, *words: str) -> str:
        """What a command of quarterdose says of the run."""
        command = [str(QUARTERDOSE), words[0], str(self.run_folder), *words[1:]]
        wide = {**os.environ, "COLUMNS": "300"}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=wide).stdout

    def submissions(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_folder / "queue.jsonl").read_text().splitlines()]

    def job(self, stage: str, item: str | None = None) -> str:
        """The newest job, or array, of a stage or of one of its items."""
        jobs = [
            submission["jobs"][0]
            for submission in self.submissions()
            if submission["stage"] == stage and item in (None, *submission["items"])
        ]
        return str(jobs[-1])

    def queued(self) -> set[str]:
        mine = {job for submission in self.submissions() for job in submission["jobs"]}
        return mine & {line.partition("_")[0] for line in self.cluster.command("squeue", "-h", "-o", "%i").split()}

    def await_end(self) -> None:
        wait_for(lambda: not self.queued(), WHOLE, pause=0.2)

    def steps(self, cell: str = CELL) -> int:
        path = self.run_folder / "cells" / cell / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def await_steps(self, cell: str, steps: int) -> None:
        wait_for(lambda: self.steps(cell) >= steps, WHOLE, pause=0.05)

    def log(self, stage: str, item: str | None = None) -> str:
        logs = sorted((self.run_folder / "logs" / "slurm").glob(f"{self.job(stage, item)}_*log.out"))
        return "".join(path.read_text() for path in logs)

    def await_log(self, words: str, item: str, seconds: float) -> None:
        wait_for(lambda: words in self.log("study", item), seconds, pause=0.05)

    def nodes(self, job: str) -> list[str]:
        listed = self.cluster.command("squeue", "-h", "-j", job, "-t", "running", "-o", "%N").strip()
        return self.cluster.command("scontrol", "show", "hostnames", listed).split() if listed else []


def changed(network: Mapping[str, Any] = SMALL, /, **study: Any) -> dict[str, Any]:
    """The toy's settings with another network and study, and with less to judge and to train in the plane."""
    settings = copy.deepcopy(SETTINGS)
    settings["evaluate"]["also"] = []
    settings = with_network(settings, "2d", ranks=1, training={"epochs": 1}, **network)
    settings = with_network(settings, "3d", training=study.pop("training", {}), **network)
    return {**settings, "study": {**settings["study"], **study}}


SPREAD = {**changed(ranks=[1, 4], training={"samples": 4}), "budget": {"gpu_hour_price": 2}}


def without(
    cells: Sequence[str], toy: Toy, folder: Path, cluster: Cluster, settings: dict[str, Any], **profile: Any
) -> Queued:
    """A copy of a whole run from which 3D trainings and all behind them are gone."""
    shutil.copytree(toy.folder, folder, dirs_exist_ok=True)
    copied = Queued(folder, settings, cluster, **profile)
    for cell in cells:
        copied.forget(f"study/{cell}", f"evaluate/{cell}")
    copied.forget("report/report")
    assert "keep train/2d" in copied.run("--dry-run").stdout  # which remembers where the scans lie, too
    return copied


def accounted(toy: Toy, cell: str | None = None) -> pd.DataFrame:
    """``accounting.csv`` by stage and item, of which the parts make the whole: of one training, or of all."""
    table = pd.read_csv(toy.run_folder / "report" / "accounting.csv")
    trained = table[table["stage"].isin(["train", "study"]) & table["item"].isin([cell] if cell else table["item"])]
    assert len(trained)
    parts = trained[[c for c in table if str(c).endswith("_gpu_hours")]]
    assert (parts > 0).all(axis=None)
    assert parts.sum(axis=1).tolist() == pytest.approx(trained["gpu_hours"].tolist())
    return table.set_index(table["stage"] + "/" + table["item"].fillna(""))


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
