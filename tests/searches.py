"""Searches on a toy scan, by the command line."""

import copy
from pathlib import Path
from typing import Any

import pandas as pd

from tests.command_line import QUARTERDOSE
from tests.toy_runs import SETTINGS, SMALL, Toy

SPACE = {
    "study.training.learning_rate": {"log": [1e-4, 1e-1]},
    "networks.b.training.batch": {"choice": [1, 2]},
}
SEARCH: dict[str, Any] = {
    "space": SPACE, "trials": 4, "generation": 2, "sampler": "tpe", "halving": {"rungs": [0.5]}, "workers": 2,
}  # fmt: skip
TIMES = ("hours", "cpu_hours")


def searching(training: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    """Settings of the toy with two 2D networks and a search."""
    settings = copy.deepcopy(SETTINGS)
    settings["networks"] = {name: {**copy.deepcopy(SMALL), "dims": 2} for name in ("a", "b")}
    settings["study"] = {"transfer": "none", "slices": 16, "training": {
        "epochs": 2, "samples": 8, "batch": 2, "crop": 32, "validation_samples": 2, "log_steps": 1,
        "checkpoint_steps": 2, **(training or {}),
    }}  # fmt: skip
    networks = search.get("networks", settings["networks"])
    space = {path: x for path, x in SPACE.items() if path.split(".")[1] in ("training", *networks)}
    return {**settings, "search": {**SEARCH, "space": space, **search}}


class Searching(Toy):
    """A toy run whose command is ``search``."""

    def command(self, *words: str) -> list[str]:
        return [str(QUARTERDOSE), "search", "toy.yaml", *words]

    def trials(self) -> pd.DataFrame:
        table = pd.read_csv(self.run_folder / "search" / "trials.csv")
        return table.set_index(["network", "trial"])

    def trial(self, name: str) -> Path:
        return self.run_folder / "search" / "trials" / name

    def search(self, *words: str) -> str:
        completed = self.run(*words)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout


def assert_same_trials(ours: Searching, theirs: Searching) -> None:
    """But for their times, and for steps that a pruned trial took in place of another one that was killed."""
    a, b = (toy.trials().drop(columns=list(TIMES)) for toy in (ours, theirs))
    pd.testing.assert_frame_equal(a, b)
    for network, number, steps in a.reset_index()[["network", "trial", "steps"]].itertuples(index=False):
        folders = [toy.trial(f"{network}-t{number:04d}") for toy in (ours, theirs)]
        lines = [[line for line in losses(folder) if line[1] <= steps] for folder in folders]
        assert lines[0] == lines[1]
        assert lines[0][-1][1] == steps


def losses(folder: Path) -> list[tuple[str, int, float]]:
    """Each line of a training's metrics: its kind, step and loss."""
    lines = pd.read_json(folder / "metrics.jsonl", lines=True)
    return list(zip(lines["kind"], lines["step"], lines["loss"], strict=True))
