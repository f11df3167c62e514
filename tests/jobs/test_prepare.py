"""What a run found in its sources is what its workers and ``quarterdose status`` see."""

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import UserError
from data_prep.files import locked
from data_prep.noise_table import read_noise
from data_prep.progress import ignore_progress
from data_prep.settings import SplitSettings
from data_prep.split import Split, split
from jobs.commands.run import _look_again
from jobs.engine.display import Display
from jobs.engine.item_states import item_states
from jobs.engine.launch import Launcher
from jobs.engine.marker import Markers
from jobs.engine.outcome import RunFailed
from jobs.engine.run import run_graph
from jobs.engine.run_folder import RunFolder
from jobs.engine.targets import check_targets
from jobs.engine.worker import work_alone
from jobs.stages.graph import graph_of, open_graph, preparation_of, started_of
from jobs.stages.prepare import Prepare
from jobs.stages.split import SplitScans, count_states, describe_noise
from pipeline.settings.run import RunSettings
from tests.command_line import quarterdose_within
from tests.data_prep.dicom_series import write_series
from tests.markers import mark_done
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
    completed = quarterdose_within(root, "status", str(root))
    assert completed.returncode == 0, completed.stderr
    return [line.split()[:3] for line in completed.stdout.splitlines() if "prepare" in line.split()[:1]]


def test_a_correlation_that_no_noise_has_is_refused_before_any_scan_is_turned_away(root: Path) -> None:
    settings = RunFolder.opened(root).settings.model_dump(mode="json")
    settings["data"]["low_dose"]["z_correlation"] = [0.9]
    folder = RunFolder.of(RunSettings.model_validate(settings))
    with pytest.raises(UserError, match=r"no noise has data\.low_dose\.z_correlation \[0\.9\]; similar is \[0\.70\]"):
        Prepare(folder).find_items(ignore_progress)


