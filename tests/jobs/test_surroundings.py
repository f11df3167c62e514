"""What is around the program fails: it works all the same, or says in one sentence what is wrong."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Never

import pytest
import torch
from typer.testing import CliRunner

from data_prep.cache import cache_folder
from data_prep.errors import UserError, describe_os_error
from data_prep.files import write_atomic
from data_prep.log import logger
from data_prep.pseudonym import pseudonym
from data_prep.settings import SourceSettings
from data_prep.settings_file import load_settings
from data_prep.sources.discovery import discover
from data_prep.sources.discovery_cache import recall
from jobs.commands.cli import app, main
from jobs.commands.run import run_here
from jobs.engine.graph import Graph
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.worker import _describe, work_alone
from jobs.stages.graph import open_graph, preparation_of
from pipeline.inference.corrector import Corrector
from pipeline.settings.run import RunSettings
from tests.command_line import CONFIG, QUARTERDOSE
from tests.data_prep.dicom_series import write_series
from tests.full_disk import small_files
from tests.scans import chest, write_nifti
from tests.toy_models import SPACING, toy_model

NO_UTF_8 = os.fsdecode(b"bad\xff")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a scan and a model."""
    write_series(tmp_path / "series", chest(4, 32), SPACING)
    toy_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["missing", "a file", "none"])
def no_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that does not exist and cannot be made, that is a file, or none at all for this user."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    (tmp_path / "file").write_text("")
    home = {"missing": "/proc/nohome", "a file": str(tmp_path / "file"), "none": "~"}[request.param]
    monkeypatch.setenv("HOME", home)


DENOISE = ["denoise", "--model", "model.safetensors", "--threads", "1", "--out", "out"]


def denoise(*words: str) -> str:
    return CliRunner().invoke(app, [*DENOISE, *words], catch_exceptions=False).output


def raise_(error: Exception) -> Never:
    raise error


@pytest.mark.usefixtures("no_home")
def test_denoising_needs_no_home_but_pseudonyms_do(folder: Path) -> None:
    assert "out/series: 4 slices" in denoise("series")
    assert len(list((folder / "out" / "series").iterdir())) == 4
    with pytest.raises(UserError, match="XDG_CONFIG_HOME name a folder that you can write"):
        denoise("series", "--deidentify")
    with pytest.raises(UserError, match="XDG_CONFIG_HOME name a folder that you can write"):
        discover([SourceSettings(kind="dicom", path=folder / "series")])
    assert not (folder / "~").exists()


def test_sources_are_looked_through_each_time_where_there_is_no_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nocache")
    sources = [SourceSettings(kind="dicom", path=folder / "series")]
    assert len(discover(sources).series) == 1
    assert recall(sources) is None
    assert "let XDG_CACHE_HOME name a folder that you can write" in capsys.readouterr().out


def test_a_relative_folder_in_the_environment_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        assert cache_folder() == tmp_path / ".cache" / "quarterdose"


def test_a_key_of_another_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty key would make pseudonyms that anybody can compute."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "quarterdose").mkdir()
    (tmp_path / "quarterdose" / "pseudonym.key").write_bytes(b"")
    with pytest.raises(UserError, match="holds no key of 32 bytes"):
        pseudonym("Doe^Jane")


def test_a_full_disk_is_one_sentence_that_names_what_was_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    with small_files(1000), pytest.raises(UserError, match="series: /tmp: File too large"):
        denoise("series", "--format", "nifti")
    assert not list((folder / "out").glob("*series*"))
    with small_files(1000), pytest.raises(OSError, match="File too large") as caught:
        write_atomic(folder / "new", b"0" * 2000)
    assert describe_os_error(caught.value) == f"{folder / 'new'}: File too large"


def test_bytes_of_paths_that_are_no_text_are_shown_and_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "series").rename(folder / NO_UTF_8)
    for kind in ("dicom", "nifti", "zarr"):
        denoise(NO_UTF_8, "--format", kind)
    assert {path.name for path in (folder / "out").glob("*")} > {NO_UTF_8, f"{NO_UTF_8}.nii.gz", f"{NO_UTF_8}.zarr"}
    logger.info(NO_UTF_8)
    assert "bad\\udcff" in capsys.readouterr().out


