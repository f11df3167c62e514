"""The outputs of denoised scans: their names, and what is checked before anything is written."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.outputs import Output, check_apart, input_folders
from data_prep.pseudonym import pseudonym

Format = Literal["dicom", "nifti", "zarr"]
NIFTI_ENDINGS = (".nii", ".nii.gz")
_ENDINGS: dict[Format, str] = {"dicom": "", "nifti": ".nii.gz", "zarr": ".zarr"}
_MAX_NAME_BYTES = 150  # leaves room for tag, ending and the names of temporary files in the 255 of file systems
_TAG_DIGITS = 8


@dataclass(frozen=True)
class OutputOptions:
    """Folder and format of denoised scans; ``deidentify``: nothing of the patient in the output, nor in its name.

    ``series``: number or SeriesInstanceUID of the series to denoise where a folder holds several, or ``all``.
    ``overwrite``: denoise again what was done before. ``shares_name``: another scan of the command has the same name,
    and neither gets it alone. ``dose``: of the scans, for a network that is told it.
    """

    out: Path
    format: Format
    deidentify: bool = False
    series: str = ""
    overwrite: bool = False
    shares_name: bool = False
    dose: float | None = None


def output_of(scan: Path, options: OutputOptions, tag: str = "") -> Output:
    """Return the output of a scan: named like the scan or by a pseudonym of it, and by a tag if it has one."""
    name = os.path.basename(os.path.abspath(scan))
    for ending in (*reversed(NIFTI_ENDINGS), ".zarr"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    name = pseudonym(name) if options.deidentify else _shorten(name) or "scan"
    return Output(options.out / f"{name}{f'-{tag}' if tag else ''}{_ENDINGS[options.format]}")


def _shorten(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= _MAX_NAME_BYTES else encoded[:_MAX_NAME_BYTES].decode(errors="ignore")


def share_names(scans: Sequence[Path], options: OutputOptions) -> dict[Path, bool]:
    """Return each scan once, and whether others have a different path and the same name for their output."""
    scans = list({os.path.realpath(scan): scan for scan in scans}.values())
    counts = Counter(output_of(scan, options) for scan in scans)
    return {scan: counts[output_of(scan, options)] > 1 for scan in scans}


def check_outputs(scans: Sequence[Path], models: Sequence[Path], options: OutputOptions) -> None:
    """Check that outputs are apart from all inputs, and that what has their names was written by this program.

    Raises:
        UserError: an output is an input, lies inside one or holds one, or would replace something else.
    """
    inputs = [*(folder for scan in scans for folder in input_folders(scan)), *models]
    for output in dict.fromkeys(output_of(scan, options) for scan in scans):
        check_apart(output.path, inputs)
        check_apart(output.record_file, inputs)
        output.record()


def choose_output(scan: Path, source: str, options: OutputOptions) -> Output:
    """Return the output that was written of this source before, else the first name that is free.

    ``source``: SHA-256 of the scan's files; its first digits tell scans of the same name apart.
    """
    outputs = [output_of(scan, options, tag) for tag in ("", source[:_TAG_DIGITS], source)]
    sources = [output.record().get("source_sha256") for output in outputs]
    if source in sources:
        return outputs[sources.index(source)]
    return outputs[sources.index(None, 1 if options.shares_name else 0)]
