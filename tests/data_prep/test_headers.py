"""Random headers: every kept scan equals SimpleITK's reading voxel for voxel, and every other file has a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import gdcm
import numpy as np
import pytest
import SimpleITK
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from data_prep.errors import ScanError
from data_prep.readers.dicom import open_series
from data_prep.sources.series import Discovery
from tests.data_prep.dicom_series import slice_image, transcode
from tests.data_prep.scan_checks import find

SPACING = (2.5, 0.7, 0.7)
SIDE = 8
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # a smaller example is not worth minutes
COMPRESSED = {"lossless JPEG": "JPEGLosslessProcess14_1", "JPEG-LS": "JPEGLSLossless"}
PLAIN: dict[str, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
ENCODINGS = [*PLAIN, *(f"{name}, data set alone" for name in PLAIN if name != "deflated"), *COMPRESSED]


@dataclass(frozen=True)
class Header:
    """How the slices of a series are stored; ``encodings`` alternate from slice to slice."""

    encodings: tuple[str, ...]
    signed: bool
    bits: int
    slope: float
    intercept: float
    flips: tuple[int, int]
    extras: tuple[str, ...]

    def encoding(self, z: int) -> str:
        return self.encodings[z % len(self.encodings)]

    def image(self, hu: NDArray[np.int16], z: int, series: str) -> FileDataset:
        """Return a slice; its stored values are the nearest ones to its HU that its numbers can hold."""
        image = slice_image(hu, SPACING, z, series, "Doe^Jane")
        low, high = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)
        stored = np.clip(np.rint((hu - self.intercept) / self.slope), low, high)
        image.PixelData = stored.astype("<i2" if self.signed else "<u2").tobytes()
        image.PixelRepresentation, image.BitsStored, image.HighBit = int(self.signed), self.bits, self.bits - 1
        image.RescaleSlope, image.RescaleIntercept = self.slope, self.intercept
        image.ConvolutionKernel, image.StudyInstanceUID = "B30f", "1.2.3"  # GDCM adds a study to a file without
        right, down = self.flips
        image.ImageOrientationPatient = [right, 0, 0, 0, down, 0]
        for name in self.extras:
            if self.encoding(z) not in COMPRESSED or name not in UNWRITTEN_BY_GDCM:
                EXTRAS[name](image, z)
        return image


def add_private(image: FileDataset, z: int) -> None:
    image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", bytes(6000 + z))


def add_sequence(image: FileDataset, z: int) -> None:
    item = FileDataset("", {})
    item.Rows, item.Columns, item.PixelData = 2, 2, bytes(8)
    item["PixelData"].VR = "OW"
    image.IconImageSequence = [item]


def add_names(image: FileDataset, z: int) -> None:
    image.SpecificCharacterSet, image.PatientName = "ISO_IR 192", "Müller^Jürgen"


EXTRAS: dict[str, Callable[[FileDataset, int], None]] = {
    "private": add_private,
    "icon": add_sequence,
    "names": add_names,
    "numbers": lambda image, z: setattr(image, "InstanceNumber", z + 1),
    "no Modality": lambda image, z: delattr(image, "Modality"),
    "no SOPInstanceUID": lambda image, z: delattr(image, "SOPInstanceUID"),
    "acquisition of each slice": lambda image, z: setattr(image, "AcquisitionNumber", z),
}
UNWRITTEN_BY_GDCM = ("icon", "no SOPInstanceUID")
HEADERS = st.builds(
    Header,
    encodings=st.lists(st.sampled_from(ENCODINGS), min_size=1, max_size=2).map(tuple),
    signed=st.booleans(),
    bits=st.sampled_from([12, 13, 16]),
    slope=st.sampled_from([1.0, 1.0, 0.5, 2.0, 0.1]),
    intercept=st.sampled_from([-1024.0, 0.0, -1000.0, -1024.25]),
    flips=st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
    extras=st.lists(st.sampled_from([*EXTRAS]), max_size=3, unique=True).map(tuple),
)


def save(image: FileDataset, path: Path, encoding: str) -> None:
    name, _, alone = encoding.partition(",")
    if name in COMPRESSED:
        image.save_as(path, enforce_file_format=True)
        transcode(path, getattr(gdcm.TransferSyntax, COMPRESSED[name]))
        return
    image.file_meta.TransferSyntaxUID = PLAIN[name]
    if name == "deflated":
        image.save_as(path, enforce_file_format=True)
        return
    buffer = DicomBytesIO()
    if not alone:
        buffer.write(bytes(128) + b"DICM")
        write_file_meta_info(buffer, image.file_meta)
    buffer.is_little_endian, buffer.is_implicit_VR = name != "big endian", name == "implicit"
    if "PixelData" in image:
        image["PixelData"].VR = "OW"
    if name == "big endian" and "PixelData" in image:
        image["PixelData"].value = np.frombuffer(image.PixelData, "<u2").byteswap().tobytes()
    write_dataset(buffer, image)
    path.write_bytes(buffer.getvalue())


def drop(keyword: str) -> Callable[[FileDataset], None]:
    return lambda image: delattr(image, keyword)


def shift(axis: int, distance: float) -> Callable[[FileDataset], None]:
    def move(image: FileDataset) -> None:
        position = [float(number) for number in image.ImagePositionPatient]
        position[axis] += distance
        image.ImagePositionPatient = position

    return move


FAULTS: dict[str, Callable[[FileDataset], None]] = {
    "no position": drop("ImagePositionPatient"),
    "no orientation": drop("ImageOrientationPatient"),
    "no spacing": drop("PixelSpacing"),
    "no rows": drop("Rows"),
    "no pixels": drop("PixelData"),
    "another modality": lambda image: setattr(image, "Modality", "OT"),
    "shifted along the table": shift(2, 0.9),
    "shifted sideways": shift(0, 5.0),
    "turned": lambda image: setattr(image, "ImageOrientationPatient", [0, 1, 0, -1, 0, 0]),
    "another spacing": lambda image: setattr(image, "PixelSpacing", [0.9, 0.9]),
    "another series": lambda image: setattr(image, "SeriesInstanceUID", generate_uid()),
    "another patient": lambda image: setattr(image, "PatientID", "Roe"),
    "another kernel": lambda image: setattr(image, "ConvolutionKernel", "B70f"),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off in its header": lambda content: content[:300],
    "cut off in its pixels": lambda content: content[:-60],
    "no DICOM file": lambda content: b"<html>403 Forbidden</html>",
}


@pytest.mark.slow
@settings(max_examples=40, phases=PHASES)
@given(header=HEADERS, slices=st.integers(5, 8), seed=st.integers(0, 2**20))
def test_a_scan_of_any_header_equals_itks(header: Header, slices: int, seed: int) -> None:
    with TemporaryDirectory() as folder:
        files = write_scan(Path(folder), header, slices, seed)
        discovery = find(Path(folder))
        assert check_kept(discovery) == [slices], [series.fault for series in discovery.series]
        assert sorted(discovery.series[0].files) == sorted(files)
        assert not discovery.exclusions


@pytest.mark.slow
@settings(max_examples=50, phases=PHASES)
@given(
    header=HEADERS,
    fault=st.sampled_from([*FAULTS, *DAMAGES]),
    is_last=st.booleans(),
    slices=st.integers(6, 8),
    seed=st.integers(0, 2**20),
)
def test_a_scan_with_a_faulty_slice_is_refused_and_every_file_is_listed(
    header: Header, fault: str, is_last: bool, slices: int, seed: int
) -> None:
    event(fault)
    with TemporaryDirectory() as folder:
        files = write_scan(Path(folder), header, slices, seed, FAULTS.get(fault), slices - 1 if is_last else 2)
        if fault in DAMAGES:
            victim = files[-1 if is_last else 2]
            victim.write_bytes(DAMAGES[fault](victim.read_bytes()))
        discovery = find(Path(folder))
        assert check_kept(discovery) == []
        listed = [path for series in discovery.series for path in series.files]
        listed += [path for exclusion in discovery.exclusions for path in exclusion.files]
        assert sorted(listed) == sorted(files)
        assert all(exclusion.reason for exclusion in discovery.exclusions)


def write_scan(
    folder: Path,
    header: Header,
    slices: int,
    seed: int,
    edit: Callable[[FileDataset], None] | None = None,
    victim: int = 0,
) -> list[Path]:
    """Write a series under names in no order; ``edit`` changes the image ``victim``. Returns the files by slice."""
    random, series, files = np.random.default_rng(seed), generate_uid(), []
    for z, name in enumerate(random.permutation(slices)):
        hu = random.integers(-1000, 1500, (SIDE, SIDE)).astype(np.int16)
        hu[0, :2] = -1000, 40
        image = header.image(hu, z, series)
        encoding = header.encoding(z)
        if edit and z == victim:
            encoding = encoding if encoding.partition(",")[0] in PLAIN else "explicit"
            edit(image)
        files.append(folder / f"IM{name:04d}.dcm")
        save(image, files[-1], encoding)
    return files


def check_kept(discovery: Discovery) -> list[int]:
    """Check that each scan that is kept is what SimpleITK reads; return the numbers of their slices."""
    slices = []
    for series in discovery.series:
        if series.fault:
            assert str(series.fault)
            continue
        try:
            scan = open_series(series.files).scan()
            voxels = scan.planes(0, scan.slices)
        except ScanError:  # it holds the reason
            continue
        by_position = sorted(series.files, key=lambda path: float(dcmread(path, force=True).ImagePositionPatient[2]))
        image = SimpleITK.ReadImage([str(path) for path in by_position], imageIO="GDCMImageIO")
        expected = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS")).astype(np.float64)
        np.testing.assert_allclose(voxels, np.maximum(expected, -1024), rtol=0, atol=1e-3)
        np.testing.assert_allclose(scan.spacing[::-1], image.GetSpacing(), rtol=1e-4)
        slices.append(scan.slices)
    return slices
