"""No slice of a scan is lost in silence: it is read as SimpleITK reads it, or the scan is turned away."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    generate_uid,
)

from data_prep.pseudonym import file_pseudonym
from data_prep.readers.dicom import open_series
from data_prep.sources.choice import choose_series
from tests.data_prep.dicom_series import change, transcode
from tests.data_prep.scan_checks import check_scan, find, passed_over, reason, write

Damage = Callable[[Path], None]


def data_set(path: Path, implicit: bool = True, little: bool = True) -> bytes:
    """Return the data set of a file alone: neither preamble nor group 2."""
    image, buffer = dcmread(path), DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = little, implicit
    if not little:
        image["PixelData"].VR = "OW"
        image["PixelData"].value = np.frombuffer(image.PixelData, "<u2").byteswap().tobytes()
    write_dataset(buffer, image)
    return buffer.getvalue()


def deflate(path: Path) -> None:
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path)


def append(content: bytes) -> Damage:
    return rewrite(lambda path: path.read_bytes() + content)


def rewrite(make_content: Callable[[Path], bytes]) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(make_content(path))

    return damage


def without_syntax(path: Path) -> None:
    image = dcmread(path)
    del image.file_meta.TransferSyntaxUID
    image.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)


def link_to(name: str) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(path.with_name(name or path.name))

    return damage


READ_BY_ITK: dict[str, Damage] = {
    "data set alone": rewrite(data_set),
    "data set alone, explicit": rewrite(lambda path: data_set(path, implicit=False)),
    "data set alone, big endian": rewrite(lambda path: data_set(path, implicit=False, little=False)),
    "group 2 without a preamble": rewrite(lambda path: path.read_bytes()[132:]),
    "a preamble without group 2": rewrite(lambda path: bytes(128) + b"DICM" + data_set(path)),
    "deflated": deflate,
    "zeros behind the data set": append(bytes(512)),
    "a line's end behind it": append(b"\r\n"),
    "padding behind it": append(b"\xfc\xff\xfc\xffOB\0\0\x10\0\0\0" + bytes(16)),
    "another Modality behind it": append(b"\x08\0\x60\0CS\2\0OT"),
    "pixels filled up": lambda path: change(path, PixelData=dcmread(path).PixelData + bytes(64)),
    "Modality in small letters": lambda path: change(path, Modality="ct"),
    "no Modality": lambda path: change(path, Modality=None),
}


@pytest.mark.parametrize("damage", READ_BY_ITK.values(), ids=READ_BY_ITK)
@pytest.mark.parametrize("is_whole", [True, False], ids=["all", "the last"])
def test_what_itk_reads_is_read(damage: Damage, is_whole: bool, tmp_path: Path) -> None:
    files = write(tmp_path, 5)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage([str(path) for path in files]))
    for path in files if is_whole else files[-1:]:
        damage(path)
    discovery = find(tmp_path)
    (series,) = discovery.series
    assert series.fault is None
    assert not discovery.exclusions
    scan = open_series(series.files).scan()
    np.testing.assert_array_equal(scan.planes(0, 5), np.maximum(expected, -1024))
    image = SimpleITK.ReadImage([str(path) for path in files], imageIO="GDCMImageIO")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), expected)


@pytest.mark.parametrize(
    "trailing", [b"\xff" * 512, b"abcdefg", np.random.default_rng(0).bytes(700), b"\xfe\xff\xdd\xe0"]
)
@pytest.mark.parametrize("syntax", [0, 4], ids=["plain", "lossless JPEG"])
def test_bytes_behind_the_pixels_are_no_part_of_the_image(trailing: bytes, syntax: int, tmp_path: Path) -> None:
    """ITK refuses these files; dcmtk warns of them and reads on."""
    files = write(tmp_path, 4)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage([str(path) for path in files]))
    if syntax:
        transcode(files[-1], syntax)
    append(trailing)(files[-1])
    (series,) = find(tmp_path).series
    assert series.fault is None
    np.testing.assert_array_equal(open_series(series.files).scan().planes(0, 4), np.maximum(expected, -1024))


def cut(length: int) -> Damage:
    return rewrite(lambda path: path.read_bytes()[:length])


def replace_text(old: bytes, new: bytes) -> Damage:
    return rewrite(lambda path: path.read_bytes().replace(old, new))


LOST: dict[str, tuple[Damage, str]] = {
    "no position": (lambda path: change(path, ImagePositionPatient=None), "is set aside: lacks ImagePositionPatient"),
    "no orientation": (lambda path: change(path, ImageOrientationPatient=None), "lacks ImageOrientationPatient"),
    "no spacing": (lambda path: change(path, PixelSpacing=None), "lacks PixelSpacing"),
    "an empty position": (lambda path: change(path, ImagePositionPatient=[]), "lacks ImagePositionPatient"),
    "no pixels": (lambda path: change(path, PixelData=None), "holds no image: lacks PixelData"),
    "neither pixels nor a size": (lambda path: change(path, PixelData=None, Rows=None), "holds no image: lacks Rows"),
    "no size": (lambda path: change(path, Columns=None), "is set aside: holds no image: lacks Columns"),
    "pixels of real numbers": (
        lambda path: change(path, PixelData=None, FloatPixelData=bytes(1024)), "has FloatPixelData, wanted PixelData",
    ),
    "pixels of doubles, as long as a file's pixels": (
        lambda path: change(path, PixelData=None, DoubleFloatPixelData=bytes(1 << 16)),
        "has DoubleFloatPixelData, wanted PixelData",
    ),
    "Modality OT": (lambda path: change(path, Modality="OT"), "is set aside: modality is OT, wanted CT"),
    "a localizer by its type": (
        lambda path: change(path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is set aside: a localizer",
    ),
    "a secondary capture by its class": (
        lambda path: change(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "is set aside: a secondary capture",
    ),
    "two frames": (
        lambda path: change(path, NumberOfFrames=2, PixelData=dcmread(path).PixelData * 2), "several frames without",
    ),
    "no series": (
        lambda path: change(path, SeriesInstanceUID=None, ImagePositionPatient=None), "lacks ImagePositionPatient",
    ),
    "empty": (cut(0), "is empty"),
    "cut off in its preamble": (cut(100), "is no DICOM file"),
    "cut off in group 2": (cut(140), "has no TransferSyntaxUID in its file meta information"),
    "cut off before its series": (cut(420), "which may be a slice of it, is"),
    "cut off after its series": (
        rewrite(lambda path: path.read_bytes().partition(b"\x20\x00\x32\x00DS")[0]),  # before ImagePositionPatient
        "is set aside: holds no image",
    ),
    "a page of a web server": (rewrite(lambda path: b"<html>403 Forbidden</html>"), "is no DICOM file"),
    "packed": (rewrite(lambda path: gzip.compress(path.read_bytes())), "is no DICOM file"),
    "no DICM behind its preamble": (rewrite(lambda path: bytes(132) + path.read_bytes()[132:]), "is no DICOM file"),
    "no transfer syntax": (without_syntax, "has no TransferSyntaxUID in its file meta information"),
    "a number is no number": (replace_text(b"-1024", b"-1o24"), "RescaleIntercept is no number"),
    "a link to nothing": (link_to("gone"), "No such file or directory"),
    "a link to itself": (link_to(""), "Too many levels"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "text"), LOST.values(), ids=LOST)
def test_a_slice_that_is_lost_at_an_end_turns_its_scan_away(damage: Damage, text: str, tmp_path: Path) -> None:
    files = write(tmp_path / "a", 5)
    intact = write(tmp_path / "b", 5)
    damage(files[-1])
    discovery = find(tmp_path)
    series = {series.location.name: series for series in discovery.series}
    check_scan(series["b"], intact)
    assert sorted(series["a"].files) == sorted(files[:-1])
    name = file_pseudonym(f"a/{files[-1].name}")
    assert str(series["a"].fault).startswith(f"file {name}, which may be a slice of it, ")
    assert text in str(series["a"].fault)
    assert [(exclusion.images, exclusion.files) for exclusion in discovery.exclusions] == [(1, (files[-1],))]
    (stack,) = choose_series(tmp_path / "a", "", 3).stacks
    assert text in str(stack.fault)


@pytest.mark.parametrize("count", [2, 4])
def test_several_lost_slices_are_counted(count: int, tmp_path: Path) -> None:
    files = write(tmp_path, 9)
    for path in files[-count:]:
        change(path, Modality="OT")
    discovery = find(tmp_path)
    assert reason(discovery.series[0]).endswith(f"is set aside: modality is OT, wanted CT, and {count - 1} more")
    assert [exclusion.images for exclusion in discovery.exclusions] == [count]


def no_slices(folder: Path, files: list[Path]) -> None:
    """Write beside a series what is no slice of it, or lies where it has one."""
    uid = dcmread(files[0]).SeriesInstanceUID
    kinds: list[dict[str, Any]] = [
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22", "PixelData": None, "Rows": None},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None},
        {"Modality": "OT"},
        {"SeriesInstanceUID": generate_uid(), "ImagePositionPatient": None},
        {"SeriesInstanceUID": "", "Modality": "OT"},
    ]
    for number, tags in enumerate(kinds):
        copy = Path(shutil.copy(files[2], folder / f"aside{number}"))
        change(copy, **{"SOPInstanceUID": generate_uid(), "SeriesInstanceUID": uid, **tags})
    for name, content in {
        "._1-003.dcm": b"\0\5\x16\7" + bytes(60), "notes.xml": b"<a/>", "1-003.json": b"{}", "README": b"a",
        "raw.bin": bytes(900), "DICOMDIR": bytes(128) + b"DICM", ".DS_Store": b"\0\0\0\1Bud1", "Thumbs.db": b"",
        "1-003.dcm.png": b"\x89PNG",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    (folder / "lock").symlink_to("nobody@host:1")
    os.mkfifo(folder / "pipe.dcm")


def test_what_is_no_slice_turns_nothing_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, 5)
    no_slices(tmp_path, files)
    discovery = find(tmp_path)
    (series,) = discovery.series
    check_scan(series, files)
    assert sorted(exclusion.reason for exclusion in discovery.exclusions) == [
        "a localizer", "a secondary capture, not a scanner's image",
        "file cannot be opened (No such file or directory)", "lacks ImagePositionPatient", "modality is OT, wanted CT",
        "modality is OT, wanted CT", "modality is SR, wanted CT",
    ]  # fmt: skip
    assert capsys.readouterr().out == passed_over(tmp_path, 9)
    (passed,) = discovery.passed_over
    assert passed.counts == {"is no DICOM file": 7, "is empty": 1, "is the directory of a disc": 1}
    assert find(tmp_path) == discovery  # also where all are cached
    assert capsys.readouterr().out == passed_over(tmp_path, 9)


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DICOMDIR.dcm", "1-777.dcm"])
def test_a_directory_of_a_disc_turns_nothing_away(name: str, tmp_path: Path) -> None:
    files = write(tmp_path, 5)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    directory.FileSetID, directory.DirectoryRecordSequence = "DISC", []
    directory.save_as(tmp_path / name, enforce_file_format=True)
    discovery = find(tmp_path)
    check_scan(discovery.series[0], files)
    assert [exclusion.reason for exclusion in discovery.exclusions] == ["the directory of a disc"] * (
        name.upper() != "DICOMDIR"
    )


def test_a_file_named_like_a_slice_by_numbers_alone_is_missed(tmp_path: Path) -> None:
    files = [path.rename(path.with_name(f"IM{n:04d}")) for n, path in enumerate(write(tmp_path, 5))]
    files[-1].write_bytes(b"")
    (series,) = find(tmp_path).series
    assert reason(series) == f"file {file_pseudonym('IM0004')}, which may be a slice of it, is empty"
    files[-1].rename(tmp_path / "notes")
    check_scan(find(tmp_path).series[0], files[:-1])


def test_a_gap_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, 6)
    files[3].unlink()
    assert "a slice is missing: 5.00 mm" in reason(find(tmp_path).series[0])
