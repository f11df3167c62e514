"""A list of scans denoised as an array of Slurm."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.command_line import QUARTERDOSE
from tests.data_prep.dicom_series import write_series
from tests.scans import chest
from tests.slurm.queued import PROFILE
from tests.toy_models import SPACING, toy_model
from tests.toy_runs import wait_for

pytestmark = pytest.mark.slurm


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.dcm")
    }


@pytest.mark.usefixtures("cluster")
def test_an_array_denoises_a_scan_a_task_as_one_process_does(tmp_path: Path) -> None:
    for number in range(2):
        write_series(tmp_path / f"scan {number}; touch hacked", chest(20) + number, SPACING)
    scans = [str(path) for path in sorted(tmp_path.glob("scan*"))]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(PROFILE))
    common = [str(QUARTERDOSE), "denoise", *scans, "--model", str(toy_model(tmp_path)), "--threads", "1", "--out"]
    subprocess.run([*common, str(tmp_path / "here")], check=True, cwd=tmp_path)
    interactive = ["salloc", "--quiet", "--mem=1G"]  # its SLURM_MEM_PER_NODE contradicts the profile's memory a core
    command = [*interactive, *common, str(tmp_path / "there"), "--on", "cluster.yaml"]
    output = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "2 tasks" in output
    wait_for(lambda: len(list((tmp_path / "there").glob("scan*/*.dcm"))) == 2 * 20, 180)
    assert digests(tmp_path / "there") == digests(tmp_path / "here") != {}
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"partition": "moon"}, "partition moon is not one of: "),
        ({"constraint": "moon"}, "Slurm took no job of this profile: "),
    ],
)
def test_what_the_cluster_does_not_have_is_one_sentence(setting: dict[str, str], message: str, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", chest(4), SPACING)
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**PROFILE, **setting}))
    command = [str(QUARTERDOSE), "denoise", "scan", "--model", str(toy_model(tmp_path)), "--out", "out"]
    completed = subprocess.run(
        [*command, "--on", "cluster.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stderr.count("\n")) == (2, 1), completed.stderr
    assert message in completed.stderr
