"""One series on disk to one verified Zarr pair and its manifest row."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.files import digest_files
from data_prep.layout import pair_path
from data_prep.lowdose.noise import simulate
from data_prep.progress import Progress, untold
from data_prep.settings import LowDoseSettings
from data_prep.sources.series import Series
from data_prep.store import Pair, write_pair


def prepare(
    series: Series,
    settings: LowDoseSettings,
    data: Path,
    *,
    threads: int = 1,
    progress: Progress = untold,
) -> dict[str, Any]:
    """Read, simulate, write, read back and check one scan; return its manifest row.

    Raises:
        ScanError: the series cannot be read as an axial CT.
    """
    source = digest_files(series.files)
    volume = series.read(series.path)
    low = simulate(volume, settings, series.scan, threads=threads, progress=progress)
    path = pair_path(data, series.dataset, series.scan)
    provenance = {
        "dataset": series.dataset,
        "subject": series.subject,
        "source_sha256": source,
        "reader": series.read.__name__,
        "low_dose": settings.model_dump(mode="json"),
        "quarterdose": version("quarterdose"),
    }
    digests = write_pair(path, {"full_dose": volume.hu, "low_dose": low}, volume.spacing, provenance)
    Pair(path).check()
    z, _, x = volume.spacing
    return {
        "dataset": series.dataset,
        "subject": series.subject,
        "scan": series.scan,
        "slices": len(volume.hu),
        "spacing_z_mm": z,
        "spacing_xy_mm": x,
        "rmse_low_hu": _rmse(low, volume.hu),
        "sha256_source": source,
        "sha256_full_dose": digests["full_dose"],
        "sha256_low_dose": digests["low_dose"],
    }


def _rmse(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    squares = sum(float(((x.astype(np.float64) - y) ** 2).sum()) for x, y in zip(a, b, strict=True))
    return round(float(np.sqrt(squares / a.size)), 4)
