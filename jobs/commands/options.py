"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

LOCAL = "local processes"
"""In place of a profile: processes of this machine."""

Config = Annotated[Path, typer.Argument(readable=False, help="Settings file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=value.")]
Run = Annotated[Path, typer.Argument(readable=False, help="Run folder, such as runs/demo.")]
On = Annotated[str, typer.Option(help="Profile of slurm/profiles or a YAML file; else this machine's processes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")]
