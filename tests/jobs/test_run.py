"""The whole graph on a toy scan, in real processes, disturbed in several ways."""

import getpass
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.files import is_locked
from pipeline.inference.model_file import load_model
from pipeline.models.unet import UNet
from pipeline.settings.names import FORMATS
from tests.command_line import QUARTERDOSE, quarterdose
from tests.forked import run_forked
from tests.plain_ddnet import PlainDDnet
from tests.processes import processes_in, workers_in
from tests.toy_runs import (
    DDNET,
    LEAN,
    SETTINGS,
    SMALL,
    Toy,
    assert_alike,
    copied_run,
    make_toy_scan,
    wait_for,
    whole_run,
    with_network,
)

pytestmark = pytest.mark.whole


@pytest.fixture
def fresh(tmp_path: Path) -> Toy:
    """A run that has not begun."""
    make_toy_scan(tmp_path)
    return Toy(tmp_path, LEAN)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder in which the path of a socket is no longer than the system takes."""
    with TemporaryDirectory(prefix="q") as folder:
        yield Path(folder)


def test_a_temporary_folder_with_too_long_a_name_is_named(fresh: Toy, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    refused = subprocess.run(
        fresh.command(), cwd=fresh.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert f"{folder} has too long a name: let TMPDIR name a folder of at most 75 bytes" in refused.stderr


@pytest.fixture
def toy(tmp_path: Path, undisturbed: Toy) -> Toy:
    """A copy of the whole run, to go on with."""
    return copied_run(tmp_path, undisturbed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, undisturbed: Toy) -> Toy:
    """A copy of the whole run with all files of figures, shared by the tests that only look."""
    return whole_run(tmp_path_factory.mktemp("finished"), {**SETTINGS, "report": {}}, undisturbed)


def test_a_whole_run_leaves_its_report(finished: Toy) -> None:
    report = finished.run_folder / "report"
    quality = pd.read_csv(report / "quality.csv").set_index("model")
    assert list(quality.index) == ["low-dose", "tv", "2d", "3d-s16-r1", "3d-s16-r2"]
    assert quality.loc["low-dose", "rmse_change"] == 0
    assert (quality["slices"] == 16).all()
    speed = pd.read_csv(report / "speedup.csv")
    assert speed["baseline"].tolist() == ["3d-s16-r1"] * 2
    assert speed["speed_up"].iloc[0] == 1
    cells = pd.read_csv(report / "cells.csv")
    assert (cells["state"] == "done").all()
    networks = [UNet(dims, **SMALL["options"]) for dims in (2, 3, 3)]
    assert cells["parameters"].tolist() == [sum(x.numel() for x in network.parameters()) for network in networks]
    model = load_model(finished.run_folder / "model.safetensors")
    assert set(model.provenance["metrics"]) == {"low-dose", "tv", model.cell.id}
    validated = model.provenance["validation"]
    relative = {
        name: result["validation"]["rmse_hu"] / result["validation"]["low_dose_rmse_hu"]
        for name in ("2d", "3d-s16-r1", "3d-s16-r2")
        for result in [json.loads((finished.run_folder / "cells" / name / "result.json").read_text())]
    }
    assert model.cell.id == min(relative, key=lambda name: relative[name])
    assert validated["rmse_hu"] / validated["low_dose_rmse_hu"] == pytest.approx(min(relative.values()), abs=1e-3)
    card = (finished.run_folder / "model-card.md").read_text()
    assert f"| {model.cell.id} | {float(quality['rmse_hu_mean'][model.cell.id]):.2f} |" in card
    assert card.count(f"the network ({model.cell.id}) ") == 1
    assert model.provenance["noise"]["scans"].endswith("of 1 measured")
    assert "* **noise**: " in card
    assert "the best of 3 networks (" in (report / "summary.txt").read_text()
    page = (report / "index.html").read_text()
    with np.load(finished.run_folder / "evaluation" / "2d.npz") as example:
        assert example["image"].shape == example["full_dose"].shape == (16, *example["image"].shape[1:])
    figures = {path.name for path in (report / "figures").iterdir()}
    assert {"fig9-slices.png", "fig8-differences.svg", "fig4-time.svg", "efficiency.png"} <= figures
    assert page.count('src="data:image/') == len(figures) / len(FORMATS)
    assert "slabs of each scan" in page
    manifest = pd.read_csv(finished.run_folder / "data" / "manifest.csv")
    assert manifest["state"].tolist() == ["kept"]


def test_a_second_run_does_nothing(finished: Toy) -> None:
    before = finished.markers()
    repeated = quarterdose(finished.folder, "run", "toy.yaml")
    assert repeated.returncode == 0
    assert "nothing to do" in repeated.stdout
    assert finished.markers() == before


def test_verbose_adds_what_is_left_as_it_is_and_quiet_leaves_the_results(undisturbed: Toy) -> None:
    quiet, usual, verbose = (
        quarterdose(undisturbed.folder, *flag, "run", "toy.yaml").stdout for flag in (["--quiet"], [], ["--verbose"])
    )
    report, warning = quiet.splitlines()[-2:]
    assert report == f"report: {undisturbed.run_folder / 'report' / 'index.html'}"
    assert warning.startswith("noise to look at in 1 of 1 scans: the own or the added noise of 1 could not be measured")
    assert usual == f"nothing to do: every item is complete and unchanged\n{quiet}"
    added = verbose.removesuffix(usual).splitlines()
    assert [line for line in added if line.endswith(": done")] == added
    assert len(added) == len(undisturbed.markers())


def test_a_dry_run_says_why(finished: Toy) -> None:
    before = finished.markers()
    same = finished.run("--dry-run").stdout
    assert same.count("keep") == len(before) == 13
    changed = finished.run("--dry-run", "--set", "data.low_dose.doses=0.2").stdout
    assert "run  prepare/toy: low_dose.dose changed from 0.1 to 0.2" in changed
    assert "run  split/split: prepare/toy runs first" in changed
    assert changed.count("keep") == 0
    extended = finished.run(
        "--dry-run", "--set", "study.ranks=[1,2,4]", "--set", "networks.3d.training.samples=4"
    ).stdout
    assert "study/3d-s16-r4: never run" in extended
    last = sorted((finished.run_folder / "cells/3d-s16-r1/checkpoints").iterdir())[-1]
    last.rename(last.with_suffix(".away"))
    without = finished.run("--dry-run").stdout
    last.with_suffix(".away").rename(last)
    assert f"run  study/3d-s16-r1: cells/3d-s16-r1/checkpoints/{last.name} is missing" in without
    assert finished.markers() == before


def test_evaluate_tells_the_quality_of_what_is_judged(finished: Toy) -> None:
    before = finished.markers()
    output = subprocess.run(
        [str(QUARTERDOSE), "evaluate", "toy.yaml"], cwd=finished.folder, capture_output=True, text=True, check=True
    ).stdout
    assert "nothing to do" in output
    assert finished.markers() == before
    target = finished.run_folder / "quality"
    assert {path.name for path in target.iterdir()} == {
        ".quarterdose.json", ".quarterdose.lock", "quality.csv", "quality_scans.csv", "quality_datasets.csv",
        "quality_tests.csv", "quality_verdicts.csv", "nps.csv",
        *(f"{name}.{ending}" for name in ("noise-spectra", "sharpness", "bias") for ending in FORMATS),
    }  # fmt: skip
    quality = pd.read_csv(target / "quality.csv").set_index("model")
    assert all(model in output for model in quality.index)
    assert quality.loc["low-dose", "sharpness"] == pytest.approx(1, abs=0.05)
    assert quality["ms_ssim_3d"].between(0, 1).all()
    scans = pd.read_csv(target / "quality_scans.csv")
    assert scans.groupby("model")["part"].agg(list).map(tuple).unique().tolist() == [("test", "validation")]
    assert pd.read_csv(target / "quality_tests.csv")["verdict"].str.startswith("not testable").all()


def test_the_same_graph_through_submitit_gives_the_same_losses(toy: Toy, undisturbed: Toy) -> None:
    toy.forget("prepare/toy", "train/2d", "study/3d-s16-r1", "study/3d-s16-r2")
    toy.write(LEAN)
    assert toy.losses() == {}
    completed = toy.run("--on", "local")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert list((toy.run_folder / "logs" / "submitit").glob("*.calls"))
    assert toy.losses() == undisturbed.losses()


def test_the_same_graph_with_the_debug_executor(toy: Toy) -> None:
    alone = ("--set", "networks.2d.ranks=1", "--set", "study.ranks=[1]")
    toy.forget("prepare/toy", "train/2d")
    toy.write(LEAN)
    refused = toy.run("--on", "debug")
    assert refused.returncode == 2
    assert "2 ranks were asked for, but the debug executor has one process" in refused.stderr
    completed = toy.run("--on", "debug", *alone)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert pd.read_csv(toy.run_folder / "report" / "cells.csv")["ranks"].tolist() == [1, 1]


def test_status_tells_from_disk_alone(finished: Toy) -> None:
    output = subprocess.run(
        [str(QUARTERDOSE), "status", "runs/toy"], cwd=finished.folder, capture_output=True, text=True, check=True
    ).stdout
    assert output.count(" done ") == 13


def test_a_run_killed_everywhere_ends_as_if_it_had_not_been(
    fresh: Toy, undisturbed: Toy, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While modules are imported, in preparation, at the rendezvous, in training and in evaluation.

    Of most kills only the command itself hears: its processes end with it, and leave no temporary files. None comes
    within the millisecond after `multiprocessing` made its folder of sockets, when no process is there to remove it.
    """
    temporary = short_folder
    monkeypatch.setenv("TMPDIR", str(temporary))
    for pattern, kill, number in (
        ("config.yaml", os.kill, signal.SIGKILL),
        ("markers/prepare/toy.progress", os.killpg, signal.SIGKILL),
        ("markers/train/2d.progress", os.kill, signal.SIGTERM),
        ("cells/3d-s16-r2/checkpoints/*.pt", os.kill, signal.SIGHUP),
        ("evaluation/*.json", os.killpg, signal.SIGINT),
    ):
        before, temporary_files = fresh.markers(), set(temporary.iterdir())
        with fresh.start() as process:
            fresh.await_files(process, pattern)
            wait_for(lambda: any("forkserver" in command for command in processes_in(fresh.folder).values()))
            kill(process.pid, number)
            process.wait(60)
        wait_for(lambda: not processes_in(fresh.folder), 10)
        wait_for(lambda: not any(map(is_locked, fresh.run_folder.rglob("*.lock"))), 1)  # freed last
        new = {path.name.partition("-")[0] for path in set(temporary.iterdir()) - temporary_files}
        assert kill is os.killpg or new <= {"quarterdose", f"torchinductor_{getpass.getuser()}"}  # caches
        assert before.items() <= fresh.markers().items()  # what was done is not done again
    finished = fresh.run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_alike(fresh, undisturbed)
    assert not list(fresh.run_folder.rglob("*.tmp"))


