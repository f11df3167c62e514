"""Prepare a scan: from one series on disk to a verified Zarr pair, a contact sheet and a manifest row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from data_prep.partners import FULL_DOSE, Partner
from data_prep.paths import contact_path, pair_path
from data_prep.progress import Progress, ignore_progress
from data_prep.settings import DataSettings, LowDoseSettings
from data_prep.sources.series import Series
from data_prep.store import Pair
from data_prep.volume import CHUNK_SLICES, SIDE, CTScan

_MAX_SHIFT_MM = 0.1  # of the low dose against the full dose
Hu = NDArray[np.int16]
Models = Mapping[float | None, NoiseModel | None]
"""Noise model of each dose; None where the low dose was measured."""


@dataclass(frozen=True)
class _Account:
    """What is recorded of a partner, slice by slice."""

    partner: Partner
    overview: Overview
    noise: NoiseRecord

    def add(self, full: Hu, low: Hu) -> None:
        _check_doses(full, low, self.partner, self.overview.seen)
        self.noise.add(self.overview.seen, full, low)
        self.overview.add(full, low)

    def columns(self, models: Models) -> dict[str, Any]:
        """Return the manifest's columns of noise and error."""
        model = models[self.partner.dose]
        return {**self.noise.row(is_cut=model is not None and model.is_cut), "rmse_low_hu": self.overview.rmse()}


