"""Each command that writes meets something of the user's at its target: refused in one line, and nothing is changed."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.cache import cache_folder
from data_prep.settings_file import load_settings
from data_prep.sources.idc import select
from jobs.commands.cli import main
from jobs.engine.run_folder import RunFolder
from pipeline.settings.run import RunSettings
from tests.beside import shared_file
from tests.data_prep.dicom_series import write_series
from tests.jobs.test_targets import digests
from tests.scans import chest, write_nifti
from tests.toy_models import SPACING, toy_model

SETTINGS = "name: x\nruns: {runs}\ndata:\n  sources: [{{kind: nifti, path: {path}}}]\n"
DENOISE = ("denoise", "series", "--model", "models/model.safetensors", "--out", "out", "--threads", "1")
SEARCH = "search={space: {study.training.warmup: {uniform: [0, 0.5]}}}"
MINE = "mine\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with inputs for all commands."""
    work = tmp_path / "work"
    write_series(work / "series", chest(4, 32), SPACING)
    write_nifti(work / "scans" / "toy.nii.gz", chest(4, 32))
    (work / "models").mkdir()
    toy_model(work / "models")
    (work / "x.yaml").write_text(SETTINGS.format(runs="runs", path="scans"))
    monkeypatch.chdir(work)
    return work


def mine(path: str) -> Callable[[Path], None]:
    """Put a file of the user's below the working folder."""

    def put(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(MINE)

    return put


def in_run(path: str) -> Callable[[Path], None]:
    """Put a file of the user's into a folder of this program's run."""

    def put(folder: Path) -> None:
        RunFolder.of(load_settings(folder / "x.yaml", RunSettings)).record()
        mine(f"runs/x/{path}")(folder)

    return put


def link_to_scans(folder: Path) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "x").symlink_to("../scans")


def runs_among_scans(folder: Path) -> None:
    (folder / "x.yaml").write_text(SETTINGS.format(runs="scans/runs", path="scans"))


def settings_as_config(folder: Path) -> None:
    (folder / "runs" / "x").mkdir(parents=True)
    (folder / "x.yaml").rename(folder / "runs" / "x" / "config.yaml")
    (folder / "x.yaml").symlink_to("runs/x/config.yaml")


def sample_of_mine(_folder: Path) -> None:
    (cache_folder() / "sample").unlink()  # a link to the real one
    (cache_folder() / "sample").mkdir()
    (cache_folder() / "sample" / "LIDC-IDRI-0001.nii.gz").write_text(MINE)


def series_of_mine(folder: Path) -> None:
    first = select("lidc", 1)[0].folder(folder / "fetched")
    first.mkdir(parents=True)
    (first / "notes.txt").write_text(MINE)


CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "denoise to DICOM": (mine("out/series/notes.txt"), DENOISE),
    "denoise to NIfTI": (mine("out/series.nii.gz"), (*DENOISE, "--format", "nifti")),
    "denoise to Zarr": (mine("out/series.zarr/zarr.json"), (*DENOISE, "--format", "zarr")),
    "denoise over a side file": (mine("out/series.json"), DENOISE),
    "denoise into a file": (mine("out"), DENOISE),
    "denoise where a lock should be": (mine("out/.lock/notes.txt"), DENOISE),
    "denoise for Slurm": (mine("out/series/notes.txt"), (*DENOISE, "--on", "a100")),
    "denoise for Slurm, logs": (mine("out/slurm"), (*DENOISE, "--on", "a100")),
    "run": (mine("runs/x/notes.txt"), ("run", "x.yaml")),
    "run, a hidden file": (mine("runs/x/.notes"), ("run", "x.yaml")),
    "run, a file": (mine("runs/x"), ("run", "x.yaml")),
    "run, another program's settings": (mine("runs/x/config.yaml"), ("run", "x.yaml")),
    "run for Slurm": (mine("runs/x/notes.txt"), ("run", "x.yaml", "--on", "a100")),
    "run onto its settings": (settings_as_config, ("run", "x.yaml")),
    "run into the scans by a link": (link_to_scans, ("run", "x.yaml")),
    "run among the scans": (runs_among_scans, ("run", "x.yaml")),
    "study": (mine("runs/x/data/manifest.csv"), ("study", "x.yaml")),
    "prepare": (mine("runs/x/data/manifest.csv"), ("prepare", "x.yaml")),
    "evaluate": (mine("runs/x/quality/quality.csv"), ("evaluate", "x.yaml")),
    "evaluate in a run": (in_run("quality/quality.csv"), ("evaluate", "x.yaml")),
    "run, changed settings": (in_run("config.yaml"), ("run", "x.yaml")),
    "run, another model": (in_run("model.safetensors"), ("run", "x.yaml")),
    "work": (mine("runs/x/notes.txt"), ("work", "x.yaml", "find")),
    "search": (in_run("search/found.yaml"), ("search", "x.yaml", "--set", SEARCH)),
    "report, no run": (mine("runs/x/report/index.html"), ("report", "runs/x")),
    "report, a page": (in_run("report/index.html"), ("report", "runs/x")),
    "report, a figure": (in_run("report/figures/mine.png"), ("report", "runs/x")),
    "devcluster down": (mine("cluster/etc/passwd"), ("devcluster", "down", "--wipe", "--folder", "cluster")),
    "devcluster up": (mine("cluster/state/notes.txt"), ("devcluster", "up", "--folder", "cluster")),
    "fetch sample": (sample_of_mine, ("fetch", "sample")),
    "fetch lidc": (series_of_mine, ("fetch", "lidc", "--patients", "1", "--to", "fetched")),
    "fetch into a file": (mine("fetched"), ("fetch", "lidc", "--patients", "1", "--to", "fetched")),
}  # fmt: skip


