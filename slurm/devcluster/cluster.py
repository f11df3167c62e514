"""Bringing the cluster up and down, and its nodes and controller with it or against it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from data_prep.files import held, write_json
from slurm.devcluster.config import Shape, write_config
from slurm.devcluster.daemons import Daemon, DevClusterError, child_of, waited

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd")
_SUPER = "/usr/sbin:/sbin"  # where some of them lie, which not every user's PATH names
_FOLDERS = ("etc", "run", "log", "spool", "state", "dev")
_APART = (
    "unshare", "--uts", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
)  # fmt: skip
# a node's first process: its name and its own /etc/hosts, then nothing; with it ends all that runs on the node
_NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts && while :; do sleep 86400 & wait; done'
_DATABASE = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def missing_packages() -> list[str]:
    """Debian packages that are to be installed first."""
    path = f"{os.environ.get('PATH', '')}:{_SUPER}"
    return [name for name, program in zip(PACKAGES, _PROGRAMS, strict=True) if not shutil.which(program, path=path)]


class Cluster:
    """The cluster whose settings, state, logs and processes lie below ``folder``.

    Every node has its own host name, ``/etc/hosts`` and processes (Linux namespaces), and no memory or file system
    of its own; the machine's own files are not touched. All listens on the loopback alone. Needs root.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "GLOO_SOCKET_IFNAME": "lo",
                "PATH": f"{os.environ.get('PATH', '')}:{_SUPER}"}  # fmt: skip

    @property
    def shape(self) -> Shape | None:
        """What runs, or last ran, here."""
        path = self.folder / "state" / "shape.json"
        return Shape(**json.loads(path.read_text())) if path.exists() else None

    def up(self, shape: Shape) -> None:
        """Bring it up in this shape, if it is not; what was up in another shape is ended and forgotten.

        Raises:
            DevClusterError: not root, packages are missing, or a daemon does not come up.
        """
        self._check()
        with self._alone():
            if self.shape not in (None, shape):
                self._end()
                self._forget()
            for name in _FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
            if not self._daemon("slurmctld").pid:
                write_config(self.folder, shape)
            write_json(self.folder / "state" / "shape.json", asdict(shape))
            self._start_all(shape)

    def down(self, *, wipe: bool = False) -> None:
        """End all of its processes, and no others; with ``wipe`` forget its state too."""
        if not self.folder.exists():
            return
        with self._alone():
            self._end()
        if wipe:
            self._forget()
            for name in (*_FOLDERS, ".lock"):
                _remove(self.folder / name)

    def daemons(self) -> Iterator[tuple[str, int | None]]:
        """Name and, if it lives, process id of each daemon."""
        for daemon in self._all():
            yield daemon.name, daemon.pid

    def start_node(self, name: str) -> None:
        """Start a node, or only its slurmd where the node is up."""
        node, slurmd = self._node(name), self._daemon(f"slurmd.{name}")
        (self.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        if node.pid is None:
            hosts = str(self.folder / "etc" / "hosts")
            node.start([*_APART, "bash", "-c", _NODE, "_", name, hosts], self.environment)
            self._wait(10, node.name, lambda: child_of(node.pid or 0) and self._named(node, name))
        if slurmd.pid is None:
            enter = ["nsenter", "-t", str(child_of(node.pid or 0)), "--uts", "--mount", "--pid"]
            slurmd.start([*enter, "slurmd", "-D", "-N", name], self.environment)
            outside = slurmd.pid or 0
            self._wait(10, slurmd.name, lambda: child_of(outside))
            slurmd.adopt(child_of(outside) or 0)

    def stop_node(self, name: str, *, hard: bool) -> None:
        """End a node's slurmd, whose jobs go on; or, ``hard``, the whole node at once, as a power cut does."""
        node, slurmd = self._node(name), self._daemon(f"slurmd.{name}")
        if hard:
            node.kill()
        else:
            slurmd.stop(10)

    def kill_controller(self) -> None:
        """End slurmctld by SIGKILL."""
        self._daemon("slurmctld").kill()

    def start_controller(self) -> None:
        """Start slurmctld, with the state that it left."""
        self._start("slurmctld", ["slurmctld", "-D", "-i"], ["scontrol", "ping"])

    def command(self, *words: str) -> str:
        """What one of Slurm's commands prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return self._run(*words).stdout

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise DevClusterError("the dev cluster needs root: slurmd starts jobs, and nodes are namespaces")
        missing = missing_packages()
        if missing:
            raise DevClusterError(f"packages are missing, try: apt-get install --yes {' '.join(missing)}")

    def _alone(self) -> AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return held(self.folder / ".lock", f"another command is at work on the cluster in {self.folder}")

    def _start_all(self, shape: Shape) -> None:
        run = self.folder / "run"
        munged = ["munged", "--foreground", "--num-threads=10", f"--key-file={self.folder / 'etc' / 'munge.key'}",
                  f"--socket={run / 'munge.socket'}", f"--pid-file={run / 'munged.pid'}",
                  f"--log-file={self.folder / 'log' / 'munged.log'}", f"--seed-file={run / 'munged.seed'}"]  # fmt: skip
        self._start("munged", munged, ["munge", "-S", str(run / "munge.socket"), "-n"])
        if shape.accounting:
            self._start_database()
        self.start_controller()
        for name in shape.names:
            self.start_node(name)
        self._resume_nodes()
        self._wait(60, f"{shape.nodes} nodes", lambda: self._ready() == shape.nodes)

    def _start_database(self) -> None:
        data, settings = self.folder / "mysql", f"--defaults-file={self.folder / 'etc' / 'my.cnf'}"
        client = ["--no-defaults", f"--socket={data / 'mysqld.sock'}"]
        if not (data / "mysql").exists():
            data.mkdir(exist_ok=True)
            shutil.chown(data, "mysql")
            self._run("mariadb-install-db", settings, "--skip-test-db", "--auth-root-authentication-method=socket")
        self._start("mariadbd", ["mariadbd", settings], ["mariadb-admin", *client, "ping"])
        self._run("mariadb", *client, text=_DATABASE)
        self._start("slurmdbd", ["slurmdbd", "-D"], ["sacctmgr", "-n", "show", "cluster"])
        if not self.command("sacctmgr", "-nP", "show", "cluster", "dev").strip():
            self.command("sacctmgr", "-iQ", "add", "cluster", "dev")

    def _start(self, name: str, command: list[str], probe: list[str]) -> None:
        daemon = self._daemon(name)
        if daemon.pid is None:
            daemon.start(command, self.environment)
        self._wait(60, name, lambda: self._answers(probe))

    def _answers(self, probe: list[str]) -> bool:
        return subprocess.run(probe, env=self._whole_environment(), capture_output=True, check=False).returncode == 0

    def _resume_nodes(self) -> None:
        """Nodes that kept a "down" from an earlier life of this folder."""
        for line in self.command("sinfo", "-hN", "-o", "%N %t").splitlines():
            name, state = line.split()
            if state.startswith(("down", "drain", "drng")):
                self._answers(["scontrol", "update", f"nodename={name}", "state=resume"])

    def _ready(self) -> int:
        return len(set(self.command("sinfo", "-hN", "-t", "idle,alloc,mixed,comp", "-o", "%N").split()))

    def _end(self) -> None:
        """Jobs first, so that accounting sees their end; then from the nodes down."""
        if self._daemon("slurmctld").pid:
            self._answers(["scancel", "--quiet", f"--user={os.geteuid()}"])
            waited(10, lambda: not self._answers(["squeue", "-h"]) or not self.command("squeue", "-h").strip())
        for daemon in reversed(list(self._all())):
            if daemon.name.startswith("node."):  # deaf to SIGTERM
                daemon.kill()
            daemon.stop(20)

    def _forget(self) -> None:
        for name in ("state", "spool", "mysql", "log"):
            _remove(self.folder / name)

    def _all(self) -> Iterator[Daemon]:
        shape = self.shape or Shape()
        yield self._daemon("munged")
        if shape.accounting:
            yield self._daemon("mariadbd")
            yield self._daemon("slurmdbd")
        yield self._daemon("slurmctld")
        for name in shape.names:
            yield self._node(name)
            yield self._daemon(f"slurmd.{name}")

    def _node(self, name: str) -> Daemon:
        names = (self.shape or Shape()).names
        if name not in names:
            raise DevClusterError(f"there is no node {name!r}, but {', '.join(names)}")
        return self._daemon(f"node.{name}")

    def _named(self, node: Daemon, name: str) -> bool:
        init = child_of(node.pid or 0)
        enter = ["nsenter", "-t", str(init), "--uts", "--mount", "grep", "-qw", name, "/etc/hosts"]
        return bool(init) and self._answers(enter)

    def _daemon(self, name: str) -> Daemon:
        return Daemon(self.folder, name)

    def _wait(self, seconds: float, what: str, condition: Callable[[], object]) -> None:
        if not waited(seconds, condition):
            raise DevClusterError(f"{what} did not come up in {seconds:.0f} s; see {self.folder / 'log'}")

    def _run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self._whole_environment(), input=text, text=True, capture_output=True, check=True
        )

    def _whole_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
