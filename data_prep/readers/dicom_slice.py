"""One slice of a DICOM series: its pixels become HU."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from data_prep.errors import MachineError, ScanError
from data_prep.readers import jpeg
from data_prep.readers.dicom_file import read_whole
from data_prep.readers.dicom_header import Frame, Header, Native, read_header
from data_prep.readers.dicom_values import BROKEN, is_file_fault
from data_prep.readers.slice_positions import SAME_POSITION_MM
from data_prep.volume import AIR_HU, Numbers

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


def has_integer_hu(frame: Frame) -> bool:
    """Whether HU are the stored integers plus the intercept, so that they fit into int16."""
    return frame.slope == 1 and frame.intercept.is_integer() and -30000 < frame.intercept <= 0


def read_hu(ct_slice: Slice, hu: Numbers) -> None:
    """Read the HU of a slice into ``hu``, (rows, columns); padding and what is below -1024 HU become -1024."""
    stored, frame = _stored(ct_slice), ct_slice.frame
    slope, intercept = frame.slope, frame.intercept
    if hu.dtype == np.int16 and stored.dtype == np.int16:
        np.maximum(stored, np.int16(AIR_HU - int(intercept)), out=hu)
        hu += np.int16(intercept)
    else:
        hu[:] = np.clip(stored * slope + intercept, AIR_HU, 32767)
    if frame.padding and frame.padding[1] * slope + intercept > AIR_HU:  # else it is air already
        hu[(stored >= frame.padding[0]) & (stored <= frame.padding[1])] = AIR_HU


def read_original(ct_slice: Slice) -> tuple[Numbers, NDArray[np.bool_]]:
    """Read the HU of a slice without clamping, and which voxels are padding; both (rows, columns).

    Raises:
        ScanError: the pixels are cut off or cannot be decoded.
        MachineError: their decoder is missing.
    """
    stored, frame = _stored(ct_slice), ct_slice.frame
    low, high = frame.padding or (1, 0)
    padding = (stored >= low) & (stored <= high)
    if frame.slope == 1 and frame.intercept.is_integer():
        return stored + np.int32(frame.intercept), padding
    return stored * frame.slope + frame.intercept, padding


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
    if first.frame.shape != second.frame.shape or not np.allclose(a, b, rtol=0, atol=SAME_POSITION_MM):
        return False
    return all(map(np.array_equal, read_original(first), read_original(second)))


def _stored(ct_slice: Slice) -> Numbers:
    return _read_native(ct_slice, ct_slice.native) if ct_slice.native else _decode(ct_slice)


def _read_native(ct_slice: Slice, native: Native) -> Numbers:
    rows, columns = ct_slice.frame.shape
    number_type, start = "<i2" if native.signed else "<u2", native.offset + ct_slice.index * rows * columns * 2
    stored: Numbers = np.fromfile(ct_slice.path, number_type, rows * columns, offset=start)
    if stored.size != rows * columns:
        raise ScanError(f"the pixels of {ct_slice.label} are cut off")
    spare = 16 - native.bits  # bits that may hold an overlay
    used = ((stored << spare) >> spare).view(np.int16) if spare else stored
    return used.reshape(rows, columns)


def _decode(ct_slice: Slice) -> Numbers:
    plugin = _PLUGINS.get(ct_slice.syntax, "")
    if plugin and plugin not in get_decoder(ct_slice.syntax).available_plugins:
        raise MachineError(f"no decoder for {ct_slice.syntax.name} is installed: pip install {plugin}")
    try:
        source = ct_slice.path if ct_slice.is_standard else read_whole(ct_slice.path)
        stored: Numbers = pixel_array(source, index=ct_slice.index, raw=True, decoding_plugin=plugin)
    except (OSError, *BROKEN) as error:
        if not is_file_fault(error):
            raise
        raise ScanError(f"the pixels of {ct_slice.label} cannot be decoded ({type(error).__name__})") from error
    if stored.shape != ct_slice.frame.shape:
        raise ScanError(f"the pixels of {ct_slice.label} are {stored.shape}, wanted {ct_slice.frame.shape}")
    return stored
