from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_prep.errors import ScanError
from data_prep.readers.dicom import read_series
from data_prep.settings import SourceSettings
from data_prep.sources import discover
from data_prep.volume import CTVolume
from tests.conftest import chest, shared_file
from tests.data_prep.dicom_series import write_series

SPACING = (2.5, 0.703125, 0.703125)


def test_the_sample_as_dicom_equals_the_sample_as_nifti(sample: CTVolume, tmp_path: Path) -> None:
    write_series(tmp_path / "series", sample.hu[40:52], SPACING)
    found = read_series(tmp_path / "series")
    np.testing.assert_array_equal(found.hu, sample.hu[40:52])
    assert found.spacing == pytest.approx(sample.spacing)


def test_real_dicom_is_ordered_by_position_not_by_name() -> None:
    folder = next(p.parent for p in sorted(shared_file("ct/LIDC-IDRI-0003").rglob("*.dcm")))
    found = read_series(folder)
    assert found.hu.shape == (140, 512, 512)
    assert found.spacing == pytest.approx((2.5, 0.820312, 0.820312))
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    by_name = [float(image.ImagePositionPatient[2]) for image in images]
    assert by_name != sorted(by_name)
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    expected = np.stack([image.pixel_array.astype(np.int32) + int(image.RescaleIntercept) for image in images])
    np.testing.assert_array_equal(found.hu, np.clip(expected, -1024, None))


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(8), SPACING)
    files[3].unlink()
    with pytest.raises(ScanError, match=r"a slice is missing: 5\.00 mm between positions 5\.00 and 10\.00 mm"):
        read_series(tmp_path)


def test_feet_first_or_head_first_gives_feet_to_head(tmp_path: Path) -> None:
    write_series(tmp_path, chest(4), SPACING, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(read_series(tmp_path).hu[:, 224:288, 224:288], chest(4)[:, ::-1, ::-1])


def test_broken_series_are_refused_with_their_reason(tmp_path: Path) -> None:
    def series(name: str, **tags: object) -> Path:
        write_series(tmp_path / name, chest(4), SPACING, **tags)  # type: ignore[arg-type]
        return tmp_path / name

    twice = series("twice")
    (twice / "copy.dcm").write_bytes(next(twice.glob("1-*.dcm")).read_bytes())
    two = series("two")
    write_series(tmp_path / "other", chest(4), SPACING)
    for path in (tmp_path / "other").iterdir():
        path.rename(two / f"b{path.name}")
    cut = series("cut")
    first = next(cut.glob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-5000])
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, reason in [
        (twice, "two slices lie at"),
        (two, "holds 2 series"),
        (cut, "cannot be decoded|no readable DICOM"),
        (empty, "0 DICOM images"),
        (series("mr", Modality="MR"), "modality is MR"),
        (series("tilted", ImageOrientationPatient=[1, 0, 0, 0, 0.948, -0.317]), "tilted by 18.5"),
    ]:
        with pytest.raises(ScanError, match=reason):
            read_series(folder)


def test_discovery_keeps_no_identifier(tmp_path: Path) -> None:
    write_series(tmp_path / "Doe_Jane" / "one", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Doe_Jane" / "two", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Roe", chest(4), SPACING, patient="Roe^Max")
    found = discover((SourceSettings(kind="dicom", path=tmp_path),))
    assert len(found) == 3
    assert len({series.subject for series in found.values()}) == 2
    assert not any("Doe" in name or "Roe" in name for name in found)
    assert found.keys() == discover((SourceSettings(kind="dicom", path=tmp_path),)).keys()
