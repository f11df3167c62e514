"""Programs in the place of others, such as Slurm's."""

from pathlib import Path


def write_program(folder: Path, name: str, script: str) -> None:
    """Write a script of the shell that is found where the folder is in the search path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
