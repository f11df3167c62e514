"""Which files of a source are read: links are followed, and what is no scan has a row or is counted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from data_prep.errors import MachineError, UserError
from data_prep.pseudonym import file_pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.discovery_cache import recall
from tests.data_prep.scan_checks import check_scan, find, passed_over, write
from tests.scans import chest, write_nifti


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


def test_contents_behind_links_go_by_the_names_of_the_links(tmp_path: Path) -> None:
    """As git-annex keeps them in a hidden folder, and a hub's cache in one of names without endings."""
    contents = {"annex": ".git/annex/objects/MD5E-1.nii.gz", "cache": "blobs/abc123"}
    for name, content in contents.items():
        root, link = tmp_path / name, tmp_path / name / "files" / "sub-S1_ct.nii.gz"
        write_nifti(tmp_path / "sub-S1_ct.nii.gz", chest(10, 16))
        (root / content).parent.mkdir(parents=True)
        (tmp_path / "sub-S1_ct.nii.gz").rename(root / content)
        link.parent.mkdir()
        link.symlink_to(root / content)
        for kind in ("nifti", "bimcv"):
            (series,) = find(root, kind=kind, keep_ids=True).series
            assert (series.subject, series.files) == ("sub-S1", (link,))


def test_hidden_folders_have_a_row_and_no_scans(tmp_path: Path) -> None:
    files = write(tmp_path / "p1", 4)
    for folder in (".Trash-1000/files", ".quarterdose-fetch/p2"):
        write(tmp_path / folder, 4, patient="Other")
    discovery = find(tmp_path)
    (series,) = discovery.series
    check_scan(series, files)
    (exclusion,) = discovery.exclusions
    assert (exclusion.reason, exclusion.images) == ("file is a hidden folder, which is not looked into", 2)


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


@pytest.mark.skipif(not shutil.which("setpriv"), reason="takes root's rights away")
def test_a_folder_whose_files_cannot_be_looked_at_has_a_row(tmp_path: Path) -> None:
    """It may be listed, but not searched: the other scans are read."""
    for name in ("closed", "open"):
        write(tmp_path / name, 4)
    (tmp_path / "closed").chmod(0o644)
    code = (
        "import sys; from pathlib import Path; from tests.data_prep.scan_checks import find; "
        "discovery = find(Path(sys.argv[1])); (series,), (exclusion,) = discovery.series, discovery.exclusions; "
        "print(len(series.files), series.fault, exclusion.images, exclusion.reason)"
    )
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    process = subprocess.run(
        [*command, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    (tmp_path / "closed").chmod(0o755)
    assert (process.stdout, process.stderr) == ("4 None 4 file cannot be opened (Permission denied)\n", "")


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
