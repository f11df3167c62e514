"""Denoising of one scan into files that other programs read: written whole or not at all, and not twice."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.errors import MachineError, ScanError, UserError
from data_prep.files import Declare, claimed, digest_files, publishing, remove_leftovers
from data_prep.group_writer import writing_group
from data_prep.input_noise import measure_input
from data_prep.log import logger, printable
from data_prep.originals import MIN_SLICES, Original, dicom_original, nifti_original, pair_original
from data_prep.plausibility import HuCheck
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import passing_pseudonyms
from data_prep.readers.dicom import open_series
from data_prep.readers.dicom_file import is_dicom
from data_prep.sources.choice import choose_series
from data_prep.sources.stacks import Stack
from data_prep.volume import AIR_HU, Numbers
from data_prep.writers.dicom import DicomWriter, FromGrid, FromSeries
from data_prep.writers.dicom_elements import Derivation
from data_prep.writers.nifti import writing_nifti
from jobs.stages.denoise_outputs import NIFTI_ENDINGS, OutputOptions, check_outputs, choose_output
from pipeline.inference.corrector import Corrector
from pipeline.inference.model_file import Model, load_model
from pipeline.inference.scan import denoise_slices
from pipeline.inference.trained_noise import as_record, compare
from pipeline.training.distributed import device_of
from pipeline.training.world import World

ARRAY = "denoised"
_PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")
Source = Callable[[], tuple[Original, list[Path]]]
"""Opens a scan; returns it with its files."""


class _Writer(Protocol):
    def write(self, hu: NDArray[np.int16], /) -> None: ...


def denoise_scan(scan: Path, model: Model, options: OutputOptions, device: torch.device, progress: Progress) -> str:
    """Denoise a DICOM folder, NIfTI file or Zarr pair; return a line for each series that says what was done.

    What was denoised before, by the same model and with the same options, is left as it is.

    Raises:
        UserError: the scan cannot be read, is no CT, or its output is not to be written; other series are done.
        MachineError: this machine cannot read it; other series are done.
    """
    check_outputs([scan], [], options)
    with nullcontext() if options.deidentify else passing_pseudonyms():  # else none is written
        return _denoise_sources(scan, model, options, _corrector(model, options, device), progress)


def _corrector(model: Model, options: OutputOptions, device: torch.device) -> Corrector:
    return Corrector(model.network, model.cell, device, dose=options.dose)


def _denoise_sources(scan: Path, model: Model, options: OutputOptions, correct: Corrector, progress: Progress) -> str:
    sources = find_sources(scan, options)
    options = replace(options, shares_name=options.shares_name or len(sources) > 1)
    if len(sources) == 1:
        return _denoise_source(scan, sources[0], model, options, correct, progress)
    lines, faults = list[str](), list[ScanError | MachineError]()
    for source in sources:
        try:
            lines.append(_denoise_source(scan, source, model, options, correct, progress))
        except (ScanError, MachineError) as error:
            faults.append(error)
    if faults:
        kind = MachineError if any(isinstance(fault, MachineError) for fault in faults) else ScanError
        raise kind(f"{len(faults)} of {len(sources)} series were refused: {'; '.join([*map(str, faults), *lines])}")
    return "\n".join(lines)


def _denoise_source(
    scan: Path, source: Source, model: Model, options: OutputOptions, correct: Corrector, progress: Progress
) -> str:
    original, files = source()
    digest = digest_files(files)
    recipe = {
        "source_sha256": digest, "model_sha256": model.digest, "format": options.format,
        "deidentify": options.deidentify, "quarterdose": version("quarterdose"),
        **({} if options.dose is None else {"dose": options.dose}),
    }  # fmt: skip
    output = choose_output(scan, digest, options)
    with claimed(output.lock_file, f"another `quarterdose denoise` is at work on {output.path}"):
        if output.record().get("source_sha256") not in (None, digest):
            raise UserError(f"{output.path} has just become another scan's: run the same command again")
        if output.is_complete(recipe) and not options.overwrite:
            _warn_of_noise(scan, output.record().get("noise", {}).get("remark", ""))
            return f"{output.path}: done before, by the same model"
        output.check_replaceable()
        remove_leftovers(output.path.parent, re.escape(output.path.name))
        with (
            output.recording({**recipe, "noise": _compare_noise(scan, original, model)}) as declare,
            _writing(output.path, original, model, options, recipe, declare) as writer,
            _checking_hu(original) as checked,
        ):
            for z, hu in enumerate(denoise_slices(checked, correct), start=1):
                writer.write(hu if options.format != "zarr" else hu[None])
                progress(z, original.slices, "slices")
    return f"{output.path}: {original.slices} slices"


def _compare_noise(scan: Path, original: Original, model: Model) -> dict[str, Any]:
    """Measure the scan's noise, and warn if it is not such as the model was trained on; return both for the record."""
    noise, trained = measure_input(original), model.provenance.get("noise", {})
    remark = compare(noise, trained)
    _warn_of_noise(scan, remark)
    return {"input": noise and as_record(noise), "trained": trained, "remark": remark}


