"""Elements of a derived image that say what it is and where it comes from, and what must not be in it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from data_prep.errors import ScanError
from data_prep.readers.dicom import open_series
from data_prep.writers.dicom import FromSeries
from data_prep.writers.dicom_copy import copy_elements
from data_prep.writers.dicom_elements import Derivation
from data_prep.writers.dicom_source import SourceFrame
from data_prep.writers.nifti import writing_nifti
from tests.data_prep.dicom_series import change, write_enhanced, write_series
from tests.scans import chest

SPACING = (2.5, 0.7, 0.7)


def test_an_image_refers_to_its_own_frame(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a.dcm", chest(5), SPACING)
    frames = pydicom.dcmread(tmp_path / "a.dcm").PerFrameFunctionalGroupsSequence
    source = FromSeries(open_series([tmp_path / "a.dcm"]), Derivation("Denoised by a test", "recipe", "source"))
    for z in range(5):
        image = source.image(z)
        (reference,) = image.SourceImageSequence
        frame = frames[reference.ReferencedFrameNumber - 1]  # the first frame has the number 1
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
        assert image.ImagePositionPatient[2] == SPACING[0] * z


@pytest.mark.parametrize("word", ["YES", "yes", "Yes "])
def test_burnt_in_text_is_seen_however_it_is_written(word: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path, chest(3), SPACING, BurnedInAnnotation=word)
    derivation = Derivation("Denoised by a test", "recipe", "source", deidentify=True)
    with pytest.raises(ScanError, match="text is burnt into the images"):
        FromSeries(open_series(paths), derivation).image(0)


@pytest.mark.parametrize("other", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_frame_of_reference_that_is_another_uid_is_replaced(other: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path, chest(3), SPACING)
    for path in paths:
        change(path, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
        change(path, FrameOfReferenceUID={"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}[other])
    image = FromSeries(open_series(paths), Derivation("Denoised by a test", "recipe", "source")).image(0)
    assert image.FrameOfReferenceUID not in ("1.2.3", "1.2.4", image.SeriesInstanceUID)
    assert image.FrameOfReferenceUID.startswith("2.25.")


@pytest.mark.parametrize(("word", "ratios"), [("01", 1), ("00", 0)])
def test_a_compression_that_was_not_lossy_has_no_ratio(word: str, ratios: int) -> None:
    source, image = Dataset(), Dataset()
    source.LossyImageCompression, source.LossyImageCompressionRatio = word, 10
    source.LossyImageCompressionMethod = "ISO_10918_1"
    names = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    copy_elements(image, SourceFrame(source, 0), names)
    assert [name for name in names[1:] if name in image] == list(names[1:]) * ratios


def test_lengths_of_a_nifti_file_are_declared_as_mm(tmp_path: Path) -> None:
    with writing_nifti(tmp_path / "a.nii.gz", (3, 64, 64), np.diag([-0.7, -0.7, 2.5, 1.0])) as writer:
        for plane in chest(3):
            writer.write(plane)
    header = nib.nifti1.Nifti1Image.from_filename(tmp_path / "a.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
