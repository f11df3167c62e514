"""Copies of images, different images at one position, and files that cannot be read, beside a scan."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from data_prep.pseudonym import file_pseudonym
from data_prep.readers.dicom_slice import has_same_images
from tests.data_prep.dicom_series import change, edit, transcode, write_enhanced
from tests.data_prep.scan_checks import (
    by_position,
    check_scan,
    find,
    reason,
    write,
)
from tests.scans import chest

SPACING = (2.5, 0.7, 0.7)


def test_copies_with_numbers_of_their_own_are_still_copies(tmp_path: Path) -> None:
    files = write(tmp_path, 5, lambda image, z: setattr(image, "InstanceNumber", z))
    for n, path in enumerate(files):
        copy = path.with_name(f"copy-{path.name}")
        copy.write_bytes(path.read_bytes())
        change(copy, SOPInstanceUID=generate_uid(), InstanceNumber=10 + n)
    discovery = find(tmp_path)
    check_scan(discovery.series[0], files)
    assert [exclusion.images for exclusion in discovery.exclusions] == [5]


def test_a_file_of_the_first_frames_of_another_one_is_no_copy_of_it(tmp_path: Path) -> None:
    for name, slices in (("all", 6), ("first", 4)):
        write_enhanced(tmp_path / f"{name}.dcm", chest(6)[:slices], SPACING)
        edit(tmp_path / f"{name}.dcm", order_by_position)
    assert has_same_images(tmp_path / "all.dcm", tmp_path / "all.dcm")
    assert not has_same_images(tmp_path / "all.dcm", tmp_path / "first.dcm")


def order_by_position(image: FileDataset) -> None:
    frames = np.frombuffer(image.PixelData, "<u2").reshape(image.NumberOfFrames, -1)
    groups = image.PerFrameFunctionalGroupsSequence
    order = sorted(range(len(groups)), key=lambda n: groups[n].PlanePositionSequence[0].ImagePositionPatient[2])
    image.PixelData = frames[order].tobytes()
    image.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]


def test_identical_copies_count_once_and_are_said(tmp_path: Path) -> None:
    files = write(tmp_path / "scan", 5)
    copies = [tmp_path / "copy" / path.name for path in files[1:4]]
    copies[0].parent.mkdir()
    for path, copy in zip(files[1:4], copies, strict=True):
        copy.write_bytes(path.read_bytes())
    change(copies[0], SOPInstanceUID=generate_uid())  # the same pixels under another id
    transcode(copies[1], 4)  # and by another syntax
    discovery = find(tmp_path)
    (series,), (exclusion,) = discovery.series, discovery.exclusions
    originals = [*files[:1], *(path for path in (*files[1:4], *copies) if path in series.files), *files[4:]]
    check_scan(series, originals)
    assert exclusion.reason == f"identical copies of images of {series.scan}"
    assert exclusion.images == 3
    assert sorted([*exclusion.files, *series.files]) == sorted([*files, *copies])


@pytest.mark.parametrize("has_same_uid", [True, False])
def test_different_images_at_one_position_are_both_named(has_same_uid: bool, tmp_path: Path) -> None:
    files = write(tmp_path, 5)
    intruder = tmp_path / "edited.dcm"
    intruder.write_bytes(files[2].read_bytes())

    def paint(image: FileDataset) -> None:
        image.PixelData = b"\x10\x04" * (len(image.PixelData) // 2)
        image.SOPInstanceUID = image.SOPInstanceUID if has_same_uid else generate_uid()

    edit(intruder, paint)
    (series,) = find(tmp_path).series
    names = {file_pseudonym(path.name) for path in (files[2], intruder)}
    words = reason(series).split()
    assert {words[0], words[2]} == names
    assert reason(series).endswith("are different images at one position, 5.00 mm")


def test_an_unreadable_file_of_another_series_condemns_none(tmp_path: Path) -> None:
    files = write(tmp_path, 5, first="1")
    (broken,) = write(tmp_path, 1, first="2")
    broken.write_bytes(broken.read_bytes().replace(b"-1024", b"-1o24"))
    discovery = find(tmp_path)
    check_scan(discovery.series[0], files)
    assert [exclusion.files for exclusion in discovery.exclusions] == [(broken,)]


def test_an_unreadable_file_condemns_only_what_it_may_belong_to(tmp_path: Path) -> None:
    first = write(tmp_path, 4, first="1")
    second = write(tmp_path, 4, first="2")
    elsewhere = write(tmp_path / "sub", 4)
    first[-1].write_bytes(first[-1].read_bytes().replace(b"-1024", b"-1o24"))  # its header tells its series
    discovery = find(tmp_path)
    fault = {series.files[0]: series.fault for series in discovery.series}
    assert fault[by_position(first[:-1])[0]] is not None
    assert file_pseudonym(first[-1].name) in str(fault[by_position(first[:-1])[0]])
    check_scan(next(series for series in discovery.series if series.files[0] in second), second)
    check_scan(next(series for series in discovery.series if series.files[0] in elsewhere), elsewhere)
    first[-1].write_bytes(bytes(128) + b"DICM" + b"broken" * 9)  # its header tells nothing
    faults = [series.fault is not None for series in find(tmp_path).series if series.location == tmp_path]
    assert faults == [True, True]
    check_scan(next(series for series in find(tmp_path).series if series.files[0] in elsewhere), elsewhere)


def test_equal_images_of_one_id_at_two_positions_are_both_kept(tmp_path: Path) -> None:
    """As of a program that writes an id for all its files: no slice is lost as a copy of its neighbour."""
    files = write(tmp_path, 6)
    pixels = dcmread(files[2])
    for path in files[3:5]:
        change(path, PixelData=pixels.PixelData, SOPInstanceUID=pixels.SOPInstanceUID)
    discovery = find(tmp_path)
    assert discovery.exclusions == []
    check_scan(discovery.series[0], files)