def _warn_of_noise(scan: Path, remark: str) -> None:
    if remark:
        logger.warning(f"{printable(str(scan))}: {remark}")


def denoise_in_job(
    scan: Path, model: Path, options: OutputOptions, device: Literal["auto", "cpu"], threads: int
) -> None:
    """Denoise one scan, as a task of an array of Slurm."""
    torch.set_num_threads(threads)
    logger.info(denoise_scan(scan, load_model(model), options, device_of(World(), device), ignore_progress))


def find_sources(scan: Path, options: OutputOptions) -> list[Source]:
    """Find the scan at a path, or the chosen series of a folder.

    Raises:
        UserError: there is no scan, it is no CT, or no series was chosen of several.
    """
    if not scan.exists():
        raise UserError(f"{scan} does not exist")
    is_series = scan.is_dir() and not (scan / "zarr.json").is_file()
    if options.series and not is_series:
        raise UserError(f"--series chooses a series in a folder of DICOM files, and {scan} is none")
    if not is_series:
        return [partial(_open_file, scan)]
    choice = choose_series(scan, options.series, MIN_SLICES, shows_uids=not options.deidentify)
    name = printable(str(scan))
    if choice.images_aside:
        reason = "as they are of no CT scan or were denoised"
        logger.info(f"{name}: images that are set aside, {reason}: {choice.images_aside}")
    if choice.is_denoised:
        logger.warning(f"{name}: was denoised by quarterdose before, and is denoised once more")
    if choice.copies:
        logger.warning(f"{name}: {choice.copies} identical copies of its images are left out")
    return [partial(_open_stack, stack) for stack in choice.stacks]


def _open_file(scan: Path) -> tuple[Original, list[Path]]:
    if scan.is_dir():
        return pair_original(scan), sorted(path for path in scan.rglob("*") if path.is_file())
    if not scan.is_file():
        raise ScanError("is neither a folder nor a file")  # a pipe would be waited for
    if scan.name.lower().endswith(NIFTI_ENDINGS):
        return nifti_original(scan), [scan]
    if not is_dicom(scan):
        is_half = scan.name.lower().endswith(_PAIR_ENDINGS)
        kind = "is half of a pair (.hdr and .img) of Analyze or NIfTI" if is_half else "is no DICOM file"
        raise ScanError(f"{kind}, wanted a folder of DICOM files, a NIfTI file (.nii or .nii.gz) or a Zarr pair")
    return dicom_original(open_series([scan])), [scan]


def _open_stack(stack: Stack) -> tuple[Original, list[Path]]:
    if stack.fault:
        raise stack.fault
    return dicom_original(open_series(stack.paths)), list(stack.paths)


@contextmanager
def _checking_hu(original: Original) -> Iterator[Original]:
    """Yield the scan; raise ScanError where a slice that is read, or at the end the scan, holds no HU."""
    check = HuCheck(original.name_slice)

    def read(z: int) -> tuple[Numbers, NDArray[np.bool_]]:
        hu, padding = original.read(z)
        check.add(z, np.where(padding, AIR_HU, np.maximum(hu, AIR_HU)))
        return hu, padding

    yield replace(original, read=read)
    check.finish()


@contextmanager
def _writing(
    target: Path, original: Original, model: Model, options: OutputOptions, recipe: dict[str, Any], declare: Declare
) -> Iterator[_Writer]:
    """Yield a writer that takes the scan slice by slice, for the format of the options.

    ``declare`` is called when all is written, before it appears at ``target``.
    """
    shape = (original.slices, *original.plane)
    if options.format == "zarr":
        with writing_group(target, [ARRAY], shape, original.spacing, original.affine, declare) as group:
            yield group
            group.close(recipe)
    elif options.format == "nifti":
        with writing_nifti(target, shape, original.affine, declare) as file:
            yield file
    else:
        derivation, series = _derivation(model, options, recipe), original.series
        with publishing(target, declare) as folder:
            source = FromSeries(series, derivation) if series else FromGrid(target.name, original.affine, derivation)
            yield DicomWriter(folder, source)


def _derivation(model: Model, options: OutputOptions, recipe: dict[str, Any]) -> Derivation:
    description = f"Denoised by quarterdose {version('quarterdose')}, model {model.cell.id} (SHA-256 {model.digest})"
    return Derivation(description, json.dumps(recipe, sort_keys=True), recipe["source_sha256"], options.deidentify)
