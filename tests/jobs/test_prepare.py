"""What a run found in its sources is what its workers and ``quarterdose status`` see."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from data_prep.errors import UserError
from data_prep.progress import ignore_progress
from jobs.engine.run_folder import RunFolder
from jobs.engine.worker import work_alone
from jobs.stages.graph import open_graph
from jobs.stages.prepare import Prepare
from pipeline.settings.run import RunSettings
from tests.command_line import QUARTERDOSE
from tests.scans import chest, write_nifti


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a run that has looked through its source and begun."""
    write_nifti(tmp_path / "scans" / "a.nii", chest(20))
    source = {"kind": "nifti", "path": tmp_path / "scans", "keep_ids": True}
    low_dose = {"geometry": {"views": 288, "channels": 368, "channel_arc_mm": 2.5716}}
    data = {"sources": [source], "low_dose": low_dose}
    study = {"slices": [16]}
    folder = RunFolder.of(RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": data, "study": study}))
    folder.record()
    Prepare(folder).find_items(ignore_progress)
    return folder.root


def status(root: Path) -> list[list[str]]:
    told = subprocess.run([str(QUARTERDOSE), "status", str(root)], capture_output=True, text=True, check=True).stdout
    return [line.split()[:3] for line in told.splitlines() if "prepare" in line.split()[:1]]


def test_status_looks_at_no_source(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").rename(tmp_path / "moved")
    assert status(root) == [["prepare", "a", "waiting"]]
    with pytest.raises(UserError, match="does not exist"):
        Prepare(RunFolder.opened(root)).find_items(ignore_progress)


def test_workers_see_the_files_of_the_run_that_started_them(root: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "b.nii", chest(20))
    for stage, item in [("prepare", "a"), ("split", "split")]:
        work_alone(open_graph, root, stage, [item])
    assert pd.read_csv(root / "data" / "manifest.csv")["scan"].tolist() == ["a"]
    assert status(root) == [["prepare", "a", "done"]]


def test_the_next_run_sees_a_new_scan_and_so_do_its_workers(root: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "b.nii", chest(20))
    assert Prepare(RunFolder.opened(root)).items() == ["a"]
    Prepare(RunFolder.opened(root)).find_items(ignore_progress)
    assert Prepare(RunFolder.opened(root)).items() == ["a", "b"]


def test_where_nothing_is_remembered_the_sources_are_looked_through(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nifti(tmp_path / "scans" / "b.nii", chest(20))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Prepare(RunFolder.opened(root)).items() == ["a", "b"]
