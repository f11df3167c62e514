"""Bad use of the command line: one clear line and exit code 2."""

import logging
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from typer.testing import CliRunner

from data_prep.log import logger
from jobs.commands.cli import app
from tests.command_line import CONFIG, quarterdose, quarterdose_within
from tests.data_prep.dicom_series import write_series
from tests.scans import chest


def refused(
    folder: Path, source: str, *words: str, command: Callable[..., CompletedProcess[str]] = quarterdose_within
) -> str:
    (folder / "x.yaml").write_text(CONFIG.format(source=source))
    completed = command(folder, "run", "x.yaml", *words)
    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1, completed.stderr
    return completed.stderr


def test_unknown_setting(tmp_path: Path) -> None:
    said = refused(tmp_path, "{kind: nifti, path: scans}", "--set", "study.slicez=[16]")
    assert (
        "study.slicez is not a setting; valid here: network, ranks, slices, sampling, transfer, seeds, epochs, also"
        in said
    )


@pytest.mark.parametrize(("key", "value"), [("study.slices", "[20]"), ("study.training.crop", "72")])
def test_side_not_divisible_by_16(tmp_path: Path, key: str, value: str) -> None:
    said = refused(tmp_path, "{kind: sample}", "--set", f"{key}={value}")
    assert key in said
    assert f"Input should be a multiple of 16 (got {value.strip('[]')})" in said


def test_missing_scan(tmp_path: Path) -> None:
    assert "absent of the nifti source does not exist" in refused(tmp_path, "{kind: nifti, path: absent}")
    (tmp_path / "empty").mkdir()
    assert "empty holds no DICOM images" in refused(tmp_path, "{kind: dicom, path: empty}")


def test_missing_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "run `quarterdose fetch sample` first" in refused(tmp_path, "{kind: sample}")


@pytest.mark.slow
def test_corrupt_nifti(tmp_path: Path, make_nifti: Callable[..., Path]) -> None:
    path = make_nifti()
    path.write_bytes(path.read_bytes()[:3000])
    for command in (quarterdose, quarterdose_within):  # the second time from the marker, without a worker
        said = refused(tmp_path, "{kind: nifti, path: scans}", command=command)
        assert "scans/toy.nii.gz: no readable NIfTI file" in said


def test_dicom_folder_with_one_slice_missing(tmp_path: Path) -> None:
    write_series(tmp_path / "series", chest(8), (2.5, 0.7, 0.7))[4].unlink()
    said = refused(tmp_path, "{kind: dicom, path: series}", "--on", "debug")
    assert "a slice is missing: 5.00 mm between positions 7.50 and 12.50 mm" in said


@pytest.mark.slow
def test_too_few_slices_for_the_volumes(tmp_path: Path, make_nifti: Callable[..., Path]) -> None:
    make_nifti(slices=60)
    geometry = ["data.low_dose.geometry.views=32", "data.low_dose.geometry.channels=64"]
    words = [word for setting in geometry for word in ("--set", setting)]
    said = refused(tmp_path, "{kind: nifti, path: scans}", "--on", "debug", *words)
    assert "60 slices; data.split leaves 8 to validation and 8 to test, but a volume takes 32" in said


def test_unknown_profile_and_run_folder(tmp_path: Path, make_nifti: Callable[..., Path]) -> None:
    make_nifti()
    assert "profile 'moon' is neither a file nor one of: a100, debug, dev, local" in refused(
        tmp_path, "{kind: nifti, path: scans}", "--on", "moon"
    )
    completed = quarterdose_within(tmp_path, "status", "nowhere")
    assert (completed.returncode, completed.stderr.count("\n")) == (2, 1)
    assert "is no run folder" in completed.stderr


def test_missing_settings_file_and_unknown_command(tmp_path: Path) -> None:
    assert quarterdose_within(tmp_path, "config", "absent.yaml").returncode == 2
    assert quarterdose_within(tmp_path, "walk").returncode == 2


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["run", ""], "name a file"),
        (["status", ""], "write . for"),
        (["verify", ""], "write . for"),
        (["denoise", "scan", "--model", "", "--out", "out"], "name a file"),
        (["import-model", "w.npz", "--to", ""], "name a file"),
        (["fetch", "lidc", "--to", ""], "write . for"),
        (["gpu-check", ""], "name a file"),
    ],
)
def test_an_empty_path_is_refused_as_empty(tmp_path: Path, words: list[str], remedy: str) -> None:
    completed = quarterdose_within(tmp_path, *words)
    assert completed.returncode == 2
    assert f"it is empty: {remedy}" in " ".join(completed.stderr.split())