def refuse(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command line to exit code 2; return its line."""
    monkeypatch.setattr(sys, "argv", ["quarterdose", *words])
    with pytest.raises(SystemExit) as end:
        main()
    line = capsys.readouterr().err
    assert (end.value.code, line.count("\n")) == (2, 1), line
    return line


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_the_programs_stays(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put, words = CASES[case]
    put(folder)
    before = digests(folder), digests(cache_folder())
    line = refuse(words, monkeypatch, capsys)
    assert (digests(folder), digests(cache_folder())) == before
    assert "Error" not in line


@pytest.mark.parametrize("command", ["run", "prepare", "evaluate"])
def test_found_settings_that_were_changed_by_hand_can_be_run(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the search writes there."""
    in_run("search/found.yaml")(folder)
    monkeypatch.setattr(sys, "argv", ["quarterdose", command, "x.yaml", "--dry-run", "--set", SEARCH])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


@pytest.mark.parametrize("target", ["to.safetensors", "to-card.md"])
def test_import_replaces_what_it_wrote_alone(
    target: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(shared_file("ddnet/published_2d_weights.npz"))
    mine(target)(folder)
    before = digests(folder)
    for overwrite in ((), ("--overwrite",)):
        line = refuse(("import-model", weights, "--to", "to.safetensors", *overwrite), monkeypatch, capsys)
        assert f"{target} was not written by quarterdose, or was changed later" in line
    assert digests(folder) == before


def test_import_keeps_another_model_but_under_overwrite(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("import-model", str(shared_file("ddnet/published_2d_weights.npz")), "--to", "models/model.safetensors")
    before = digests(folder)
    assert "is a model file of something else: --overwrite" in refuse(words, monkeypatch, capsys)
    assert digests(folder) == before
    for overwrite in (("--overwrite",), ()):  # the second time it is the same model
        monkeypatch.setattr(sys, "argv", ["quarterdose", *words, *overwrite])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0


def test_weights_are_not_replaced_by_their_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(folder)
    words = ("import-model", "models/model.safetensors", "--to", "models/model.safetensors", "--overwrite")
    assert "is the input" in refuse(words, monkeypatch, capsys)
    assert digests(folder) == before


def test_a_run_folder_of_the_program_is_gone_on_with(folder: Path) -> None:
    run_folder = RunFolder.of(load_settings(folder / "x.yaml", RunSettings))
    run_folder.check({})
    run_folder.record()
    run_folder.check({})
    (run_folder.root / ".quarterdose.json").unlink()  # as versions left it that kept none
    (run_folder.root / "report").mkdir()
    (run_folder.root / "report" / "index.html").write_text("of an earlier version")
    for _ in range(2):
        run_folder.check({run_folder.report: ("index.html",)})