WILD = {"learning_rate": 1e30}


def test_a_training_that_diverges_is_named_and_all_others_are_shown(toy: Toy) -> None:
    wild = {**SMALL, "options": {"width": 32, "levels": 1}, "dims": 2, "training": {"samples": 4, "crop": 32, **WILD}}
    toy.write({**SETTINGS, "networks": {**SETTINGS["networks"], "wild": wild}})
    judged = run_forked(toy.folder, ["evaluate", "toy.yaml"])
    assert judged.returncode == 1
    assert "1 item failed, first study/wild: loss or gradient of cell wild is not finite at step" in judged.stderr
    quality = pd.read_csv(toy.run_folder / "quality" / "quality.csv")
    assert quality["model"].tolist() == ["low-dose", "tv", "2d", "3d-s16-r1", "3d-s16-r2"]


def test_a_study_of_which_no_training_succeeds_still_has_a_report(toy: Toy) -> None:
    settings = with_network(SETTINGS, "3d", training=WILD)
    toy.write({**settings, "study": {**SETTINGS["study"], "ranks": [1]}})
    completed = toy.run()
    assert completed.returncode == 1
    assert "study/3d-s16-r1: loss or gradient of cell 3d-s16-r1 is not finite at step" in completed.stderr
    cells = pd.read_csv(toy.run_folder / "report" / "cells.csv").set_index("cell")
    assert cells["state"].to_dict() == {"2d": "done", "3d-s16-r1": "failed"}


