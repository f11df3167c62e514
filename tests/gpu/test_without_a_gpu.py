"""What must hold before a benchmark reaches a GPU."""

import subprocess
import sys

import pytest

IMPORT = """
import torch

def refuse(*arguments):
    raise AssertionError("CUDA was asked for")

for name in ("is_available", "device_count", "init", "current_device"):
    setattr(torch.cuda, name, refuse)
import tests.gpu.sections
"""


@pytest.mark.slow
def test_no_import_asks_for_a_gpu() -> None:
    """Else processes that are forked afterwards could not use it."""
    subprocess.run([sys.executable, "-c", IMPORT], check=True)
