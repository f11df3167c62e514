"""Prepare a scan: from one series on disk to a verified Zarr pair, a contact sheet and a manifest row."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError
from data_prep.files import digest_files
from data_prep.group_writer import writing_group
from data_prep.lowdose.matching import match
from data_prep.lowdose.model import NoiseModel
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import read_slabs
from data_prep.noise_strip import noise_strip
from data_prep.overview import Overview
from data_prep.paths import contact_path, pair_path
from data_prep.progress import Progress, ignore_progress
from data_prep.settings import DataSettings, LowDoseSettings
from data_prep.sources.series import Series
from data_prep.store import ARRAYS, Pair
from data_prep.volume import CHUNK_SLICES, SIDE, CTScan

Hu = NDArray[np.int16]


def prepare(
    series: Series, settings: DataSettings, data: Path, *, threads: int = 1, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Read a scan, add its low dose, write the pair, read it back and check it; return its manifest row.

    The slices are processed in chunks, so memory does not grow with the length of the scan.

    Raises:
        ScanError: the series cannot be read as an axial CT.
        MachineError: this machine cannot read it.
    """
    if series.fault:
        raise series.fault
    source = digest_files(series.files + series.low_files)
    scan, path = series.open(series.files).fitted(settings.fit), pair_path(data, series.dataset, series.scan)
    overview, model = Overview(scan.slices), None
    record = NoiseRecord(read_slabs(scan), scan.spacing[2], None if series.low_files else settings.low_dose.dose)
    if not series.low_files:
        model = match(record.slabs, record.own, settings.low_dose, scan.spacing[2], scan.acquisition)
    with (
        writing_group(path, ARRAYS, (scan.slices, SIDE, SIDE), scan.spacing, scan.affine_of(SIDE)) as writer,
        _partners(series, scan, settings, model, threads) as partners,
    ):
        for full, low in partners:
            _check_doses(full, low, overview.seen)
            writer.write(full, low)
            record.add(overview.seen, full, low)
            overview.add(full, low)
            progress(overview.seen, scan.slices, "slices")
        digests = writer.close(_provenance(series, settings, source, model))
    Pair(path).check()
    row = _row(series, scan, overview, record, model)
    row |= {"sha256_source": source, **{f"sha256_{k}": v for k, v in digests.items()}}
    overview.draw(contact_path(data, series.dataset, series.scan), row, noise_strip(record, row))
    return row


def _check_doses(full: Hu, low: Hu, first: int) -> None:
    """Refuse slices whose doses are the same; ``first``: index of the first slice in the scan."""
    equal = np.flatnonzero((full == low).all((1, 2)))
    if len(equal):
        raise ScanError(
            f"the low dose equals the full dose in all voxels of slice {first + equal[0] + 1} from the feet"
        )


@contextmanager
def _partners(
    series: Series, scan: CTScan, settings: DataSettings, model: NoiseModel | None, threads: int
) -> Iterator[Iterator[tuple[Hu, Hu]]]:
    """Give an iterator of chunks of full and low dose, measured or, with a model, simulated."""
    if model is None:
        yield zip(scan.chunks(), _measured(series, scan, settings).chunks(), strict=True)
        return
    with ThreadPoolExecutor(threads) as pool:
        low_dose = _simulation(settings.low_dose, model, scan, series.scan, pool, threads)
        yield ((full, low_dose(full, first * CHUNK_SLICES)) for first, full in enumerate(scan.chunks()))


def _measured(series: Series, scan: CTScan, settings: DataSettings) -> CTScan:
    low = series.open(series.low_files).fitted(settings.fit)
    if low.slices != scan.slices or not np.allclose(low.spacing, scan.spacing, rtol=1e-3):
        raise ScanError(f"the low dose has {_grid(low)}, the full dose {_grid(scan)}")
    return low


def _grid(scan: CTScan) -> str:
    return f"{scan.slices} slices of {' x '.join(f'{step:.3f}' for step in scan.spacing)} mm"


def _simulation(
    settings: LowDoseSettings, model: NoiseModel, scan: CTScan, name: str, pool: ThreadPoolExecutor, threads: int
) -> Callable[[Hu, int], Hu]:
    """Return the function that simulates a chunk's low dose; its result does not depend on the number of threads."""
    simulator = LowDoseSimulator(settings, SIDE, scan.spacing[2], model=model)
    part_slices = -(-CHUNK_SLICES // (2 * threads)) * 2

    def low_dose(full: Hu, first: int) -> Hu:
        starts = range(0, len(full), part_slices)
        parts = pool.map(lambda s: simulator.low_dose(full[s : s + part_slices], name, first + s), starts)
        return np.concatenate(list(parts))

    return low_dose


def _provenance(series: Series, settings: DataSettings, source: str, model: NoiseModel | None) -> dict[str, Any]:
    low_dose: Any = "measured" if series.low_files else settings.low_dose.model_dump(mode="json")
    return {
        "dataset": series.dataset,
        "subject": series.subject,
        "source_sha256": source,
        "reader": series.open.__name__,
        "fit": settings.fit,
        "low_dose": low_dose,
        "noise_model": model and model.as_record(),
        "quarterdose": version("quarterdose"),
    }


def _row(
    series: Series, scan: CTScan, overview: Overview, record: NoiseRecord, model: NoiseModel | None
) -> dict[str, Any]:
    acquisition = scan.acquisition
    return {
        "dataset": series.dataset,
        "subject": series.subject,
        "scan": series.scan,
        "slices": scan.slices,
        "spacing_z_mm": scan.spacing[0],
        "spacing_xy_mm": scan.spacing[2],
        "thickness_mm": acquisition.thickness,
        "kernel": acquisition.kernel,
        "kvp": acquisition.kvp,
        "mas": acquisition.mas,
        "low_dose": "measured" if series.low_files else "simulated",
        "photons": model and float(f"{model.photons:.4g}"),
        **record.row(is_cut=model is not None and model.is_cut),
        "rmse_low_hu": overview.rmse(),
    }
