"""The plain sbatch scripts: the same stages in the same run folder."""

import os
import subprocess
from pathlib import Path

import pytest

from slurm.devcluster import Cluster
from tests.command_line import QUARTERDOSE
from tests.slurm.queued import SPREAD, Queued
from tests.toy_runs import Toy, assert_alike, make_toy_scan

pytestmark = [pytest.mark.slurm, pytest.mark.whole]

SCRIPTS = Path(__file__).parents[2] / "slurm" / "sbatch"


@pytest.fixture
def toy(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Queued:
    monkeypatch.setenv("PATH", f"{QUARTERDOSE.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    folder = tmp_path / "cluster"
    make_toy_scan(folder)
    return Queued(folder, SPREAD, cluster)


def sbatch(toy: Toy, script: str, *words: str, **options: str) -> str:
    """Submit; return the job's id."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    fixed = ["--parsable", "--cpus-per-task=1", "--mem-per-cpu=4G", "--time=10"]
    command = ["sbatch", *fixed, *flags, str(SCRIPTS / f"{script}.sbatch"), "toy.yaml", *words]
    return subprocess.run(command, cwd=toy.folder, capture_output=True, text=True, check=True).stdout.strip()


def test_scripts_do_what_a_run_does(toy: Queued, spread_locally: Toy) -> None:
    discovered = sbatch(toy, "workers", "find")
    prepared = sbatch(toy, "workers", "prepare", array="0-1", dependency=f"afterok:{discovered}")
    split = sbatch(toy, "workers", "split", dependency=f"afterany:{prepared}")
    flat = sbatch(toy, "cell", "train", "2d", ntasks="1", dependency=f"afterok:{split}")
    inflated = sbatch(toy, "workers", "transfer", dependency=f"afterok:{flat}")
    shape = {"nodes": "2", "ntasks_per_node": "2", "gpus_per_node": "2"}
    deep = sbatch(toy, "cell", "study", "3d-s16-r4", dependency=f"afterok:{inflated}", **shape)
    alone = sbatch(toy, "cell", "study", "3d-s16-r1", ntasks="1", dependency=f"afterok:{inflated}")
    judged = sbatch(toy, "workers", "evaluate", dependency=f"afterany:{deep}:{alone}")
    last = sbatch(toy, "workers", "report", dependency=f"afterany:{judged}")
    subprocess.run(["srun", f"--dependency=afterany:{last}", "true"], check=True, timeout=400)
    logs = "".join(path.read_text() for path in toy.folder.glob("quarterdose-*.out"))
    assert (toy.run_folder / "report" / "index.html").exists(), logs
    assert_alike(toy, spread_locally)
