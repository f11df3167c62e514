"""Denoising of one scan into files that other programs read: written whole or not at all, and not twice."""

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
from data_prep.log import logger
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
class OutputOptions:
    """Folder and format of denoised scans; ``deidentify``: nothing of the patient in the output, nor in its name."""

    out: Path
    format: Format
    deidentify: bool = False


class _Writer(Protocol):
    def write(self, hu: NDArray[np.int16], /) -> None: ...


def output_of(scan: Path, options: OutputOptions) -> Path:
    """Return the path of the denoised scan: named like the scan, or by a pseudonym of it."""
    name = scan.absolute().name
    for ending in (*_NIFTI[::-1], ".zarr"):
        name = name.removesuffix(ending)
    return options.out / f"{pseudonym(name) if options.deidentify else name}{_ENDINGS[options.format]}"


def denoise_scan(scan: Path, model: Model, options: OutputOptions, device: torch.device, progress: Progress) -> str:
    """Denoise a DICOM folder, NIfTI file or Zarr pair; return a line that says what was done.

    A scan that was denoised before, by the same model and with the same options, is left as it is.

    Raises:
        UserError: the scan cannot be read, or is no CT.
        MachineError: this machine cannot read it.
    """
    original, files = open_original(scan)
    target = output_of(scan, options)
    record = {
        "source_sha256": digest_files(files), "model_sha256": model.digest, "format": options.format,
        "deidentify": options.deidentify, "quarterdose": version("quarterdose"),
    }  # fmt: skip
    record_file = target.with_name(f"{target.name}.json")
    if target.exists() and _read(record_file) == record:
        return f"{target}: done before, by the same model"
    record_file.unlink(missing_ok=True)
    remove_leftovers(target.parent, target.name)
    correct = Corrector(model.network, model.cell, device)
    with _writing(target, original, model, options, record) as writer, _checking_hu(original) as checked:
        for z, hu in enumerate(denoise_slices(checked, correct), start=1):
            writer.write(hu if options.format != "zarr" else hu[None])
            progress(z, original.slices, "slices")
    write_json(record_file, record)
    return f"{target}: {original.slices} slices"


def denoise_in_job(
    scan: Path, model: Path, options: OutputOptions, device: Literal["auto", "cpu"], threads: int
) -> None:
    """Denoise one scan, as a task of an array of Slurm."""
    torch.set_num_threads(threads)
    logger.info(denoise_scan(scan, load_model(model), options, device_of(World(), device), ignore_progress))


def open_original(scan: Path) -> tuple[Original, list[Path]]:
    """Open the scan at a path; return it with its files.

    Raises:
        UserError: there is no scan, or several, or it is no CT.
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
    """List the DICOM files of the single CT series at or below the path."""
    if scan.is_file():
        return [scan]
    stacks = find_stacks(scan, hidden_id, "denoise, ids hidden", label=str)
    series = [stack for stack in stacks if not stack.first.exclusion]
    if len(series) > 1:
        raise ScanError(f"holds {len(series)} CT series, wanted one: name one's folder")
    if not series:
        reasons = sorted({stack.first.exclusion for stack in stacks})
        raise ScanError("holds no CT series" + (f": {', '.join(reasons)}" if reasons else ""))
    if series[0].fault:
        raise series[0].fault
    if series[0].copies:
        logger.warning(f"{scan}: {len(series[0].copies)} identical copies of its images are left out")
    return list(series[0].paths)


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
def _writing(
    target: Path, original: Original, model: Model, options: OutputOptions, record: dict[str, Any]
) -> Iterator[_Writer]:
    """Yield a writer that takes the scan slice by slice, for the format of the options."""
    shape = (original.slices, *original.plane)
    if options.format == "zarr":
        with writing_group(target, [ARRAY], shape, original.spacing) as group:
            yield group
            group.close(record)
    elif options.format == "nifti":
        with writing_nifti(target, shape, original.affine) as file:
            yield file
    else:
        derivation, series = _derivation(model, options, record), original.series
        with publishing(target) as folder:
            source = FromSeries(series, derivation) if series else FromGrid(target.name, original.affine, derivation)
            yield DicomWriter(folder, source)


def _derivation(model: Model, options: OutputOptions, record: dict[str, Any]) -> Derivation:
    description = f"Denoised by quarterdose {version('quarterdose')}, model {model.cell.id} (SHA-256 {model.digest})"
    return Derivation(description, json.dumps(record, sort_keys=True), options.deidentify)


def _read(record_file: Path) -> Any:
    try:
        return json.loads(record_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
