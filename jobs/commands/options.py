"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer


def path_of(text: str) -> Path:
    """Read a path of the command line; an empty one, as a shell's unset variable gives, would be the working folder.

    Raises:
        BadParameter: it is empty.
    """
    if not text:
        raise typer.BadParameter("it is empty: write . for the working folder (is a variable of the shell not set?)")
    return Path(text)


LOCAL = "local processes"
"""In place of a profile: processes of this machine."""

Config = Annotated[Path, typer.Argument(readable=False, help="Settings file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=value.")]
Run = Annotated[Path, typer.Argument(readable=False, help="Run folder, such as runs/demo.")]
On = Annotated[str, typer.Option(help="Profile of slurm/profiles or a YAML file; else this machine's processes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")]
