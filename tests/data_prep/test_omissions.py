"""No slice of a scan is lost in silence: it is read as SimpleITK reads it, or the scan is turned away."""

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
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

from data_prep.errors import MachineError, UserError
from data_prep.pseudonym import file_pseudonym
from data_prep.readers.dicom import open_series
from data_prep.settings import SourceSettings
from data_prep.sources.choice import choose_series
from data_prep.sources.discovery_cache import recall
from tests.data_prep.dicom_series import change, transcode
from tests.data_prep.scan_checks import check_scan, find, reason, write
from tests.scans import chest, write_nifti

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
    "cut off after its series": (cut(700), "is set aside: holds no image"),
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


def passed_over(root: Path, count: int) -> str:
    return f"{root}: files that are no images and are passed over: {count}\n"


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


def test_links_are_followed_and_each_folder_and_file_counts_once(tmp_path: Path) -> None:
    archive, source = tmp_path / "archive", tmp_path / "source"
    scans = [write(archive / name, 4) for name in ("p1", "p2", "p3")]
    scans += [write(source / "p4", 4), write(source / "p5" / "inner", 4)]
    links: dict[str, Path] = {
        "p1": archive / "p1", "p1-again": archive / "p1", "all": archive, "p4-again": source / "p4",
        "p4/circle": source, "p5/inner/circle": source / "p5", "archive-link": source / "p1",
        "up": tmp_path, "root": Path("/"),
    }  # fmt: skip
    for link, target in links.items():
        (source / link).symlink_to(target)
    (source / "p6").mkdir()
    loose = write(tmp_path / "loose", 4)
    for path in loose:
        for name in ("p6", "p6-again"):
            (source / name).mkdir(exist_ok=True)
            (source / name / path.name).symlink_to(path)
    (source / "p4" / "copy.dcm").symlink_to(scans[3][0])
    discovery = find(source)
    real = sorted(tuple(sorted(path.resolve() for path in series.files)) for series in discovery.series)
    assert real == sorted(tuple(sorted(files)) for files in [*scans, loose])
    assert all(path.is_relative_to(source) for series in discovery.series for path in series.files)
    for series in discovery.series:
        check_scan(series, series.files)
    (exclusion,) = discovery.exclusions
    assert (exclusion.reason, exclusion.images) == ("file is a link to a folder that holds the source", 2)
    assert recall([SourceSettings(kind="dicom", path=source)]) == discovery


def test_a_source_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    files = write(tmp_path / "archive" / "p1", 4)
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    (series,) = find(tmp_path / "link").series
    check_scan(series, [tmp_path / "link" / "p1" / path.name for path in files])


def test_a_source_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    files = write(tmp_path, 4)
    with pytest.raises(UserError, match=rf"data\.sources: {files[0]} cannot be opened \(Not a directory\)"):
        find(files[0])


def test_a_folder_that_cannot_be_listed_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, 4)
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("lost+found"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder
    discovery = find(tmp_path)
    check_scan(discovery.series[0], files)
    (exclusion,) = discovery.exclusions
    assert (exclusion.scan, exclusion.reason) == (
        file_pseudonym("lost+found"), "file cannot be opened (Permission denied)",
    )  # fmt: skip


def test_a_link_to_nothing_is_the_machines_fault(tmp_path: Path) -> None:
    """It may lead somewhere tomorrow, or on another node."""
    files = write(tmp_path, 4)
    files[0].rename(tmp_path.with_name("elsewhere.dcm"))
    files[0].symlink_to(tmp_path / "elsewhere.dcm")
    assert isinstance(find(tmp_path).series[0].fault, MachineError)
    tmp_path.with_name("elsewhere.dcm").rename(tmp_path / "elsewhere.dcm")
    assert len(find(tmp_path).series[0].files) == 4
    assert find(tmp_path).series[0].fault is None


def test_nifti_files_are_read_whatever_their_ending_and_version(tmp_path: Path) -> None:
    hu = chest(3, 16)
    voxels, affine = hu.transpose(2, 1, 0), np.diag([-0.7, -0.7, 2.5, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(voxels[..., None], affine), tmp_path / "b.nii")
    nib.save(nib.Nifti1Image(voxels[..., None, None], affine), tmp_path / "c.nii.gz")
    nib.save(nib.Nifti2Image(voxels, affine), tmp_path / "d.nii")
    (tmp_path / "e.nii.gz").write_bytes((tmp_path / "b.nii").read_bytes() + b"rest")  # a packed name alone
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "f.NII.GZ")
    shutil.copy(tmp_path / "b.nii", tmp_path / "g.Nii")
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")))
    discovery = find(tmp_path, kind="nifti", keep_ids=True)
    assert sorted(series.scan for series in discovery.series) == list("abcdefg")
    for series in discovery.series:
        scan = series.open(series.files)
        np.testing.assert_array_equal(scan.planes(0, 3), image)
        assert scan.spacing == pytest.approx((2.5, 0.7, 0.7))
    assert not discovery.exclusions


def test_other_images_beside_nifti_files_have_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nifti(tmp_path / "a.nii", chest(3))
    for name in ("b.hdr", "b.img", "c.nrrd", ".d.nii.gz", "._a.nii", "notes.txt", "e.nii.bz2", "f.dcm", "g.dcm"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "h.nii").symlink_to(tmp_path / "gone")
    discovery = find(tmp_path, kind="nifti")
    assert len(discovery.series) == 1
    assert sorted((exclusion.reason, exclusion.images) for exclusion in discovery.exclusions) == [
        ("a hidden file", 1),
        *((f"an image of another format ({name}), wanted .nii or .nii.gz", n)
          for name, n in [(".dcm", 2), (".hdr", 1), (".img", 1), (".nii.bz2", 1), (".nrrd", 1)]),
        ("file cannot be opened (No such file or directory)", 1),
    ]  # fmt: skip
    assert capsys.readouterr().out == passed_over(tmp_path, 2)
    assert [files.counts for files in discovery.passed_over] == [{"has no image's name": 2}]


@pytest.mark.parametrize("name", ["b.hdr", "b.img", "c.nrrd", "d.IMG.GZ"])
def test_a_source_that_is_an_image_of_another_format_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    ending = re.escape(name[1:].lower())
    with pytest.raises(UserError, match=rf"{name} is an image of another format \({ending}\), wanted \.nii or"):
        find(tmp_path / name, kind="nifti")


def test_linked_folders_of_nifti_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    nib.save(nib.Nifti1Image(chest(10).transpose(2, 1, 0), np.diag([-0.7, -0.7, 2.5, 1.0])), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "archive" / "sub-S1_CT.NII.GZ")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "archive")
    for kind in ("nifti", "bimcv"):
        (series,) = find(tmp_path / "source", kind=kind).series
        assert series.files == (tmp_path / "source" / "linked" / "sub-S1_CT.NII.GZ",)
        assert series.open(series.files).slices == 10
