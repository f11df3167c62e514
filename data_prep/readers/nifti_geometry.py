"""The affine of a NIfTI header in mm: sform, qform, pixdim and units must agree (nifti1.h, methods 1 to 3)."""

import math
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import ScanError
from data_prep.grid import Grid
from data_prep.plausibility import check_extent, check_pixel_size, check_slice_distance

_UNITS = {0: ("unknown", 1.0), 1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}  # names, and each in mm
_SPACE_BITS = 7
_FORM_CODES = range(6)
_TOLERANCE = 1e-3  # of steps, relative
_TOLERANCE_VOXELS = 0.5  # between the corners of both forms

Affine = NDArray[np.float64]


def check_as_written(header: Any) -> None:
    """Refuse what nibabel replaces in silence: a length of 0 by 1, a negative one by its amount, a code by 0.

    Other readers take the sign for a direction. ``header``: without nibabel's checks.

    Raises:
        ScanError: a length or a code is none.
    """
    handedness, *lengths = header["pixdim"].tolist()
    for axis, length in enumerate(lengths[: min(int(header["dim"][0]), 3)], start=1):
        if not 0 < length < math.inf:
            raise ScanError(f"pixdim[{axis}] is {length:g}, wanted a length above 0")
    if handedness < 0 and handedness != -1:
        raise ScanError(f"pixdim[0] is {handedness:g}, wanted 1 or -1")
    for name in ("sform_code", "qform_code"):
        if int(header[name]) not in _FORM_CODES:
            raise ScanError(f"{name} is {header[name]}, wanted 0 to {_FORM_CODES[-1]}")


def affine_of(header: Any) -> Affine:
    """Return the affine of voxels (i, j, k) to RAS+ mm.

    Raises:
        ScanError: the header contradicts itself, or its lengths are no CT's.
    """
    scale = _unit_of(header)[1]
    forms = {name: form for name in ("sform", "qform") if (form := _form(header, name)) is not None}
    if not forms:
        raise ScanError("sform_code and qform_code are 0: the orientation in the patient is unknown")
    pixdim = np.asarray(header["pixdim"][1:4], np.float64)
    for name, form in forms.items():
        _check_steps(name, np.linalg.norm(form[:3, :3], axis=0) * scale, pixdim * scale)
    if len(forms) > 1 and not do_agree(forms["sform"], forms["qform"], header.get_data_shape()[:3]):
        raise ScanError("sform and qform disagree on where the voxels lie in the patient")
    affine: Affine = np.diag([scale, scale, scale, 1.0]) @ next(iter(forms.values()))
    return affine


def _unit_of(header: Any) -> tuple[str, float]:
    """Return the name of the header's unit of length, and how many mm it is."""
    code = int(header["xyzt_units"]) & _SPACE_BITS
    if code not in _UNITS:
        raise ScanError(f"xyzt_units has the unit {code} of length, wanted 1 (metre), 2 (mm) or 3 (micron)")
    return _UNITS[code]


def check_lengths(grid: Grid, shape: tuple[int, int, int], header: Any) -> None:
    """Check that spacing and extent are those of a CT; ``shape``: slices, rows, columns.

    Raises:
        ScanError: they are not.
    """
    source = f"by pixdim and xyzt_units ({_unit_of(header)[0]})"
    check_pixel_size(f"the width of a voxel {source}", grid.spacing[2])
    check_slice_distance(f"the distance of slices {source}", grid.spacing[0])
    check_extent(grid.spacing, shape)


def _form(header: Any, name: str) -> Affine | None:
    try:
        form = header.get_sform(coded=True)[0] if name == "sform" else header.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError) as error:
        raise ScanError(f"{name} is no rotation: its quaternion or pixdim is wrong") from error
    if form is not None and not np.isfinite(form).all():
        raise ScanError(f"{name} holds NaN or infinity")
    return None if form is None else np.asarray(form, np.float64)


def _check_steps(name: str, steps: Affine, pixdim: Affine) -> None:
    for step, length in zip(steps.tolist(), pixdim.tolist(), strict=True):
        if abs(step - length) > _TOLERANCE * length:
            raise ScanError(f"{name} says {step:.4g} mm, pixdim {length:.4g} mm")


def do_agree(sform: Affine, qform: Affine, shape: tuple[int, ...]) -> bool:
    """Whether both forms put the corners of the volume to the same places."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))])
    shift = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    return shift <= _TOLERANCE_VOXELS * float(np.linalg.norm(qform[:3, :3], axis=0).min())
