"""The cluster: bring it up and down, start and stop its nodes and its controller."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from data_prep.files import held, write_json
from data_prep.ownership import check_unshared, create_private_folder
from slurm.devcluster.config import Shape, write_config
from slurm.devcluster.daemons import Daemon, DevClusterError, child_of, wait_until

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd")
_SYSTEM_PATH = "/usr/sbin:/sbin"  # holds some of the programs, and is not in every user's PATH
_FOLDERS = ("etc", "run", "log", "spool", "state", "dev")
_MARK = ".quarterdose-devcluster"  # file by which a folder is known to be a cluster's
_NODE_PROGRAM = "unshare"
_UNSHARE = (
    _NODE_PROGRAM, "--uts", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
)  # fmt: skip
# a node's first process: sets the host name and mounts /etc/hosts, then sleeps; when it ends, so does all on the node
_NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts && while :; do sleep 86400 & wait; done'
_DATABASE = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def missing_packages() -> list[str]:
    """List the Debian packages that must be installed first."""
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"
    return [name for name, program in zip(PACKAGES, _PROGRAMS, strict=True) if not shutil.which(program, path=path)]


class Cluster:
    """Slurm cluster on this machine; its settings, state, logs and process ids lie below ``folder``.

    Every node has its own host name, ``/etc/hosts`` and processes (Linux namespaces); all share the machine's memory
    and file systems. Files outside ``folder`` are not changed. All ports are on the loopback. Needs root.

    Raises:
        UserError: someone else can change what lies in ``folder``, such as the ids of the processes to be ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        check_unshared(self.folder, "choose another --folder")

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which Slurm's commands find this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "GLOO_SOCKET_IFNAME": "lo",
                "PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"}  # fmt: skip

    @property
    def shape(self) -> Shape | None:
        """Shape of the cluster that runs or last ran; None before the first."""
        path = self.folder / "state" / "shape.json"
        return Shape(**json.loads(path.read_text())) if path.exists() else None

    def up(self, shape: Shape) -> None:
        """Bring it up in this shape; one of another shape is ended and its state removed first.

        Raises:
            DevClusterError: not root, packages are missing, a daemon does not come up, or the folder is another's.
        """
        self._check_machine()
        self._check_folder()
        with self._locked():
            (self.folder / _MARK).touch()
            if self.shape not in (None, shape):
                self._end_all()
                self._remove_state()
            for name in _FOLDERS:
                (self.folder / name).mkdir(exist_ok=True, mode=0o700)
            if not self._daemon("slurmctld").pid:
                write_config(self.folder, shape)
            write_json(self.folder / "state" / "shape.json", asdict(shape))
            self._start_all(shape)

    def down(self, *, wipe: bool = False) -> None:
        """End all of its processes, and no others; with ``wipe`` remove its state too."""
        if not self.folder.exists():
            return
        self._check_folder()
        with self._locked():
            self._end_all()
        if wipe:
            self._remove_state()
            for name in (*_FOLDERS, _MARK, ".lock"):
                _remove(self.folder / name)

    def daemons(self) -> Iterator[tuple[str, int | None]]:
        """Yield the name of each daemon and its process id, None if it does not live."""
        for daemon in self._daemons():
            yield daemon.name, daemon.pid

    def start_node(self, name: str) -> None:
        """Start a node; where it is up, only its slurmd."""
        self._check_folder()
        node, slurmd = self._node(name), self._daemon(f"slurmd.{name}")
        (self.folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        if node.pid is None:
            hosts = str(self.folder / "etc" / "hosts")
            node.start([*_UNSHARE, "bash", "-c", _NODE, "_", name, hosts])
            self._wait(10, node.name, lambda: child_of(node.pid or 0) and self._has_hosts(node, name))
        if slurmd.pid is None:
            enter = ["nsenter", "-t", str(child_of(node.pid or 0)), "--uts", "--mount", "--pid"]
            nsenter = slurmd.start([*enter, "slurmd", "-D", "-N", name])
            self._wait(10, slurmd.name, lambda: child_of(nsenter))
            slurmd.adopt(child_of(nsenter) or 0)
            self._wait(10, slurmd.name, lambda: slurmd.pid)

    def stop_node(self, name: str, *, hard: bool) -> None:
        """End a node's slurmd, while its jobs go on; with ``hard`` the whole node at once, as a power cut does."""
        self._check_folder()
        node, slurmd = self._node(name), self._daemon(f"slurmd.{name}")
        if hard:
            node.kill()
        else:
            slurmd.stop(10)

    def start_controller(self) -> None:
        """Start slurmctld, which goes on from the state that it wrote."""
        self._start("slurmctld", ["slurmctld", "-D", "-i"], ["scontrol", "ping"])

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands and return its stdout.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return self._run(*words).stdout

    def _check_folder(self) -> None:
        """Check that the folder is a cluster's: all that is in it may be removed."""
        is_free = not os.path.lexists(self.folder) or self.folder.is_dir()
        entries = sorted({path.name for path in self.folder.glob("*")} - {".lock"}) if is_free else ["no folder"]
        if entries and not (self.folder / _MARK).is_file() and not self._has_shape():
            raise DevClusterError(f"{self.folder} is no dev cluster, but holds {entries[0]}: choose another --folder")

    def _has_shape(self) -> bool:
        try:
            return self.shape is not None
        except (OSError, ValueError, TypeError):
            return False

    def _check_machine(self) -> None:
        if os.geteuid() != 0:
            raise DevClusterError("the dev cluster needs root: slurmd starts jobs, and nodes are namespaces")
        missing = missing_packages()
        if missing:
            raise DevClusterError(f"packages are missing, try: apt-get install --yes {' '.join(missing)}")

    def _locked(self) -> AbstractContextManager[None]:
        create_private_folder(self.folder, "choose another --folder")
        return held(self.folder / ".lock", f"another command is at work on the cluster in {self.folder}")

    def _start_all(self, shape: Shape) -> None:
        run = self.folder / "run"
        # --force: its socket need not be in the reach of other users
        munged = ["munged", "--foreground", "--force", "--num-threads=10",
                  f"--key-file={self.folder / 'etc' / 'munge.key'}",
                  f"--socket={run / 'munge.socket'}", f"--pid-file={run / 'munged.pid'}",
                  f"--log-file={self.folder / 'log' / 'munged.log'}", f"--seed-file={run / 'munged.seed'}"]  # fmt: skip
        self._start("munged", munged, ["munge", "-S", str(run / "munge.socket"), "-n"])
        if shape.accounting:
            self._start_database()
        self.start_controller()
        for name in shape.names:
            self.start_node(name)
        self._resume_nodes()
        self._wait(60, f"{shape.nodes} nodes", lambda: self._count_ready() == shape.nodes)

    def _start_database(self) -> None:
        data, settings = self.folder / "mysql", f"--defaults-file={self.folder / 'etc' / 'my.cnf'}"
        client = ["--no-defaults", f"--socket={data / 'mysqld.sock'}"]
        if not (data / "mysql").exists():
            data.mkdir(exist_ok=True, mode=0o700)
            self._run("mariadb-install-db", settings, "--skip-test-db", "--auth-root-authentication-method=socket")
        self._start("mariadbd", ["mariadbd", settings], ["mariadb-admin", *client, "ping"])
        self._run("mariadb", *client, text=_DATABASE)
        self._start("slurmdbd", ["slurmdbd", "-D"], ["sacctmgr", "-n", "show", "cluster"])
        if not self.command("sacctmgr", "-nP", "show", "cluster", "dev").strip():
            self.command("sacctmgr", "-iQ", "add", "cluster", "dev")

    def _start(self, name: str, command: list[str], probe: list[str]) -> None:
        daemon = self._daemon(name)
        if daemon.pid is None:
            daemon.start(command)
        self._wait(60, name, lambda: self._succeeds(probe))

    def _succeeds(self, probe: list[str]) -> bool:
        return subprocess.run(probe, env=self._full_environment(), capture_output=True, check=False).returncode == 0

    def _resume_nodes(self) -> None:
        """Take nodes back that are "down" since an earlier start of this cluster."""
        for line in self.command("sinfo", "-hN", "-o", "%N %t").splitlines():
            name, state = line.split()
            if state.startswith(("down", "drain", "drng")):
                self._succeeds(["scontrol", "update", f"nodename={name}", "state=resume"])

    def _count_ready(self) -> int:
        return len(set(self.command("sinfo", "-hN", "-t", "idle,alloc,mixed,comp", "-o", "%N").split()))

    def _end_all(self) -> None:
        """End the jobs first, so that accounting records their end; then the daemons, from the nodes to munged."""
        if self._daemon("slurmctld").pid:
            self._succeeds(["scancel", "--quiet", f"--user={os.geteuid()}"])
            wait_until(10, lambda: not self._succeeds(["squeue", "-h"]) or not self.command("squeue", "-h").strip())
        for daemon in reversed(list(self._daemons())):
            if daemon.name.startswith("node."):  # its shell ignores SIGTERM
                daemon.kill()
            daemon.stop(20)

    def _remove_state(self) -> None:
        for name in ("state", "spool", "mysql", "log"):
            _remove(self.folder / name)

    def _daemons(self) -> Iterator[Daemon]:
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

    def _has_hosts(self, node: Daemon, name: str) -> bool:
        init = child_of(node.pid or 0)
        enter = ["nsenter", "-t", str(init), "--uts", "--mount", "grep", "-qw", name, "/etc/hosts"]
        return bool(init) and self._succeeds(enter)

    def _daemon(self, name: str) -> Daemon:
        program = _NODE_PROGRAM if name.startswith("node.") else name.partition(".")[0]
        return Daemon(self.folder, name, program, self.environment)

    def _wait(self, seconds: float, subject: str, condition: Callable[[], object]) -> None:
        if not wait_until(seconds, condition):
            raise DevClusterError(f"{subject} did not come up in {seconds:.0f} s; see {self.folder / 'log'}")

    def _run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self._full_environment(), input=text, text=True, capture_output=True, check=True
        )

    def _full_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