@pytest.fixture
def usual_level() -> Iterator[None]:
    yield
    logger.setLevel(logging.INFO)


@pytest.mark.parametrize(
    ("flags", "lines"),
    [([], ["usual", "wrong"]), (["--quiet"], ["wrong"]), (["--verbose"], ["detail", "usual", "wrong"])],
)
@pytest.mark.usefixtures("usual_level")
def test_flags_set_the_level_of_the_log(
    flags: list[str], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(CONFIG.format(source="{kind: sample}"))
    assert CliRunner().invoke(app, [*flags, "config", str(tmp_path / "x.yaml")]).exit_code == 0
    logger.debug("detail")
    logger.info("usual")
    logger.warning("wrong")
    assert capsys.readouterr().out.splitlines() == lines


def test_the_version_is_that_of_the_run_folders(tmp_path: Path) -> None:
    shown = quarterdose_within(tmp_path, "--version").stdout
    expected = f"quarterdose {version('quarterdose')}, torch {torch.__version__.partition('+')[0]}"
    assert re.fullmatch(rf"{re.escape(expected)}\S*, Python 3\.1[123]\.\d+\S*\n", shown)


def test_verbose_and_quiet_exclude_each_other(tmp_path: Path) -> None:
    completed = quarterdose_within(tmp_path, "--quiet", "--verbose", "config", "x.yaml")
    assert (completed.returncode, completed.stderr) == (2, "quarterdose: --verbose and --quiet exclude each other\n")


@pytest.mark.parametrize(
    ("kept", "reason"), [(420, "which may be a slice of it, is cut off"), (2000, "of 8 .by name. are cut")]
)
def test_calibration_refuses_a_scan_that_no_preparation_takes(kept: int, reason: str, tmp_path: Path) -> None:
    path = write_series(tmp_path / "series", chest(8), (2.5, 0.7, 0.7))[-1]
    path.write_bytes(path.read_bytes()[:kept])
    (tmp_path / "x.yaml").write_text(CONFIG.format(source="{kind: dicom, path: series}"))
    completed = quarterdose_within(tmp_path, "calibrate", "x.yaml", "--sd", "28.4")
    assert completed.returncode == 2
    assert re.fullmatch(rf"quarterdose: p-\w+-\w+: .*{reason}.*; --scan chooses another\n", completed.stderr)


@pytest.mark.slow
def test_calibration_names_the_photons_for_a_wanted_noise(tmp_path: Path, sample_path: Path) -> None:
    """Taken into the settings, they give the noise: 28.4 HU, as real quarter-dose slices have."""
    (tmp_path / "x.yaml").write_text(CONFIG.format(source="{kind: sample}"))
    small = [f"data.low_dose.geometry.{key}" for key in ("views=288", "channels=368", "channel_arc_mm=2.5716")]
    overrides = [word for setting in small for word in ("--set", setting)]
    said = quarterdose_within(tmp_path, "calibrate", "x.yaml", "--sd", "28.4", *overrides).stdout
    photons = float(said.split()[1])
    recalibrated = quarterdose_within(
        tmp_path, "calibrate", "x.yaml", "--sd", "28.4", *overrides, "--set", f"data.low_dose.photons={photons}"
    )
    assert said == recalibrated.stdout
    assert said.endswith("# 28.4 HU at dose 0.25 in the middle of LIDC-IDRI-0001\n")
    refused = quarterdose_within(tmp_path, "calibrate", "x.yaml", "--sd", "5", *overrides)
    assert (refused.returncode, "only between 14" in refused.stderr) == (2, True)
    refused = quarterdose_within(tmp_path, "calibrate", "x.yaml", "--sd", "28.4", "--scan", "absent")
    assert "hold no scan 'absent', but LIDC-IDRI-0001" in refused.stderr
    impossible = ["--set", "data.low_dose.z_correlation=[0.9]"]
    refused = quarterdose_within(tmp_path, "calibrate", "x.yaml", "--sd", "28.4", *overrides, *impossible)
    assert "no noise has data.low_dose.z_correlation [0.9]; similar is [0.70]" in refused.stderr