def test_a_donor_file_in_place_of_the_2d_training(toy: Toy) -> None:
    torch.manual_seed(0)
    torch.save(PlainDDnet(2).state_dict(), toy.folder / "donor.pt")
    unlike = {"epochs": 1, "residual": False, "scaling": "unit", "norm": "frozen"}
    settings = with_network(LEAN, "2d", ranks=1, training={"epochs": 1}, **DDNET)
    settings = with_network(settings, "3d", donor_file="donor.pt", training=unlike, **DDNET)
    toy.write({**settings, "study": {**SETTINGS["study"], "ranks": [1], "transfer": ["none", "zero"]}})
    completed = toy.run()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    transfer = pd.read_csv(toy.run_folder / "report" / "transfer.csv").set_index("cell")["transfer"]
    assert transfer.to_dict() == {"3d-s16-r1-none": "none", "3d-s16-r1": "zero"}
    torch.save(PlainDDnet(2).state_dict(), toy.folder / "donor.pt")
    redone = toy.run("--dry-run").stdout
    assert "run  transfer/3d-zero: donor changed from" in redone
    assert "run  study/3d-s16-r1: transfer/3d-zero runs first" in redone
    for item in ("train/2d", "study/3d-s16-r1-none"):
        assert f"keep {item}: done" in redone


