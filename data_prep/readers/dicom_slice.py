"""One slice of a DICOM series: its pixels become HU."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from data_prep.errors import MachineError, ScanError
from data_prep.plausibility import excess_of
from data_prep.readers import jpeg
from data_prep.readers.dicom_file import read_whole
from data_prep.readers.dicom_header import Frame, Header, Native, read_header
from data_prep.readers.dicom_pixels import as_signed_words, locate_padding
from data_prep.readers.dicom_values import broken_as_scan_error
from data_prep.readers.slice_positions import SAME_POSITION_MM
from data_prep.volume import AIR_HU, Numbers

_PACKAGES = {"pylibjpeg": "pylibjpeg pylibjpeg-openjpeg"}
_PLUGINS = {
    uid.RLELossless: "pydicom",
    uid.JPEG2000: "pylibjpeg",
    uid.JPEG2000Lossless: "pylibjpeg",
    **dict.fromkeys(jpeg.DECODER_DEPENDENCIES, jpeg.NAME),
}


@dataclass(frozen=True)
class Slice:
    """A frame, the ``index``-th of its file.

    ``label``: stands for the file in messages, without its path. ``is_standard``: as that of a header.
    """

    path: Path
    index: int
    label: str
    frame: Frame
    syntax: uid.UID
    native: Native | None
    is_standard: bool = True


def read_hu(ct_slice: Slice, hu: Numbers) -> None:
    """Read the HU of a slice into ``hu``, (rows, columns); padding and what is below -1024 HU become -1024.

    Raises:
        ScanError: the pixels are broken, or a value is no HU.
        MachineError: their decoder is missing.
    """
    stored, frame = as_signed_words(_stored(ct_slice)), ct_slice.frame
    mask = None if _is_air(frame) else _padding_mask(ct_slice, stored)
    if hu.dtype == np.int16 and stored.dtype == np.int16:
        intercept = int(frame.rescale.intercept)
        np.maximum(stored, np.int16(AIR_HU - intercept), out=hu)
        hu += np.int16(intercept)
    else:
        scaled = frame.rescale.apply(stored)
        if mask is not None:
            scaled[mask] = AIR_HU
        _check_maximum(ct_slice, scaled)  # before it is cut to int16
        hu[:] = np.maximum(scaled, AIR_HU)
    if mask is not None:
        hu[mask] = AIR_HU


def read_original(ct_slice: Slice) -> tuple[Numbers, NDArray[np.bool_]]:
    """Read the HU of a slice without clamping, and which voxels are padding.

    Raises:
        ScanError: the pixels are broken; no value is checked.
        MachineError: their decoder is missing.
    """
    stored = _stored(ct_slice)
    mask, hu = _padding_mask(ct_slice, stored), ct_slice.frame.rescale.apply(stored)
    return hu, np.zeros(stored.shape, np.bool_) if mask is None else mask


def _is_air(frame: Frame) -> bool:
    """Whether padding is below the HU of air, and becomes air anyway."""
    return frame.padding is not None and max(map(frame.rescale.to_hu, frame.padding)) <= AIR_HU


def _check_maximum(ct_slice: Slice, hu: Numbers) -> None:
    reason = excess_of(float(hu.max()))
    if reason:
        raise ScanError(f"{ct_slice.label} {reason}")


def _padding_mask(ct_slice: Slice, stored: Numbers) -> NDArray[np.bool_] | None:
    """Return which voxels are padding, (rows, columns), or None if the image has no padding."""
    frame = ct_slice.frame
    if frame.padding is None:
        return None
    low, high = frame.padding
    try:
        return locate_padding((stored >= low) & (stored <= high), frame.rescale.to_hu(low))
    except ScanError as error:
        raise ScanError(f"{ct_slice.label}: {error}") from error


def has_same_images(first: Path, second: Path) -> bool:
    """Whether two files hold the same image planes at the same positions; raises as :func:`read_original`."""
    slices = [_slices(path) for path in (first, second)]
    return len(slices[0]) == len(slices[1]) and all(map(_is_same, *slices))


def _slices(path: Path) -> list[Slice]:
    header = read_header(path)
    return slices_of(path, "a file", header)


def slices_of(path: Path, label: str, header: Header) -> list[Slice]:
    """Return the slices of a file with this header."""
    return [
        Slice(path, index, label, frame, header.syntax, header.native, header.is_standard)
        for index, frame in enumerate(header.frames)
    ]


def _is_same(first: Slice, second: Slice) -> bool:
    a, b = ((*f.position, *f.orientation, *f.spacing) for f in (first.frame, second.frame))
    has_same_plane = np.allclose(a, b, rtol=0, atol=SAME_POSITION_MM)
    return has_same_plane and all(map(np.array_equal, read_original(first), read_original(second)))


def _stored(ct_slice: Slice) -> Numbers:
    """Return the stored values; padding that the used bits cannot hold stands in all allocated ones."""
    bits, padding = ct_slice.frame.bits, ct_slice.frame.padding
    words = _read_native(ct_slice) if ct_slice.native else _decode(ct_slice)
    stored = bits.extract(words)
    if padding is None or bits.hold(padding):
        return stored
    return np.where((words >= padding[0]) & (words <= padding[1]), words, stored)


def _read_native(ct_slice: Slice) -> Numbers:
    assert ct_slice.native
    rows, columns = ct_slice.frame.shape
    number_type = "<i2" if ct_slice.frame.bits.signed else "<u2"
    start = ct_slice.native.offset + ct_slice.index * rows * columns * 2
    words: Numbers = np.fromfile(ct_slice.path, number_type, rows * columns, offset=start)
    if words.size != rows * columns:
        raise ScanError(f"the pixels of {ct_slice.label} are cut off")
    return words.reshape(rows, columns)


def _decode(ct_slice: Slice) -> Numbers:
    plugin, syntax = _PLUGINS.get(ct_slice.syntax, ""), ct_slice.syntax.name
    if plugin and plugin not in get_decoder(ct_slice.syntax).available_plugins:
        raise MachineError(f"no decoder for {syntax} is installed: pip install {_PACKAGES.get(plugin, plugin)}")
    rows, columns = ct_slice.frame.shape
    reason = f"{ct_slice.label} holds no readable PixelData of {rows} rows and {columns} columns in {syntax}"
    with broken_as_scan_error(reason):
        source = ct_slice.path if ct_slice.is_standard else read_whole(ct_slice.path)
        words: Numbers = pixel_array(
            source, index=ct_slice.index, raw=True, decoding_plugin=plugin, correct_unused_bits=False
        )
    if words.shape != ct_slice.frame.shape:
        raise ScanError(reason)
    return words