def prepare(
    series: Series, settings: DataSettings, data: Path, *, threads: int = 1, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Read a scan, add its low doses, write the pair, read it back and check it; return its manifest row.

    The slices are processed in chunks, so memory does not grow with the length of the scan. Of several partners the
    row has the noise of the first, and under ``partners`` that of each.

    Raises:
        ScanError: the series cannot be read as an axial CT.
        MachineError: this machine cannot read it.
    """
    if series.fault:
        raise series.fault
    source = digest_files(series.files + series.low_files)
    scan, path = series.open(series.files).fitted(settings.fit), pair_path(data, series.dataset, series.scan)
    accounts = _accounts(scan, (Partner(None),) if series.low_files else settings.low_dose.partners)
    models = _models(accounts, scan, settings.low_dose)
    names = (FULL_DOSE, *(account.partner.array for account in accounts))
    with (
        writing_group(path, names, (scan.slices, SIDE, SIDE), scan.spacing, scan.affine_of(SIDE)) as writer,
        _chunks(series, scan, settings, accounts, models, threads) as chunks,
    ):
        for number, (full, *low_doses) in enumerate(chunks):
            for account, low in zip(accounts, low_doses, strict=True):
                account.add(full, low)
            writer.write(full, *low_doses)
            progress(number * CHUNK_SLICES + len(full), scan.slices, "slices")
        digests = writer.close(_provenance(series, settings, source, accounts, models))
    Pair(path).check()
    row = _row(series, scan, accounts, models)
    row |= {"sha256_source": source, **{f"sha256_{k}": v for k, v in digests.items()}}
    _draw(accounts, models, row, contact_path(data, series.dataset, series.scan))
    return row


def _accounts(scan: CTScan, partners: Sequence[Partner]) -> list[_Account]:
    noise = NoiseRecord(read_slabs(scan), scan.spacing[2], None)
    return [_Account(partner, Overview(scan.slices), noise.of_dose(partner.dose)) for partner in partners]


def _models(accounts: Sequence[_Account], scan: CTScan, settings: LowDoseSettings) -> Models:
    """Match a noise model for each dose: electronic noise weighs more at a lower one."""
    return {
        dose: None if dose is None else match(noise.slabs, noise.own, settings.at(dose), noise.pixel, scan.acquisition)
        for dose, noise in {account.partner.dose: account.noise for account in accounts}.items()
    }


def _draw(accounts: Sequence[_Account], models: Models, row: Mapping[str, Any], path: Path) -> None:
    """Write the contact sheet: of each dose the first realisation."""
    shown = [account for account in accounts if account.partner.realisation == 1]
    strips = [noise_strip(account.noise, account.columns(models)) for account in shown]
    further = [(account.partner.dose, account.overview, strip) for account, strip in zip(shown, strips, strict=True)]
    shown[0].overview.draw(path, row, strips[0], further[1:])


def _check_doses(full: Hu, low: Hu, partner: Partner, first: int) -> None:
    """Refuse slices whose doses are the same; ``first``: index of the first slice in the scan."""
    equal = np.flatnonzero((full == low).all((1, 2)))
    if len(equal):
        name = "the low dose" if partner.dose is None else f"the low dose of {partner.dose} (data.low_dose.doses)"
        raise ScanError(f"{name} equals the full dose in all voxels of slice {first + equal[0] + 1} from the feet")


@contextmanager
def _chunks(
    series: Series, scan: CTScan, settings: DataSettings, accounts: Sequence[_Account], models: Models, threads: int
) -> Iterator[Iterator[tuple[Hu, ...]]]:
    """Give an iterator of chunks: the full dose, then each low dose, measured or simulated."""
    if series.low_files:
        yield zip(scan.chunks(), _measured(series, scan, settings).chunks(), strict=True)
        return
    with ThreadPoolExecutor(threads) as pool:
        simulations = [
            _simulation(settings.low_dose, account.partner, models, scan, series.scan, pool, threads)
            for account in accounts
        ]
        yield (
            (full, *(low_dose(full, number * CHUNK_SLICES) for low_dose in simulations))
            for number, full in enumerate(scan.chunks())
        )


def _measured(series: Series, scan: CTScan, settings: DataSettings) -> CTScan:
    low = series.open(series.low_files).fitted(settings.fit)
    if low.slices != scan.slices or not np.allclose(low.spacing, scan.spacing, rtol=1e-3):
        raise ScanError(f"the low dose has {_grid(low)}, the full dose {_grid(scan)}")
    if low.affine is not None and scan.affine is not None:
        shift = float(np.abs(low.affine - scan.affine)[:, 3].max())
        if shift > _MAX_SHIFT_MM:
            raise ScanError(f"the low dose lies {shift:.2f} mm beside the full dose: another field of view")
    return low


def _grid(scan: CTScan) -> str:
    return f"{scan.slices} slices of {' x '.join(f'{step:.3f}' for step in scan.spacing)} mm"


def _simulation(
    settings: LowDoseSettings, partner: Partner, models: Models, scan: CTScan, name: str, pool: ThreadPoolExecutor,
    threads: int,
) -> Callable[[Hu, int], Hu]:  # fmt: skip
    """Return the function that simulates a chunk's low dose; its result does not depend on the number of threads."""
    assert partner.dose is not None
    local = settings.at(partner.dose)
    simulator = LowDoseSimulator(local, SIDE, scan.spacing[2], model=models[partner.dose])
    part_slices = -(-CHUNK_SLICES // (2 * threads)) * 2

    def low_dose(full: Hu, first: int) -> Hu:
        def simulate(start: int) -> Hu:
            return simulator.low_dose(full[start : start + part_slices], name, first + start, partner.draw)

        return np.concatenate(list(pool.map(simulate, range(0, len(full), part_slices))))

    return low_dose


def _provenance(
    series: Series, settings: DataSettings, source: str, accounts: Sequence[_Account], models: Models
) -> dict[str, Any]:
    records = {dose: model and model.as_record() for dose, model in models.items()}
    several = [{**asdict(account.partner), "noise_model": records[account.partner.dose]} for account in accounts]
    return {
        "dataset": series.dataset,
        "subject": series.subject,
        "source_sha256": source,
        "reader": series.open.__name__,
        "fit": settings.fit,
        "low_dose": "measured" if series.low_files else settings.low_dose.as_record(),
        **({"partners": several} if len(several) > 1 else {"noise_model": several[0]["noise_model"]}),
        "quarterdose": version("quarterdose"),
    }


def _row(series: Series, scan: CTScan, accounts: Sequence[_Account], models: Models) -> dict[str, Any]:
    acquisition, model = scan.acquisition, models[accounts[0].partner.dose]
    several = [{**asdict(account.partner), **account.columns(models)} for account in accounts]
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
        "dose": accounts[0].partner.dose,
        "photons": model and float(f"{model.photons:.4g}"),
        **accounts[0].columns(models),
        **({"partners": several} if len(several) > 1 else {}),
    }
