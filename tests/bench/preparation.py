"""Benchmarks of preparation: reading DICOM, a whole scan against its parts, two workers, and their memory."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import SimpleITK
import torch
import yaml

from data_prep.prepare import prepare
from data_prep.readers.dicom import open_dicom
from data_prep.settings import DataSettings
from data_prep.sources.discovery import discover
from data_prep.sources.sample import sample_path
from data_prep.sources.series import Series
from data_prep.store import Pair
from tests.bench.low_dose import simulate_scan
from tests.bench.timing import medians
from tests.beside import SHARED
from tests.pairs import write_pair

_QUARTERDOSE = Path(sys.executable).with_name("quarterdose")
_GIB = 2**30


def read_dicom() -> tuple[float, float]:
    """140 slices to HU, ordered: ours, against SimpleITK's series reader with GDCM's ordering."""
    folder = next(path.parent for path in sorted((SHARED / "ct/LIDC-IDRI-0003").rglob("*.dcm")))
    files = sorted(folder.glob("*.dcm"))

    def baseline() -> None:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        SimpleITK.GetArrayViewFromImage(reader.Execute())

    return medians(lambda: open_dicom(files).load(), baseline, 15)


def prepare_scan() -> tuple[float, float]:
    """The sample as preparation does it, against the sum of reading, simulating, writing and verifying alone."""
    torch.set_num_threads(1)
    settings = DataSettings.model_validate({"sources": [{"kind": "sample"}]})
    (series,) = discover(settings.sources).series
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        return medians(
            lambda: prepare(series, settings, data / "whole"), lambda: _parts(series, settings, data / "parts.zarr"), 3
        )


def _parts(series: Series, settings: DataSettings, path: Path) -> None:
    scan = series.open(series.files)
    volume, low = scan.load(), simulate_scan(scan, settings.low_dose)
    write_pair(path, {"full_dose": volume.hu, "low_dose": low}, volume.spacing, {})
    Pair(path).check()


def prepare_workers() -> tuple[float, float]:
    """Four copies of the sample by two workers, against two runs of one worker and two copies each, side by side."""
    ours, baseline = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(4):
            for times, shares in ((ours, [range(4)]), (baseline, [range(2), range(2, 4)])):
                seconds = _run([_run_folder(Path(folder), turn, len(shares), share) for share in shares])
                if turn:
                    times.append(seconds)
    return median(ours), median(baseline)


def _run_folder(root: Path, turn: int, shares: int, copies: Sequence[int]) -> Path:
    folder = root / f"{turn}-{shares}-{copies[0]}"
    (folder / "scans").mkdir(parents=True)
    for copy in copies:
        (folder / "scans" / f"sub-{copy}.nii.gz").symlink_to(sample_path())
    data = {
        "sources": [{"kind": "nifti", "path": "scans", "keep_ids": True}],
        "workers": 2 // shares,
        "split": {"validation": 0.3, "test": 0.3},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump({"name": "bench", "data": data, "study": {"slices": [16]}}))
    return folder


def _run(folders: Sequence[Path]) -> float:
    """Seconds until all that run side by side have ended."""
    start = time.perf_counter()
    processes = [
        subprocess.Popen([str(_QUARTERDOSE), "prepare", "run.yaml"], cwd=folder, stdout=subprocess.DEVNULL)
        for folder in folders
    ]
    assert all(process.wait() == 0 for process in processes)
    return time.perf_counter() - start


def worker_memory() -> tuple[float, float]:
    """Peak memory (GiB) of a process that prepares a scan of 700 slices, against 3 GiB."""
    return peak_gib(700), 3.0


def peak_gib(slices: int) -> float:
    """Peak resident memory of a fresh process that prepares a repeated sample of so many slices."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.nii.gz"
        _write_long(path, slices)
        code = f"from tests.bench.preparation import _prepare_one; _prepare_one({str(path)!r})"
        completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(completed.stdout) / _GIB


def _write_long(path: Path, slices: int) -> None:
    image = nib.nifti1.Nifti1Image.from_filename(sample_path())
    voxels = np.asanyarray(image.dataobj)
    long = voxels[..., np.arange(slices) % voxels.shape[2]]
    nib.save(nib.Nifti1Image(long, image.affine), path)


def _prepare_one(path: str) -> None:
    torch.set_num_threads(1)
    settings = DataSettings.model_validate({"sources": [{"kind": "nifti", "path": path}]})
    (series,) = discover(settings.sources).series
    prepare(series, settings, Path(path).parent / "data")
    # not getrusage, whose peak a process inherits from the one that started it
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)  # type: ignore[index]
