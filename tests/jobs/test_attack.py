"""Another user of the machine, who shares a group, against a run: nothing of his is run, read or replaced."""

import os
import pickle
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from jobs.commands.denoise import denoise
from slurm.calls import FAILED, command_of, read_call, write_calls
from slurm.profile import load_profile
from slurm.submit import JobRequest, enqueue, submit
from tests.command_line import QUARTERDOSE, quarterdose_within
from tests.scans import chest, write_nifti
from tests.toy_models import toy_model
from tests.toy_runs import SETTINGS, Toy, make_toy_scan

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
NOBODY = 65534


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that its group can write, where every user comes."""
    folder = Path(tempfile.mkdtemp(prefix="quarterdose-shared-"))
    folder.chmod(0o775)
    yield folder
    shutil.rmtree(folder)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def as_other(script: str, *arguments: object) -> None:
    """Run a shell script as nobody, in the group of this user."""
    setpriv = ["setpriv", f"--reuid={NOBODY}", f"--regid={os.getegid()}", "--clear-groups"]
    subprocess.run([*setpriv, "sh", "-euc", script, "sh", *map(str, arguments)], check=True, cwd="/")


def make_call(calls: Path) -> subprocess.CompletedProcess[str]:
    """What a job of Slurm does."""
    return subprocess.run(command_of(calls), shell=True, capture_output=True, text=True, check=False)


def test_a_call_is_made_by_the_file_that_was_submitted(tmp_path: Path) -> None:
    path = tmp_path / "proof"
    assert make_call(write_calls(tmp_path, Path.touch, [(path,)])).returncode == 0
    assert path.exists()
    failed = make_call(write_calls(tmp_path, Path.touch, [(tmp_path / "no" / "folder",)]))
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"{FAILED}[Errno 2] No such file or directory")


def test_a_call_that_was_changed_or_taken_back_is_not_unpickled(tmp_path: Path) -> None:
    calls = write_calls(tmp_path, Path.touch, [(tmp_path / "proof",)])
    calls.write_bytes(pickle.dumps(Touch(tmp_path / "attack")))
    for task, words in ((0, "was changed after the submission, and nothing of it is run"), (0, "was taken back")):
        with pytest.raises(UserError, match=words):
            read_call(calls, task)
        calls.unlink(missing_ok=True)
    assert make_call(calls).returncode == 1
    assert not (tmp_path / "attack").exists()
    assert not (tmp_path / "proof").exists()


def test_no_two_submissions_share_a_file(tmp_path: Path) -> None:
    assert len({write_calls(tmp_path, Path.touch, [(tmp_path,)]) for _ in range(3)}) == 3


@needs_root
def test_who_replaces_the_folder_of_a_call_runs_nothing(shared: Path) -> None:
    """The folder above became writable for the group after the submission."""
    shared.chmod(0o755)
    logs = shared / "logs"
    logs.mkdir(mode=0o700)
    calls = write_calls(logs, Path.touch, [(shared / "proof",)])
    evil = shared / "evil"
    evil.write_bytes(pickle.dumps(Touch(shared / "attack")))
    shared.chmod(0o775)
    as_other('mv "$1" "$1.old"; mkdir "$1"; cp "$2" "$1/$3"', logs, evil, calls.name)
    refused = make_call(calls)
    assert refused.returncode == 1
    assert f"{FAILED}{calls} was changed after the submission" in refused.stderr
    assert not (shared / "attack").exists()


def test_nothing_is_submitted_from_a_folder_that_everybody_can_write(shared: Path) -> None:
    shared.chmod(0o777)
    refusal, proof = f"{shared} can be written by everybody", shared / "proof"
    with pytest.raises(UserError, match=refusal):
        enqueue(load_profile("dev"), shared / "logs", Path.touch, JobRequest("x", [(proof,)]))
    for name in ("local", "debug"):
        with pytest.raises(UserError, match=refusal):
            submit(load_profile(name), shared / "logs", 1, Path.touch, proof)
    assert list(shared.iterdir()) == []


def quarterdose(folder: Path, *words: str, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    command = [str(QUARTERDOSE), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, umask=umask)


@pytest.mark.parametrize("command", [("run", "toy.yaml"), ("prepare", "toy.yaml", "--on", "local"),
                                     ("run", "toy.yaml", "--dry-run")])  # fmt: skip
def test_a_run_in_a_folder_that_the_group_can_write_is_refused(command: tuple[str, ...], shared: Path) -> None:
    Toy(shared, SETTINGS)
    os.umask(0o002)
    refused = quarterdose_within(shared, *command)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert f"`chmod g-w {shared}` or `chmod +t {shared}`, or choose another `runs` in the settings" in refused.stderr
    assert not (shared / "runs").exists()


@pytest.mark.slow
def test_a_run_in_a_folder_of_a_group_that_is_trusted(shared: Path) -> None:
    make_toy_scan(shared)
    Toy(shared, SETTINGS)
    trusting = quarterdose(shared, "prepare", "toy.yaml", "--set", "share=group", umask=0o002)
    assert trusting.returncode == 0, trusting.stderr
    assert quarterdose_within(shared, "status", "runs/toy").returncode == 0
    (shared / "runs" / "toy").chmod(0o770)
    refused = quarterdose_within(shared, "prepare", "toy.yaml", "--set", "share=group")
    assert f"{shared / 'runs' / 'toy'} can be written by its group, who could change what lies in it" in refused.stderr


def modes(folder: Path) -> dict[bool, set[int]]:
    """Modes of all files and of all folders below and with a folder."""
    entries = [folder, *folder.rglob("*")]
    return {kind: {stat.S_IMODE(path.stat().st_mode) for path in entries if path.is_dir() == kind}
            for kind in (False, True)}  # fmt: skip


@pytest.mark.slow
def test_a_run_is_for_its_user_alone_unless_the_group_may_read(tmp_path: Path) -> None:
    """Also where modules of another user lie in the working folder."""
    for name in ("numpy", "torch", "submitit", "multiprocessing", "pickle"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'attack')!r}, 'w')")
    make_toy_scan(tmp_path)
    toy = Toy(tmp_path, SETTINGS)
    assert quarterdose(tmp_path, "prepare", "toy.yaml", umask=0o002).returncode == 0
    assert modes(tmp_path / "runs") == {False: {0o600}, True: {0o700}}
    toy.write({**SETTINGS, "share": "group"})
    toy.forget("prepare/toy")
    completed = quarterdose(tmp_path, "prepare", "toy.yaml", "--on", "local", umask=0o002)
    assert completed.returncode == 0, completed.stderr
    assert f"{toy.run_folder}: its modes are now what `share: group` says" in completed.stdout + completed.stderr
    shutil.rmtree(toy.run_folder / "logs" / "submitit")  # submitted calls stay private
    assert modes(toy.run_folder) == {False: {0o640}, True: {0o750}}
    assert not (tmp_path / "attack").exists()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    (toy.run_folder / "cells").symlink_to(tmp_path / "disk")
    refused = quarterdose_within(tmp_path, "status", "runs/toy")
    assert f"{tmp_path / 'disk'} can be written by everybody" in refused.stderr
    (toy.run_folder / "cells").unlink()
    toy.run_folder.chmod(0o770)
    for words in (("prepare", "toy.yaml"), ("status", "runs/toy"), ("logs", "runs/toy"), ("report", "runs/toy")):
        assert f"{toy.run_folder} can be written by its group" in quarterdose_within(tmp_path, *words).stderr


def test_denoised_scans_have_the_modes_of_their_user(tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii.gz", chest(16, 64))
    os.umask(0o002)
    denoise([tmp_path / "scan.nii.gz"], toy_model(tmp_path), tmp_path / "out", format="nifti")
    assert stat.S_IMODE((tmp_path / "out" / "scan.nii.gz").stat().st_mode) == 0o664
