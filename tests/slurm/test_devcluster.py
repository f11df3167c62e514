"""The dev cluster itself: up, down, and nothing else touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.devcluster import Cluster, DevClusterError, Shape
from tests.command_line import QUARTERDOSE
from tests.slurm.clusters import PORT, running
from tests.slurm.queued import bytes_of
from tests.toy_runs import wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def small() -> Iterator[Cluster]:
    with running(Shape(nodes=2, gpus=2, accounting=False, port=PORT + 50)) as up:
        yield up


def tell(cluster: Cluster, *words: str, code: int = 0) -> str:
    command = [str(QUARTERDOSE), "devcluster", *words, "--folder", str(cluster.folder)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == code, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


def test_nodes_have_names_cores_and_counted_gpus(small: Cluster) -> None:
    assert "down" not in tell(small, "status")
    output = small.command("srun", "-N2", "--gres=gpu:1", "bash", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES")
    assert sorted(output.split()) == ["0", "0", "node1", "node2"]
    assert small.command("sinfo", "-h", "-p", "gpu", "-o", "%c %G").split() == ["2", "gpu:a100:2"]
    assert f"export SLURM_CONF={small.folder}/etc/slurm.conf" in tell(small, "env")


def test_it_listens_on_the_loopback_alone(small: Cluster) -> None:
    ports = range(small.shape.port, small.shape.port + 20) if small.shape else []
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    addresses = {address for address, port in (endpoint.split(":") for endpoint in listening) if int(port, 16) in ports}
    assert addresses == {"0100007F"}


def test_up_again_changes_nothing(small: Cluster) -> None:
    before = dict(small.daemons())
    assert small.shape
    small.up(small.shape)
    assert dict(small.daemons()) == before


def test_a_killed_node_takes_its_job_along_and_comes_back(small: Cluster) -> None:
    small.command("sbatch", "-w", "node2", "-o", "/dev/null", "--wrap", f"exec sleep {1000 + os.getpid()}")
    sleeping = f"sleep\0{1000 + os.getpid()}\0".encode()
    wait_for(lambda: any(bytes_of(path) == sleeping for path in Path("/proc").glob("[0-9]*/cmdline")))
    tell(small, "kill-node", "node2")
    assert not any(bytes_of(path) == sleeping for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert "down" in tell(small, "status", code=1)
    tell(small, "start-node", "node2")
    assert "down" not in tell(small, "status")
    small.command("scancel", "--user=root")
    assert "there is no node 'node3', but node1, node2" in tell(small, "kill-node", "node3", code=2)


def alive(pid: int) -> bool:
    """And not only waiting for this process to ask what became of it."""
    fields = bytes_of(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return bool(fields) and fields[0] != b"Z"


def test_down_ends_its_own_processes_and_no_others(small: Cluster) -> None:
    mine = [pid for _, pid in small.daemons() if pid]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "slurmctld"]) as bystander:
        ticks = bytes_of(Path(f"/proc/{bystander.pid}/stat")).rpartition(b")")[2].split()[19].decode()
        for record in (f"[{bystander.pid}, 1]", f"[{bystander.pid}, {ticks}]", "[", "7", f'["{bystander.pid}", null]'):
            (small.folder / "run" / "slurmd.node1.json").write_text(record)  # as of a pid used again, or a forged one
            assert dict(small.daemons())["slurmd.node1"] is None
        (small.folder / "run" / "slurmd.node1.json").write_text(f"[{bystander.pid}, {ticks}]")
        assert small.shape
        shape = small.shape
        small.down()
        assert bystander.poll() is None
        bystander.kill()
    assert len(mine) == 6
    assert not [pid for pid in mine if alive(pid)]
    small.up(shape)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root's rights away")
def test_without_root_it_says_so() -> None:
    code = (
        "import os; from pathlib import Path; from slurm.devcluster import Cluster, Shape; os.setuid(65534); "
        "Cluster(Path('/tmp/of nobody')).up(Shape())"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{DevClusterError.__name__}: the dev cluster needs root" in completed.stderr


def test_the_state_of_someone_else_is_not_believed(tmp_path: Path) -> None:
    """By default it lies in the user's own folder; elsewhere only where nobody else can write."""
    folder = tmp_path / "shared" / "cluster"
    (folder / "run").mkdir(parents=True)
    (folder / ".quarterdose-devcluster").touch()
    (tmp_path / "shared").chmod(0o777)
    for words in (("down",), ("status",), ("env",), ("up",), ("kill-node", "node1")):
        command = [str(QUARTERDOSE), "devcluster", *words, "--folder", str(folder)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (completed.returncode, completed.stderr.count("\n")) == (2, 1), completed.stderr
        assert f"{tmp_path / 'shared'} can be written by everybody, who could replace {folder}" in completed.stderr
    default = subprocess.run([str(QUARTERDOSE), "devcluster", "env"], capture_output=True, text=True, check=True,
                             env={**os.environ, "XDG_STATE_HOME": str(tmp_path)})  # fmt: skip
    assert f"export SLURM_CONF={tmp_path}/quarterdose/devcluster/etc/slurm.conf" in default.stdout
