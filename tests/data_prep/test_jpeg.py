"""Machines without decoders for JPEG: all but JPEG works there."""

import subprocess
import sys
from pathlib import Path

import gdcm
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from tests.data_prep.dicom_series import transcode, write_series
from tests.pairs import write_toy_pair
from tests.scans import chest

DECODERS = "imagecodecs", "pylibjpeg", "openjpeg", "gdcm"
IMPORT = """
from importlib import import_module
from pkgutil import walk_packages
import jobs, pipeline.training
for package in (jobs, pipeline.training):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)
"""
READ = """
import sys
from pathlib import Path
from data_prep.errors import MachineError
from data_prep.readers.dicom import open_dicom
from data_prep.store import Pair
folder = Path(sys.argv[1])
print(len(Pair(folder / "toy" / "a.zarr").read("low_dose", 0, 2)))
for series in ("plain", "jpeg-ls", "jpeg-2000"):
    try:
        print(len(open_dicom(sorted((folder / series).iterdir())).load().hu))
    except MachineError as error:
        print(error)
"""


def run_without_decoders(code: str, *words: str) -> list[str]:
    """Run code in a process that finds no decoder; return its lines."""
    block = f"import sys; sys.modules.update(dict.fromkeys({DECODERS}))\n"
    process = subprocess.run([sys.executable, "-c", block + code, *words], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_all_but_jpeg_is_read_and_the_missing_package_is_named(tmp_path: Path) -> None:
    write_toy_pair(tmp_path, slices=3, side=32)
    syntaxes = {"jpeg-ls": gdcm.TransferSyntax.JPEGLSLossless, "jpeg-2000": gdcm.TransferSyntax.JPEG2000Lossless}
    write_series(tmp_path / "plain", chest(3, 64), (2.5, 0.7, 0.7))
    for name, syntax in syntaxes.items():
        for path in write_series(tmp_path / name, chest(3, 64), (2.5, 0.7, 0.7)):
            transcode(path, syntax)
    assert run_without_decoders(READ, str(tmp_path)) == [
        "2",
        "3",
        f"no decoder for {JPEGLSLossless.name} is installed: pip install imagecodecs",
        f"no decoder for {JPEG2000Lossless.name} is installed: pip install pylibjpeg pylibjpeg-openjpeg",
    ]


@pytest.mark.slow
def test_command_line_and_training_are_imported_without_decoders() -> None:
    run_without_decoders(IMPORT)


def test_the_reader_of_dicom_imports_no_decoder_before_a_jpeg() -> None:
    code = "import sys, data_prep.readers.dicom; print('imagecodecs' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"
