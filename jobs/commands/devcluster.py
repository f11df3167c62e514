"""Commands of ``quarterdose devcluster``."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from data_prep.home import home_folder
from data_prep.log import describe_count
from jobs.commands.options import path_of
from slurm.devcluster import PACKAGES, Cluster, DevClusterError, Shape, missing_packages

app = typer.Typer(help="A real Slurm on this machine, for development and tests (Debian, root).", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="<path>",
        help="Where its settings, state and logs lie; else ~/.local/state/quarterdose/devcluster.",
    ),
]
Node = Annotated[str, typer.Argument(help="Name of a node, such as node1.")]


@app.command()
def up(
    folder: Folder = None,
    nodes: Annotated[int, typer.Option(min=1, max=64)] = 4,
    cpus: Annotated[int, typer.Option(min=1, help="Of a node.")] = 2,
    gpus: Annotated[int, typer.Option(min=0, help="Of a node; they are only counted.")] = 4,
    accounting: Annotated[bool, typer.Option(help="With slurmdbd and MariaDB.")] = True,
) -> None:
    """Bring it up, and say how to reach it."""
    cluster = _cluster(folder)
    cluster.up(Shape(nodes, cpus, gpus, accounting=accounting))
    command = f'eval "$(quarterdose devcluster env --folder {cluster.folder})"'
    typer.echo(f"{describe_count(nodes, 'node')} up; to reach the cluster: {command}")


@app.command()
def down(folder: Folder = None, wipe: Annotated[bool, typer.Option(help="Forget its jobs.")] = False) -> None:
    """End all of its processes, and no others."""
    _cluster(folder).down(wipe=wipe)


@app.command()
def status(folder: Folder = None) -> None:
    """Say which of its processes are up; exit code 1 if one is not."""
    daemons = dict(_cluster(folder).daemons())
    for name, pid in daemons.items():
        typer.echo(f"{name:16} {f'up, process {pid}' if pid else 'down'}")
    if not all(daemons.values()):
        raise typer.Exit(1)
    typer.echo(_cluster(folder).command("sinfo"))


@app.command()
def env(folder: Folder = None) -> None:
    """Print what a shell needs for sbatch, squeue and the like to reach it."""
    for name, value in _cluster(folder).environment.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command("kill-node")
def kill_node(node: Node, folder: Folder = None) -> None:
    """End a node with all that runs on it at once, as a power cut does."""
    _cluster(folder).stop_node(node, hard=True)


@app.command("start-node")
def start_node(node: Node, folder: Folder = None) -> None:
    """Start a node again."""
    _cluster(folder).start_node(node)


def _cluster(folder: Path | None) -> Cluster:
    """Return the cluster in a folder, by default in the user's own for state."""
    return Cluster(folder or home_folder("XDG_STATE_HOME", ".local/state") / "quarterdose" / "devcluster")


@app.command()
def install() -> None:
    """Install Debian's packages that it needs, where they are missing."""
    missing = missing_packages()
    if missing:
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
            if subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False).returncode:
                raise DevClusterError(f"`{' '.join(command)}` failed: it needs Debian or Ubuntu, and root")
    typer.echo(f"installed: {', '.join(PACKAGES)}")
