"""Files of a finished run are cut, flipped and removed: noticed, named, and made again with the same numbers."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from data_prep.errors import UserError
from jobs.engine.outcome import RunFailed
from jobs.engine.submissions import Submissions
from jobs.stages.graph import open_graph
from tests.command_line import QUARTERDOSE, quarterdose, quarterdose_within
from tests.toy_runs import LEAN, Toy, assert_alike, copied_run

pytestmark = pytest.mark.whole

UNREAD = {
    r"logs/.*": "for people",
    r"markers/.*\.begun": "another digest lets an unfinished item start anew",
    r"cells/.*/tensorboard/.*": "for people",
    r"cells/.*/checkpoints/.*": "older than the last; a training that goes on takes the newest that is whole",
    r"data/.*/c/\d+/0/0": "checked by whoever reads it, and by `verify`",
    r"data/contact/[^/]*\.png": "for people: the sheets of whole data sets",
    r"((data|report)/)?\.quarterdose\.json": "read before files in this folder are replaced",
    r"provenance\.json": "read before it is replaced, and by the report",
}
"""Files that no decision reads, and the reason."""


@pytest.fixture
def toy(tmp_path: Path, undisturbed: Toy) -> Toy:
    """A copy of the whole run."""
    return copied_run(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, undisturbed: Toy) -> Toy:
    """A copy of the whole run, whose files are changed and changed back."""
    return copied_run(tmp_path_factory.mktemp("walked"), undisturbed)


def flip(content: bytes) -> bytes:
    """Change the last digit to another one, where there is a digit, else a bit in the middle."""
    digits = [match.start() for match in re.finditer(rb"[0-8]", content)]
    position = digits[-1] if digits else len(content) // 2
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@contextmanager
def spoilt(path: Path, spoil: Callable[[bytes], bytes]) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    yield
    path.write_bytes(content)


def spoil_now(toy: Toy, name: str, spoil: Callable[[bytes], bytes] = flip) -> Path:
    path = toy.run_folder / name
    path.write_bytes(spoil(path.read_bytes()))
    return path


def is_noticed(root: Path, name: str) -> bool:
    """Whether the graph runs something again because of a file, or a refusal names it."""
    try:
        return any(decision.run for decision in open_graph(root).decide_all())
    except (UserError, RunFailed) as error:
        return name in str(error)


@pytest.mark.parametrize("spoil", [flip, cut])
def test_each_file_of_a_run_folder_is_noticed_when_it_changes(walked: Toy, spoil: Callable[[bytes], bytes]) -> None:
    root, unnoticed = walked.run_folder, list[str]()
    assert not is_noticed(root, "")
    is_read_by_status = re.compile(r"config\.yaml|\.quarterdose\.json|markers/.*")
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size):
        name = path.relative_to(root).as_posix()
        with spoilt(path, spoil):
            unnoticed += [] if is_noticed(root, name) else [name]
            if is_read_by_status.fullmatch(name):
                completed = quarterdose_within(walked.folder, "status", "runs/toy")
                assert completed.returncode == 0 or name in completed.stderr
    assert [name for name in unnoticed if not any(re.fullmatch(pattern, name) for pattern in UNREAD)] == []
    assert [pattern for pattern in UNREAD if not any(re.fullmatch(pattern, name) for name in unnoticed)] == []


def test_what_can_be_made_again_is_and_gives_the_same_numbers(toy: Toy, undisturbed: Toy) -> None:
    last = sorted((toy.run_folder / "cells/3d-s16-r2/checkpoints").iterdir())[-1]
    for name in ("cells/2d/metrics.jsonl", "cells/3d-s16-r1/result.json", "evaluation/tv.json",
                 last.relative_to(toy.run_folder).as_posix()):  # fmt: skip
        spoil_now(toy, name)
    for name in ("markers/train/2d.json", "markers/evaluate/2d.json"):
        spoil_now(toy, name, cut)
    (toy.run_folder / "markers/prepare/toy.json").unlink()
    completed = toy.run()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    for reason in (
        "prepare/toy: never run", r"train/2d: failed before: \S+markers/train/2d.json was cut or changed",
        "study/3d-s16-r1: cells/3d-s16-r1/result.json was cut or changed after it was written",
        rf"study/3d-s16-r2: cells/3d-s16-r2/checkpoints/{last.name} was cut or changed",
        "evaluate/tv: evaluation/tv.json was cut or changed", "evaluate/3d-s16-r2: study/3d-s16-r2 was made again",
    ):  # fmt: skip
        assert re.search(rf"^{reason}", completed.stdout, re.MULTILINE), (reason, completed.stdout)
    assert "split/split: " not in completed.stdout  # the pair is the same
    assert not re.search("^evaluate/(low-dose|3d-s16-r1): .*(changed|again|never)", completed.stdout, re.MULTILINE)
    assert_alike(toy, undisturbed)
    assert "nothing to do" in toy.run().stdout


def test_what_a_user_may_have_changed_is_refused_by_name_until_it_is_moved(toy: Toy, undisturbed: Toy) -> None:
    for name in ("data/split.json", "report/quality.csv", "config.yaml"):
        path = spoil_now(toy, name)
        refused = toy.run()
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert f"{path} was not written by quarterdose, or was changed later" in refused.stderr
        path.unlink()
        assert toy.run().returncode == 0
    assert_alike(toy, undisturbed)
    assert toy.markers()["train/2d"] == undisturbed.markers()["train/2d"]


def test_a_missing_manifest_is_written_again_and_nothing_is_trained_again(toy: Toy) -> None:
    manifest = toy.run_folder / "data" / "manifest.csv"
    content, before = manifest.read_bytes(), toy.markers()
    manifest.unlink()
    completed = toy.run()
    assert "split/split: data/manifest.csv is missing" in completed.stdout
    assert manifest.read_bytes() == content
    after = toy.markers()
    assert {ref for ref in after if after[ref] != before[ref]} == {"split/split"}


def test_a_flipped_shard_is_mended_and_nothing_is_trained_again(toy: Toy) -> None:
    shard, before = "data/toy/toy.zarr/low_dose/c/0/0/0", toy.markers()
    content = (toy.run_folder / shard).read_bytes()
    spoil_now(toy, shard)
    verified = quarterdose(toy.folder, "verify", "runs/toy/data")
    assert verified.returncode == 1
    assert "toy.zarr/low_dose does not hold what was written" in verified.stdout
    assert "with --mend damaged pairs are made anew" in verified.stdout
    mended = quarterdose(toy.folder, "verify", "runs/toy/data", "--mend")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert (toy.run_folder / shard).read_bytes() == content
    assert quarterdose(toy.folder, "verify", "runs/toy/data").returncode == 0
    assert "nothing to do" in toy.run().stdout
    after = toy.markers()
    assert {ref for ref in after if after[ref] != before[ref]} == {"prepare/toy"}


def test_a_training_that_was_refused_for_a_damaged_pair_goes_on_when_the_pair_is_restored(toy: Toy) -> None:
    toy.forget("train/2d")
    content = (toy.run_folder / "data/toy/toy.zarr/low_dose/c/0/0/0").read_bytes()
    shard = spoil_now(toy, "data/toy/toy.zarr/low_dose/c/0/0/0", cut)
    for _ in range(2):
        refused = toy.run()
        assert refused.returncode == 2
        assert "toy.zarr/low_dose does not hold what was written" in refused.stderr
    shard.write_bytes(content)
    assert toy.run().returncode == 0


def test_a_clock_that_is_a_day_ahead_and_then_set_right_changes_no_decision(toy: Toy, undisturbed: Toy) -> None:
    if not shutil.which("faketime"):
        pytest.skip("needs faketime")
    toy.write(LEAN)
    command = ["faketime", "-f", "+1d", *toy.command("--set", "evaluate.crop=208")]
    ahead = subprocess.run(command, cwd=toy.folder, capture_output=True, text=True, check=False, timeout=400)
    assert ahead.returncode == 0, ahead.stdout + ahead.stderr
    quality = pd.read_csv(toy.run_folder / "report" / "quality.csv")
    assert quality["model"].tolist() == ["low-dose", "tv", "2d", "3d-s16-r1", "3d-s16-r2"]
    assert not quality.equals(pd.read_csv(undisturbed.run_folder / "report" / "quality.csv"))
    back = toy.run()
    assert back.stdout.count("crop changed from 208 to 192") == 5
    assert_alike(toy, undisturbed)


def test_a_scan_that_is_taken_away_is_said(toy: Toy) -> None:
    shutil.copyfile(toy.folder / "scans/toy.nii.gz", toy.folder / "scans/more.nii.gz")
    assert "run  split/split: prepare/more runs first" in toy.run("--dry-run").stdout
    completed = quarterdose(toy.folder, "prepare", "toy.yaml")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (toy.folder / "scans/more.nii.gz").unlink()
    assert "run  split/split: prepare/more was taken away" in toy.run("--dry-run").stdout


def test_a_run_here_beside_jobs_in_the_queue_is_refused(toy: Toy) -> None:
    """Where Slurm cannot be asked, it is not known whether they have ended."""
    Submissions(toy.run_folder).add("train", ["2d"], ["12"], 2, 0)
    environment = {"PATH": str(QUARTERDOSE.parent)}
    refused = subprocess.run(
        toy.command(), cwd=toy.folder, capture_output=True, text=True, check=False, env=environment
    )
    assert refused.returncode == 2
    assert "whether they have ended is not known, as sacct is not installed here" in refused.stderr
    assert f"remove {toy.run_folder / 'queue.jsonl'}" in refused.stderr
    spoil_now(toy, "queue.jsonl")
    for command in ("status", "logs", "cancel"):
        completed = quarterdose_within(toy.folder, command, "runs/toy")
        assert completed.returncode == 2
        assert "queue.jsonl: line 1 was cut or changed" in completed.stderr
