"""The command line, as a user calls it."""

import subprocess
import sys
from pathlib import Path

QUARTERDOSE = Path(sys.executable).with_name("quarterdose")


CONFIG = "name: x\ndata:\n  sources: [{source}]\n"


def quarterdose(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(QUARTERDOSE), *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