def test_a_terminal_of_few_characters_shows_all_others_as_escapes(tmp_path: Path) -> None:
    (tmp_path / f"Müller{NO_UTF_8}.yaml").write_text(CONFIG.format(source="{kind: nifti, path: Müller}"), "utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [str(QUARTERDOSE), "run", f"Müller{NO_UTF_8}.yaml"]
    completed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (completed.returncode, completed.stderr.count(b"\n")) == (2, 1), completed.stderr
    assert b"of the nifti source does not exist" in completed.stderr


def test_where_output_cannot_be_written_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(CONFIG.format(source="{kind: sample}"))
    with Path("/dev/full").open("w") as full:
        command = [str(QUARTERDOSE), "config", "x.yaml"]
        completed = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (completed.returncode, completed.stderr) == (2, "quarterdose: No space left on device\n")


def test_a_marker_from_the_future_keeps_nothing_from_being_done_again(tmp_path: Path) -> None:
    """As after a clock was set back, or by another node's clock."""
    data = {"sources": [{"kind": "nifti", "path": tmp_path / "scans", "keep_ids": True}]}
    low_dose = {"geometry": {"views": 32, "channels": 64}}
    settings = {"name": "t", "runs": tmp_path / "runs", "data": {**data, "low_dose": low_dose}}
    folder = RunFolder.of(RunSettings.model_validate(settings))
    markers = Markers(folder.root, "prepare")
    for slices in (4, 5):
        write_nifti(tmp_path / "scans" / "a.nii", chest(slices, 32))
        discover(folder.settings.data.sources)
        folder.record()
        work_alone(open_graph, folder.root, "prepare", ["a"])
        marker = markers.read("a")
        assert marker is not None
        assert marker.result["slices"] == slices
        markers.write("a", replace(marker, finished=time.time() + 3600))


def test_memory_that_is_used_up_is_no_fault_of_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch says so by errors of no kind of their own."""
    data = {"sources": [{"kind": "nifti", "path": folder}]}
    run_folder = RunFolder.of(RunSettings.model_validate({"name": "t", "runs": folder / "runs", "data": data}))
    stage = preparation_of(run_folder).stages["prepare"]
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60)
    machine, gpu = "this machine has too little memory for it", "the GPU has too little memory for it"
    errors = {MemoryError(): machine, of_torch.value: machine, torch.OutOfMemoryError("CUDA out of memory. Tried"): gpu}
    for error, words in errors.items():
        monkeypatch.setattr(Corrector, "__call__", lambda *_arguments, error=error: raise_(error))
        monkeypatch.setattr("sys.argv", ["quarterdose", *DENOISE, "series"])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert capsys.readouterr().err.splitlines()[-1] == f"quarterdose: {words}"
        assert _describe(stage, error) == words


def test_lost_settings_of_a_complete_run_are_written_again(tmp_path: Path) -> None:
    """As the refusal of changed ones promises: without them no other command opens the folder."""
    data = {"sources": [{"kind": "nifti", "path": tmp_path}]}
    folder = RunFolder.of(RunSettings.model_validate({"name": "t", "runs": tmp_path / "runs", "data": data}))
    run_here(folder, Graph([]), open_graph, None)
    assert RunFolder.opened(folder.root).settings == folder.settings


def test_where_the_disk_of_the_run_is_full_the_pair_is_named(tmp_path: Path) -> None:
    """A missing scan is not: its name may tell a patient."""
    folder = _begin(tmp_path / "Doe" / "a.nii")
    with small_files(20_000):
        assert _prepare(folder) == f"{folder.data / 'nifti' / 'a.zarr'}: File too large"
    (tmp_path / "Doe" / "a.nii").unlink()
    assert _prepare(folder) == "No such file or directory"


def test_where_the_temporary_folder_is_full_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a packed scan is larger than the memory of a node, in which /tmp often lies."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    folder = _begin(tmp_path / "Doe" / "a.nii.gz")
    with small_files(2000):
        assert _prepare(folder) == "/tmp: File too large"


@pytest.mark.parametrize(("name", "setting"), [("TERM", "dumb"), ("NO_COLOR", "1"), ("TERM", "xterm")])
def test_a_terminal_without_colours_gets_none(name: str, setting: str, tmp_path: Path) -> None:
    folder = _begin(tmp_path / "Doe" / "a.nii")
    work_alone(open_graph, folder.root, "prepare", ["a"])
    screen, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", name: setting}
    subprocess.run([str(QUARTERDOSE), "status", str(folder.root)], env=environment, stdout=terminal, check=True)
    os.close(terminal)
    shown = os.read(screen, 100_000)
    os.close(screen)
    assert b"prepare" in shown
    assert (b"\x1b" in shown) == (setting == "xterm")


def _begin(scan: Path) -> RunFolder:
    """Write a scan; return the folder of a run that has looked through its source and begun."""
    write_nifti(scan, chest(4, 32))
    data = {"sources": [{"kind": "nifti", "path": scan.parent, "keep_ids": True}]}
    low_dose = {"geometry": {"views": 32, "channels": 64}}
    settings = {"name": "t", "runs": scan.parent.parent / "runs", "data": {**data, "low_dose": low_dose}}
    folder = RunFolder.of(RunSettings.model_validate(settings))
    folder.record()
    discover(folder.settings.data.sources)
    return folder


def _prepare(folder: RunFolder) -> str:
    """Prepare scan ``a``; return the reason why it failed."""
    work_alone(open_graph, folder.root, "prepare", ["a"])
    marker = Markers(folder.root, "prepare").read("a")
    assert marker is not None
    return marker.reason


@pytest.mark.slow
def test_a_scan_that_may_not_be_read_stops_itself_alone(folder: Path) -> None:
    """As another user than root, who may read everything."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, to become another user")
    for name in ("closed", "inside"):
        shutil.copytree(folder / "series", folder / name)
    (folder / "closed").chmod(0)
    shutil.move(folder / "inside", folder / "shut" / "inside")
    (folder / "shut").chmod(0)
    for path in (folder, *folder.parents):  # pytest's own folders are root's alone
        if path.stat().st_uid == 0 and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(QUARTERDOSE), "denoise", "closed",
               "shut/inside", "series", "--model", "model.safetensors", "--out", "out", "--threads", "1"]  # fmt: skip
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stderr.count("\n")) == (2, 1), completed.stderr
    assert "2 of 3 scans were refused: closed: " in completed.stderr
    assert len(list((folder / "out" / "series").iterdir())) == 4


def test_pipes_circles_of_links_and_homes_of_nobody_are_one_sentence(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="pipe: is neither a folder nor a file"):
        denoise("pipe")
    with pytest.raises(UserError, match="circle does not exist"):
        denoise("circle")
    for key in ("data: {sources: [{kind: dicom, path: ~nobody-here/x}]}", "runs: ~nobody-here"):
        (folder / "x.yaml").write_text(f"name: x\n{key}\n")
        with pytest.raises(UserError, match="~nobody-here is no home on this machine: write the whole path"):
            load_settings(folder / "x.yaml", RunSettings)
