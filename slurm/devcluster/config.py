"""Settings files of the cluster, for Slurm and MariaDB, from the templates beside this module."""

import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.files import write_atomic

_SECRET = 0o600


@dataclass(frozen=True)
class Shape:
    """Size of the emulated cluster; ``cpus``, ``gpus`` and ``memory`` (MiB) are those of a node.

    ``port``: the first of ``20 + nodes`` ports on the loopback; ``array``: Slurm's ``MaxArraySize``.
    """

    nodes: int = 4
    cpus: int = 2
    gpus: int = 4
    memory: int = 65536
    accounting: bool = True
    port: int = 17000
    array: int = 2001

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


def write_config(folder: Path, shape: Shape) -> None:
    """Write the settings in ``folder/etc`` and the stand-ins for GPU devices in ``folder/dev``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("slurm.devcluster"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701 - no HTML
    )  # fmt: skip
    values = {**asdict(shape), "names": shape.names, "folder": folder, "first_job": _first_job(folder),
              "host": socket.gethostname().partition(".")[0]}  # fmt: skip
    for name in templates.list_templates(filter_func=lambda name: not name.startswith("__")):
        text = templates.get_template(name).render(values)
        write_atomic(folder / "etc" / name, text, _SECRET if name == "slurmdbd.conf" else 0o644)
    for number in range(shape.gpus):
        _create_device(folder / "dev" / f"nvidia{number}")
    key = folder / "etc" / "munge.key"
    if not key.exists():
        write_atomic(key, os.urandom(128), _SECRET)


def _first_job(folder: Path) -> int:
    """Return the first job id, by the clock: after a wipe no id is used twice, as logs are named by job ids."""
    path = folder / "state" / "first_job_id"
    if not path.exists():
        write_atomic(path, str(int(time.time() / 60) % 60_000 * 1000 + 1))
    return int(path.read_text())


def _create_device(path: Path) -> None:
    """Create a device like ``/dev/null``."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
