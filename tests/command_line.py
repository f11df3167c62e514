"""The command line, as a user calls it: in a process of its own, or within this one, which has everything imported."""

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from jobs.commands.cli import main

QUARTERDOSE = Path(sys.executable).with_name("quarterdose")


CONFIG = "name: x\ndata:\n  sources: [{source}]\n"


def quarterdose(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(QUARTERDOSE), *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def quarterdose_within(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Take a command that starts no worker: their server would keep the environment of an earlier test."""
    out, error = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(error),
        patch.object(sys, "argv", ["quarterdose", *words]),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(words, code, out.getvalue(), error.getvalue())
