"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer


def path_of(text: str) -> Path:
    """Read a folder of the command line; an empty one, as a shell's unset variable gives, would be the working folder.

    Raises:
        BadParameter: it is empty.
    """
    return _named(text, "write . for the working folder")


def file_of(text: str) -> Path:
    """Read the path of a file, of which an empty one is none.

    Raises:
        BadParameter: it is empty.
    """
    return _named(text, "name a file")


def _named(text: str, remedy: str) -> Path:
    if not text:
        raise typer.BadParameter(f"it is empty: {remedy} (is a variable of the shell not set?)")
    return Path(text)


LOCAL = "local processes"
"""In place of a profile: processes of this machine."""

Config = Annotated[
    Path, typer.Argument(parser=file_of, metavar="CONFIG", help="Settings file (YAML).", show_default=False)
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=value.")]
Run = Annotated[Path, typer.Argument(parser=path_of, metavar="FOLDER", help="Run folder, such as runs/demo.")]
On = Annotated[str, typer.Option(help="Profile of slurm/profiles or a YAML file; else this machine's processes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")]