def test_status_looks_at_no_source(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").rename(tmp_path / "moved")
    assert status(root) == [["prepare", "a", "waiting"]]
    with pytest.raises(UserError, match="does not exist"):
        Prepare(RunFolder.opened(root)).find_items(ignore_progress)


def test_what_was_tried_is_shown_where_neither_the_cache_nor_the_sources_are(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "scans" / "notes.txt")
    assert prepare(root) == (2, [])
    mark_done(graph_of(RunFolder.opened(root)), "split", "split")
    (tmp_path / "scans").rename(tmp_path / "moved")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert status(root) == [["prepare", "a", "done"]]
    assert item_states(started_of(RunFolder.opened(root)), {})["split", "split"].state == "done"
    assert quarterdose_within(root, "logs", str(root)).returncode == 0


def test_a_submission_looks_at_the_sources_again_where_it_sees_them(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.opened(root)
    write_nifti(tmp_path / "scans" / "b.nii", chest(20))
    assert graph_of(folder).stages["prepare"].items() == ["a"]
    _look_again(folder, graph_of(folder), is_searched=True)
    assert graph_of(folder).stages["prepare"].items() == ["a", "b"]
    (tmp_path / "scans").rename(tmp_path / "moved")
    _look_again(folder, graph_of(folder), is_searched=True)
    assert (
        f"{tmp_path / 'scans'} is not seen from here: the scans are those of the last look" in capsys.readouterr().out
    )
    assert graph_of(folder).stages["prepare"].items() == ["a", "b"]


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


class _Here:
    """Launcher of work in this process, which has ended when it was started."""

    def start_workers(self, root: Path, stage: str, items: Sequence[str], workers: int) -> "_Here":
        work_alone(open_graph, root, stage, items)
        return self

    def start_ranks(self, root: Path, stage: str, item: str, ranks: int) -> "_Here":
        raise AssertionError(stage)

    def have_ended(self) -> bool:
        return True

    def fault(self) -> str:
        return ""

    def stop(self) -> None:
        """Nothing is left to stop."""


def prepare(root: Path, launcher: Launcher | None = None) -> tuple[int, list[str]]:
    graph = preparation_of(RunFolder.opened(root))
    graph.stages["prepare"].find_items(ignore_progress)
    return run_graph(graph, launcher or _Here(), Display())


class _Unable(_Here):
    """Launcher of workers that die before they come to an item, as one that cannot write its log."""

    def start_workers(self, root: Path, stage: str, items: Sequence[str], workers: int) -> _Here:
        return self

    def fault(self) -> str:
        return "process 7 died of SIGKILL"


def test_where_workers_die_before_they_start_the_reason_is_told(root: Path) -> None:
    with pytest.raises(RunFailed, match=rf"prepare/a was not run: process 7 died of SIGKILL; see {root}/logs"):
        prepare(root, _Unable())


@pytest.mark.slow
def test_where_too_many_scans_are_refused_the_manifest_says_why(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scans" / "b.nii").write_bytes(b"no scan")
    with pytest.raises(UserError, match=r"b\.nii: no readable NIfTI file"):
        prepare(root)
    manifest = pd.read_csv(root / "data" / "manifest.csv").set_index("scan")
    assert manifest["state"].to_dict() == {"a": "kept", "b": "turned away"}
    assert "no readable NIfTI file" in str(manifest["reason"]["b"])
    assert not (root / "data" / "split.json").exists()
    assert Markers(root, "split").read("split").state == "failed"  # type: ignore[union-attr]
    (tmp_path / "scans" / "b.nii").unlink()
    for seed, name in enumerate("cd", start=1):
        write_nifti(tmp_path / "scans" / f"{name}.nii", chest(20, seed=seed))
    assert prepare(root) == (3, [])
    assert (root / "data" / "split.json").is_file()


def test_files_that_are_no_images_are_counted_and_make_nothing_again(root: Path, tmp_path: Path) -> None:
    for name in ("Doe.txt", "._a.nii"):
        (tmp_path / "scans" / name).write_bytes(b"x")
    assert prepare(root) == (2, [])
    manifest = pd.read_csv(root / "data" / "manifest.csv", keep_default_na=False)
    rows = manifest[["state", "dataset", "subject", "scan", "slices", "reason"]].to_numpy().tolist()
    assert rows[1:] == [["no image", "nifti", "", "", 2, "has no image's name (2)"]]
    assert count_states(root / "data") == [("nifti", "kept", 1), ("nifti", "no image", 2)]
    assert describe_noise(root / "data") == (
        "noise to look at in 1 of 1 scans: the own or the added noise of 1 could not be measured "
        f"(noise_remark in {root}/data/manifest.csv, sheets in {root}/data/contact)"
    )
    (tmp_path / "scans" / "notes.txt").write_bytes(b"x")
    assert prepare(root) == (0, [])


def test_pairs_that_are_being_written_are_not_said_to_be_wrong(root: Path) -> None:
    """Pairs of other settings do not agree with their manifest, which is written after all of them."""
    assert prepare(root) == (2, [])
    (root / "data" / "nifti" / "a.zarr").rename(root / "data" / "nifti" / "b.zarr")
    with locked(Markers(root, "prepare").lock("a")):
        verified = quarterdose_within(root, "verify", "data")
    assert (verified.returncode, verified.stdout) == (2, "")
    assert "data is being prepared: verify it when that has ended" in verified.stderr
    with locked(Markers(root, "train").lock("2d")):  # which only reads
        assert "2 faults" in quarterdose_within(root, "verify", "data").stdout


def test_pairs_that_cannot_be_split_are_prepared_and_a_run_says_why_it_ends(root: Path) -> None:
    assert prepare(root) == (2, [])
    assert pd.read_csv(root / "data" / "manifest.csv")["state"].tolist() == ["kept"]
    graph = graph_of(RunFolder.opened(root))
    with pytest.raises(UserError, match=r"scan a has 20 slices; data.split leaves"):
        run_graph(graph, _Here(), Display())


@pytest.mark.slow
def test_the_table_of_several_doses_goes_with_them(root: Path) -> None:
    table = root / "data" / "manifest_noise.csv"
    for doses in ((0.1, 0.2), (0.1,)):
        _change_doses(root, doses)
        prepare(root)
        assert len(read_noise(root / "data")) == len(doses)
        assert table.exists() == (len(doses) > 1)
    put(table)
    _change_doses(root, (0.2,))
    with pytest.raises(UserError, match=r"manifest_noise\.csv was not written by quarterdose"):
        check(root)


def test_scans_of_several_doses_that_are_all_too_short_are_a_table_without_rows(root: Path) -> None:
    settings = RunFolder.opened(root).settings.model_dump(mode="json")
    settings["data"]["low_dose"]["doses"] = [0.1, 0.2]
    settings["study"]["slices"] = [32]
    RunFolder.of(RunSettings.model_validate(settings)).record()
    prepare(root)
    assert count_states(root / "data") == [("nifti", "turned away", 1)]
    assert pd.read_csv(root / "data" / "manifest_noise.csv").empty
    assert describe_noise(root / "data") == ""


def _change_doses(root: Path, doses: tuple[float, ...]) -> None:
    settings = RunFolder.opened(root).settings.model_dump()
    settings["data"]["low_dose"] |= {"doses": doses}
    RunFolder.of(RunSettings.model_validate(settings)).record()


def test_a_run_without_a_scan_of_enough_slices_says_so(root: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scans" / "a.nii", chest(8))
    assert prepare(root) == (2, [])
    graph = graph_of(RunFolder.opened(root))
    with pytest.raises(
        UserError, match="no scan is kept of 1 series, 1 of them as: 8 slices, a volume of the study takes 16"
    ):
        run_graph(graph, _Here(), Display())


def test_a_choice_that_leaves_no_scan_says_what_was_there(tmp_path: Path) -> None:
    for name, kernel in (("a", "B30f"), ("b", "B30f"), ("c", "B70f")):
        write_series(tmp_path / "scans" / name, chest(4), (2.5, 0.7, 0.7), patient=name, ConvolutionKernel=kernel)
    source = {"kind": "dicom", "path": tmp_path / "scans", "kernel": "b30F"}
    settings = {"name": "t", "runs": tmp_path / "runs", "data": {"sources": [source]}}
    folder = RunFolder.of(RunSettings.model_validate(settings))
    folder.record()
    reason = (
        "no scan is kept of 3 series, 2 of them as: kernel B30f, wanted b30F; .*manifest.csv has the reason of each"
    )
    with pytest.raises(UserError, match=reason):
        run_graph(graph_of(folder), _Here(), Display())


FLAT, DEEP = {"model": "ddnet", "dims": 2}, {"model": "ddnet", "dims": 3}


@pytest.mark.parametrize(
    ("networks", "study", "min_slices"),
    [
        ({"flat": FLAT}, {}, 16),
        ({"flat": FLAT, "deep": DEEP}, {}, 32),
        ({"flat": FLAT, "deep": DEEP}, {"slices": [16], "also": [{"slices": 48}, {"slices": 32}]}, 48),
        ({"flat": FLAT, "deep": DEEP}, {"network": "flat", "slices": [32, 64]}, 32),
    ],
)
def test_a_scan_needs_the_slices_of_the_thickest_volume_of_any_training(
    networks: dict[str, Any], study: dict[str, Any], min_slices: int, tmp_path: Path
) -> None:
    """Also of further grids; 2D networks are validated on 16, a 3D network without a grid takes the study's first."""
    values = {"name": "t", "runs": tmp_path, "data": {"sources": [{"kind": "sample"}]}}
    folder = RunFolder.of(RunSettings.model_validate({**values, "networks": networks, "study": study}))
    scans = graph_of(folder).stages["split"]
    assert isinstance(scans, SplitScans)
    assert scans.min_slices == min_slices


@pytest.mark.slow
def test_a_study_of_several_patient_ids_stays_in_one_part_of_the_split(tmp_path: Path) -> None:
    """Two measured pairs of one study, whose headers name two patients, beside two other patients."""
    studies = {"C001": "1.2.1", "C002": "1.2.1", "C003": "1.2.3", "C004": "1.2.4"}
    for number, (patient, study) in enumerate(studies.items()):
        full = chest(16, 32, seed=number)
        low = full + np.random.default_rng(0).integers(0, 40, full.shape).astype(np.int16)
        for dose, hu in (("Full Dose Images", full), ("Low Dose Images", low)):
            write_series(
                tmp_path / "scans" / f"{number} {dose}", hu, (2.5, 0.7, 0.7), patient=patient,
                StudyInstanceUID=study, SeriesDescription=dose,
            )  # fmt: skip
    data = {"sources": [{"kind": "mayo", "path": tmp_path / "scans"}]}
    settings = {"name": "t", "runs": tmp_path, "data": data, "study": {"slices": [16]}}
    folder = RunFolder.of(RunSettings.model_validate(settings))
    folder.record()
    Prepare(folder).find_items(ignore_progress)
    work_alone(open_graph, folder.root, "prepare", Prepare(folder).items())
    rows = [marker.result for marker in map(Prepare(folder).markers.read, Prepare(folder).items()) if marker]
    for seed in range(40):
        split_settings = SplitSettings(seed=seed)
        parted = split(rows, split_settings, 16)
        if parts_of(parted, rows)["C001"] != parts_of(parted, rows)["C002"]:
            break
    seeded = {**settings, "data": {**data, "split": {"seed": seed}}}
    RunFolder.of(RunSettings.model_validate(seeded)).record()
    work_alone(open_graph, folder.root, "split", ["split"])
    parts = parts_of(Split.from_json(json.loads((folder.data / "split.json").read_text())), rows)
    assert parts["C001"] == parts["C002"]
    assert set(parts.values()) == {"train", "validation", "test"}
    manifest = pd.read_csv(folder.data / "manifest.csv").set_index("subject")
    assert manifest["patient"].to_dict() == {"C001": "C001", "C002": "C001", "C003": "C003", "C004": "C004"}
    assert "studies" not in manifest


@pytest.mark.slow
def test_copies_of_a_scan_under_other_names_are_one_patient(root: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scans" / "a.nii"
    (tmp_path / "scans" / "copy.nii.gz").write_bytes(gzip.compress(scan.read_bytes()))
    for seed, name in enumerate("bc", start=1):
        write_nifti(tmp_path / "scans" / f"{name}.nii", chest(20, seed=seed))
    assert prepare(root) == (5, [])
    manifest = pd.read_csv(root / "data" / "manifest.csv").set_index("scan")
    assert manifest["patient"].to_dict() == {"a": "a", "b": "b", "c": "c", "copy": "a"}


@pytest.mark.slow
def test_a_data_set_that_gets_its_former_name_back_has_it_in_the_manifest(root: Path) -> None:
    """Its pair under the former name still lies there, of which the marker knows nothing."""
    settings = RunFolder.opened(root).settings
    for name in ("before", "after", "before"):
        sources = [source.model_copy(update={"dataset": name}) for source in settings.data.sources]
        data = settings.data.model_copy(update={"sources": tuple(sources)})
        folder = RunFolder.of(settings.model_copy(update={"data": data}))
        folder.record()
        Prepare(folder).find_items(ignore_progress)
        prepare(root)
        assert pd.read_csv(root / "data" / "manifest.csv")["dataset"].tolist() == [name]


def parts_of(drawn: Split, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the part of each patient."""
    subjects = {row["scan"]: row["subject"] for row in rows}
    return {subjects[segment.scan]: part for part, segments in drawn.parts.items() for segment in segments}


def check(root: Path) -> None:
    """Check the targets of a run, as it does before it starts."""
    graph = graph_of(RunFolder.opened(root))
    graph.stages["prepare"].find_items(ignore_progress)
    check_targets(graph, graph.decide_all())


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


@pytest.mark.parametrize(
    "name",
    ["data/nifti/a.zarr", "data/contact/nifti/a.png", "data/split.json",
     "cells/2d/result.json", "cells/2d/notes.txt", "cells/2d/checkpoints", "evaluation/low-dose.json",
     "evaluation/low-dose/notes.txt", "transfer/mirror.pt"],
)  # fmt: skip
def test_a_file_of_the_users_where_an_output_belongs_is_refused(name: str, root: Path) -> None:
    name = name.replace("mirror", next(iter(graph_of(RunFolder.opened(root)).stages["transfer"].items()), "none"))
    path = put(root / name)
    with pytest.raises(UserError, match=rf"{re.escape(name)} was not written by quarterdose"):
        check(root)
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_what_a_user_adds_to_outputs_is_not_replaced_with_them(root: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("cd", start=1):
        write_nifti(tmp_path / "scans" / f"{name}.nii", chest(20, seed=seed))
    assert prepare(root) == (4, [])
    notes = put(root / "data" / "nifti" / "a.zarr" / "notes.txt")
    check(root)  # as the pair stays
    write_nifti(tmp_path / "scans" / "a.nii", chest(21))
    with pytest.raises(UserError, match=r"notes\.txt was not written by quarterdose"):
        check(root)
    notes.unlink()
    check(root)
    split = root / "data" / "split.json"
    split.write_text(split.read_text().replace("train", "mine"))
    with pytest.raises(UserError, match=r"split\.json was not written by quarterdose, or was changed later"):
        check(root)


def test_another_process_that_is_just_starting_is_no_stranger(tmp_path: Path) -> None:
    data = {"sources": [{"kind": "nifti", "path": tmp_path / "scans"}]}
    folder = RunFolder.of(RunSettings.model_validate({"name": "t", "runs": tmp_path / "runs", "data": data}))
    for name in (".lock", f"..quarterdose.json.{'0' * 32}.tmp"):
        put(folder.root / name)
    folder.check({})
    put(folder.root / ".quarterdose.txt.tmp")
    with pytest.raises(UserError, match="is no run folder"):
        folder.check({})


def test_a_look_at_a_run_of_an_earlier_version_writes_nothing(root: Path) -> None:
    (root / ".quarterdose.json").unlink()
    before = sorted(root.rglob("*"))
    RunFolder.opened(root).check({}, adopts=False)
    assert sorted(root.rglob("*")) == before
