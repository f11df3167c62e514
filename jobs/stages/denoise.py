"""One scan through a trained network, to files that other programs read; whole or absent, and not done twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.errors import ScanError, UserError
from data_prep.files import digest_files, publishing, remove_leftovers, write_json
from data_prep.group_writer import writing_group
from data_prep.originals import Original, dicom_original, nifti_original, pair_original
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom import open_series
from data_prep.sources.folders import hidden_id
from data_prep.sources.stacks import find_stacks
from data_prep.volume import Numbers, check_hu
from data_prep.writers.dicom import DicomWriter, FromGrid, FromSeries
from data_prep.writers.dicom_elements import Derivation
from data_prep.writers.nifti import writing_nifti
from pipeline.inference.corrector import Corrector
from pipeline.inference.model_file import Model, load_model
from pipeline.inference.scan import denoise_slices
from pipeline.training.distributed import device_of
from pipeline.training.world import World

Format = Literal["dicom", "nifti", "zarr"]
ARRAY = "denoised"
_ENDINGS: dict[Format, str] = {"dicom": "", "nifti": ".nii.gz", "zarr": ".zarr"}
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Order:
    """What is wanted. ``deidentify``: nothing of the patient in the output, nor in its name."""

    out: Path
    format: Format
    deidentify: bool = False


class _Writer(Protocol):
    def write(self, hu: NDArray[np.int16], /) -> None: ...


def output_of(scan: Path, order: Order) -> Path:
    """Where the denoised scan goes: under the scan's own name, or a pseudonym of it."""
    name = scan.absolute().name
    for ending in (*_NIFTI[::-1], ".zarr"):
        name = name.removesuffix(ending)
    return order.out / f"{pseudonym(name) if order.deidentify else name}{_ENDINGS[order.format]}"


def denoise_scan(scan: Path, model: Model, order: Order, device: torch.device, progress: Progress) -> str:
    """Denoise a DICOM folder, NIfTI file or Zarr pair; return what was done, in words.

    A scan that was denoised before, by the same model and with the same order, is left as it is.

    Raises:
        UserError: the scan cannot be read, or is no CT.
        MachineError: this machine cannot read it.
    """
    original, files = open_original(scan)
    target = output_of(scan, order)
    record = {
        "source_sha256": digest_files(files), "model_sha256": model.digest, "format": order.format,
        "deidentify": order.deidentify, "quarterdose": version("quarterdose"),
    }  # fmt: skip
    account = target.with_name(f"{target.name}.json")
    if target.exists() and _read(account) == record:
        return f"{target}: done before, by the same model"
    account.unlink(missing_ok=True)
    remove_leftovers(target.parent, target.name)
    correct = Corrector(model.network, model.cell, device)
    with _writing(target, original, model, order, record) as writer, _checking_hu(original) as checked:
        for z, hu in enumerate(denoise_slices(checked, correct), start=1):
            writer.write(hu if order.format != "zarr" else hu[None])
            progress(z, original.slices, "slices")
    write_json(account, record)
    return f"{target}: {original.slices} slices"


def denoise_in_job(scan: Path, model: Path, order: Order, device: Literal["auto", "cpu"], threads: int) -> None:
    """Denoise one scan as a task of an array."""
    torch.set_num_threads(threads)
    print(denoise_scan(scan, load_model(model), order, device_of(World(), device), ignore_progress), flush=True)


def open_original(scan: Path) -> tuple[Original, list[Path]]:
    """The scan of a path, and its files.

    Raises:
        UserError: there is none, several, or no CT.
    """
    if not scan.exists():
        raise UserError(f"{scan} does not exist")
    if (scan / "zarr.json").is_file():
        return pair_original(scan), sorted(path for path in scan.rglob("*") if path.is_file())
    if scan.is_file() and scan.name.endswith(_NIFTI):
        return nifti_original(scan), [scan]
    files = _images(scan)
    return dicom_original(open_series(files)), files


def _images(scan: Path) -> list[Path]:
    """The DICOM files of the one CT series at or below the path."""
    if scan.is_file():
        return [scan]
    stacks = find_stacks(scan, hidden_id, "denoise, ids hidden")
    fit = [stack for stack in stacks if not stack.first.exclusion]
    if len(fit) > 1:
        raise ScanError(f"holds {len(fit)} CT series, wanted one: name one's folder")
    if not fit:
        reasons = sorted({stack.first.exclusion for stack in stacks})
        raise ScanError("holds no CT series" + (f": {', '.join(reasons)}" if reasons else ""))
    if fit[0].fault:
        raise fit[0].fault
    return list(fit[0].paths)


@contextmanager
def _checking_hu(original: Original) -> Iterator[Original]:
    """Yield the scan; raise ScanError at the end if the slices that were read hold no HU."""
    extremes: dict[int, tuple[float, float]] = {}  # of each slice: threads read at the same time

    def read(z: int) -> tuple[Numbers, NDArray[np.bool_]]:
        hu, padding = original.read(z)
        extremes[z] = float(hu.min()), float(hu.max())
        return hu, padding

    yield replace(original, read=read)
    lowest, highest = zip(*extremes.values(), strict=True)
    check_hu(min(lowest), max(highest))


@contextmanager
def _writing(target: Path, original: Original, model: Model, order: Order, record: dict[str, Any]) -> Iterator[_Writer]:
    """A writer of the whole scan, slice by slice."""
    shape = (original.slices, *original.plane)
    if order.format == "zarr":
        with writing_group(target, [ARRAY], shape, original.spacing) as group:
            yield group
            group.close(record)
    elif order.format == "nifti":
        with writing_nifti(target, shape, original.affine) as file:
            yield file
    else:
        derivation, series = _derivation(model, order, record), original.series
        with publishing(target) as folder:
            source = FromSeries(series, derivation) if series else FromGrid(target.name, original.affine, derivation)
            yield DicomWriter(folder, source)


def _derivation(model: Model, order: Order, record: dict[str, Any]) -> Derivation:
    described = f"Denoised by quarterdose {version('quarterdose')}, model {model.cell.id} (SHA-256 {model.digest})"
    return Derivation(described, json.dumps(record, sort_keys=True), order.deidentify)


def _read(account: Path) -> Any:
    try:
        return json.loads(account.read_text())
    except (FileNotFoundError, ValueError):
        return None
