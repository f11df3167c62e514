"""Every kernel compiles for A100 and H100, on a machine without a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.kernels
from tests.pipeline.kernels import needs_triton

PROGRAMS = Path(pipeline.kernels.__file__).parent / "programs"
LAUNCH = re.compile(r"(_\w+)\[.+\]\($|(_\w+)\[.+\]\(\w", re.MULTILINE)


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_both_architectures_and_spill_next_to_nothing() -> None:
    environment = {name: word for name, word in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.pipeline.compiled_kernels", "80"]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert not output.stderr
    rows = [json.loads(line) for line in output.stdout.splitlines()]
    launched = {
        f"{path.stem}.{first or second}"
        for path in PROGRAMS.glob("*.py")
        for first, second in LAUNCH.findall(path.read_text())
    }
    for architecture in (80, 90):
        assert {row["kernel"] for row in rows if row["architecture"] == architecture} == launched
    assert max(row["spilled"] for row in rows) <= 32
    assert all(row["widest"] == 4 for row in rows if "inner" not in row)  # words of four bytes, but for the last axis