def test_two_runs_at_once_are_refused(fresh: Toy) -> None:
    with fresh.start() as process:
        fresh.await_files(process, "markers/prepare/*.progress")
        second = fresh.run()
        os.killpg(process.pid, signal.SIGKILL)
    assert second.returncode == 2
    assert "another `quarterdose` is at work" in second.stderr


def test_a_killed_worker_is_named_and_the_next_run_finishes(toy: Toy) -> None:
    toy.forget("study/3d-s16-r2", "evaluate/3d-s16-r2")
    with toy.start() as process:
        toy.await_files(process, "markers/study/3d-s16-r2.progress")
        wait_for(lambda: workers_in(toy.folder))
        os.kill(workers_in(toy.folder)[-1], signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "study/3d-s16-r2: failed" in output
    assert re.search(r"rank \d: process \d+ died of SIGKILL", output)
    cells = pd.read_csv(toy.run_folder / "report" / "cells.csv").set_index("cell")
    assert cells.loc["3d-s16-r2", "state"] == "failed"  # a partial report, the failed cell shown as such
    assert "3d-s16-r2" not in set(pd.read_csv(toy.run_folder / "report" / "speedup.csv")["cell"])
    finished = toy.run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "prepare/" not in finished.stdout
    assert pd.read_csv(toy.run_folder / "report" / "cells.csv")["state"].eq("done").all()


def test_a_training_that_is_asked_to_stop_goes_on_with_the_next_run(toy: Toy) -> None:
    """One rank gets the signal that Slurm sends before a time limit."""
    toy.forget("train/2d")
    settings = with_network(LEAN, "2d", training={"epochs": 40, "log_steps": 1})
    toy.write({**settings, "study": {**SETTINGS["study"], "ranks": [1]}})
    with toy.start() as process:
        wait_for(lambda: len(toy.losses().get("2d", [])) > 5)
        os.kill(workers_in(toy.folder)[-1], signal.SIGUSR2)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(r"train/2d: cell 2d was asked to stop, and saved itself after step \d", output)
    before = toy.losses()["2d"]
    finished = toy.run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert 5 < len(before) < len(toy.losses()["2d"]) == 80 + 41  # lines of steps and of validations
    assert toy.losses()["2d"][: len(before)] == before


def test_a_changed_training_starts_anew_and_one_without_its_last_checkpoint_goes_on(toy: Toy) -> None:
    old = toy.losses()
    result = (toy.run_folder / "cells/2d/result.json").read_text()
    sorted((toy.run_folder / "cells/2d/checkpoints").iterdir())[-1].unlink()
    changed = with_network(SETTINGS, "3d", training={"seed": 5})
    toy.write({**changed, "study": {**SETTINGS["study"], "ranks": [1]}})
    assert toy.run().returncode == 0
    new = toy.losses()
    assert new["2d"] == old["2d"]
    new_result = json.loads((toy.run_folder / "cells/2d/result.json").read_text())
    assert new_result["checkpoint"] != json.loads(result)["checkpoint"]  # it holds times too
    assert new_result["validation"] == json.loads(result)["validation"]
    assert new["3d-s16-r1"] != old["3d-s16-r1"]
    assert len(new["3d-s16-r1"]) == len(old["3d-s16-r1"])


def test_a_broken_scan_among_others_is_turned_away_and_no_name_is_kept(fresh: Toy) -> None:
    scans = fresh.folder / "scans"
    (scans / "toy.nii.gz").rename(scans / "Roe_Max.nii.gz")
    (scans / "Doe_Jane.nii.gz").write_bytes((scans / "Roe_Max.nii.gz").read_bytes()[:2000])
    data = {**SETTINGS["data"], "sources": [{"kind": "nifti", "path": "scans"}]}
    fresh.write({**LEAN, "data": data, "study": {**SETTINGS["study"], "ranks": [1]}})
    refused = fresh.run()
    assert refused.returncode == 2
    assert "scans/Doe_Jane.nii.gz: no readable NIfTI" in refused.stderr  # on the terminal only
    tolerant = fresh.run("--set", "data.max_failed=0.5")
    assert tolerant.returncode == 0, tolerant.stdout + tolerant.stderr
    manifest = pd.read_csv(fresh.run_folder / "data" / "manifest.csv")
    assert sorted(manifest["state"]) == ["kept", "turned away"]
    assert "no readable NIfTI" in (fresh.run_folder / "report" / "index.html").read_text()
    (fresh.run_folder / "config.yaml").unlink()  # which must say where the scans lie
    for path in fresh.run_folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(name in content or name.decode() in path.name for name in (b"Doe_Jane", b"Roe_Max")), path
