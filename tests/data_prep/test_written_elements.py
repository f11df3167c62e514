"""What is copied of a header, or made of a file's name, is valid DICOM: by dciodvfy, and as pydicom reads it back."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from data_prep.writers.dicom import DicomWriter, FromGrid
from data_prep.writers.dicom_elements import Derivation
from tests.data_prep.dicom_series import change, write_series
from tests.data_prep.test_writers import errors_in, files, write_back
from tests.scans import chest

SPACING = (2.5, 0.703125, 0.703125)
UTF_8, LATIN_1, GB = ({"SpecificCharacterSet": term.encode()} for term in ("ISO_IR 192", "ISO_IR 100", "GB18030"))
MUELLER = "Müller^Jürgen"

BACKSLASH = b"\\"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


CASES: dict[str, tuple[Mapping[str, bytes], Mapping[str, Any]]] = {
    # stored bytes of the source's elements; expected elements of the written image, None for those that are left out
    "Latin-1, undeclared": ({"PatientName": MUELLER.encode("latin-1")}, {"PatientName": MUELLER}),
    "UTF-8, undeclared": ({"PatientName": MUELLER.encode()}, {"PatientName": MUELLER}),
    "Latin-1, declared": ({**LATIN_1, "PatientName": MUELLER.encode("latin-1")}, {"PatientName": MUELLER}),
    "Latin-1 declared as UTF-8": ({**UTF_8, "PatientName": MUELLER.encode("latin-1")}, {"PatientName": MUELLER}),
    "an unknown character set": (
        {"SpecificCharacterSet": b"MINE", "PatientName": MUELLER.encode("latin-1")},
        {"PatientName": MUELLER},
    ),
    "GB18030": ({**GB, "PatientID": "张三".encode("gb18030")}, {"PatientID": "张三"}),
    "ISO 2022": (
        {
            "SpecificCharacterSet": b"\\ISO 2022 IR 87",
            "PatientName": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        },
        {"PatientName": "Yamada^Tarou=山田^太郎"},
    ),
    "long ids": (
        {"PatientID": b"x" * 80, "AccessionNumber": b"y" * 17, "InstitutionName": b"i" * 65},
        {"PatientID": f"{'x' * 55}-{digest(b'x' * 80)}", "AccessionNumber": f"yyyyyyy-{digest(b'y' * 17)}",
         "InstitutionName": "i" * 64},
    ),
    "long ids of three bytes a character": (
        {**UTF_8, "PatientID": ("患" * 40).encode(), "SeriesDescription": ("描" * 40).encode()},
        {"SeriesDescription": "描" * 12 + " denoised, not for diagnosis"},
    ),
    "a backslash in an id": (
        {"PatientID": b"a\\b", "StudyID": b"a\\b"},
        {"PatientID": f"a/b-{digest(b'a' + BACKSLASH + b'b')}"},
    ),
    "line ends": ({"PatientName": b"A\nB^C\x07"}, {"PatientName": "A B^C"}),
    "groups of a name": ({"PatientName": b"a^b^c^d^e^f=g=h=i"}, {"PatientName": "a^b^c^d^e f=g=h"}),
    "dates": (
        {"StudyDate": b"2006-01-02", "PatientBirthDate": b"1970.01.02", "AcquisitionDate": b"20060231",
         "StudyTime": b"12:30:15", "AcquisitionTime": b"256060", "PatientAge": b"45"},
        {"StudyDate": "", "PatientBirthDate": "19700102", "AcquisitionDate": None, "StudyTime": "123015",
         "AcquisitionTime": None, "PatientAge": None},
    ),
    "moments": (
        {"AcquisitionDateTime": b"20060102123015.123456+0100", "ContentDate": b"UNKNOWN"},
        {"AcquisitionDateTime": "20060102123015.123456+0100", "ContentDate": None},
    ),
    "numbers": (
        {"KVP": b"120 kV", "Exposure": b"12.4", "ExposureTime": b"500.0", "XRayTubeCurrent": b"99999999999",
         "SliceThickness": b"2.500000000000000001", "TableHeight": b"nan", "GantryDetectorTilt": b"1,5",
         "SpacingBetweenSlices": b"-2.5", "AcquisitionNumber": b"abc", "SeriesNumber": b"2147483647"},
        {"KVP": None, "Exposure": None, "ExposureTime": 500, "XRayTubeCurrent": None, "SliceThickness": 2.5,
         "TableHeight": None, "GantryDetectorTilt": None, "SpacingBetweenSlices": None, "SeriesNumber": 2147483647},
    ),
    "numbers that measure nothing": (
        {"SliceThickness": b"0", "SpacingBetweenSlices": b"1e20", "KVP": b"-120"},
        {"SliceThickness": None, "SpacingBetweenSlices": None, "KVP": None},
    ),
    "several numbers for one": ({"KVP": b"120\\140", "SliceThickness": b"1\\2"}, {"KVP": None}),
    "orientation in many digits": (
        {"ImageOrientationPatient": b"1.00000000000000000\\0\\0\\0\\1.00000000000000000\\0"},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    ),
    "codes": (
        {"BodyPartExamined": b"Lung", "PatientSex": b"male", "RotationDirection": b"clockwise",
         "PatientPosition": b"head first supine position", "BurnedInAnnotation": b"No"},
        {"BodyPartExamined": "LUNG", "PatientSex": "", "RotationDirection": None, "PatientPosition": "",
         "BurnedInAnnotation": "NO", "Laterality": ""},
    ),
    "PARTIALBODY": ({"BodyPartExamined": b"PARTIALBODY"}, {"BodyPartExamined": "PARTIALBODY", "Laterality": ""}),
    "a left lung": ({"BodyPartExamined": b"LUNG", "Laterality": b"L"}, {"Laterality": "L"}),
    "a left chest": ({"BodyPartExamined": b"CHEST", "Laterality": b"L"}, {"Laterality": None}),
    "a window without width": ({"WindowCenter": b"40"}, {"WindowCenter": None}),
    "a window of no width": ({"WindowCenter": b"40", "WindowWidth": b"0"}, {"WindowCenter": None}),
    "two windows, a width": ({"WindowCenter": b"40\\-600", "WindowWidth": b"400"}, {"WindowWidth": None}),
    "two windows, a word": (
        {"WindowCenter": b"40\\-600", "WindowWidth": b"400\\1500", "WindowCenterWidthExplanation": b"A"},
        {"WindowWidth": [400, 1500], "WindowCenterWidthExplanation": None},
    ),
    "empty elements": (
        dict.fromkeys(("WindowCenter", "WindowWidth", "LossyImageCompression", "RotationDirection", "KVP"), b""),
        {"WindowCenter": None, "KVP": None},
    ),
    "lossy": (
        {"LossyImageCompression": b"01", "LossyImageCompressionRatio": b"10\\20",
         "LossyImageCompressionMethod": b"ISO_10918_1"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": None},
    ),
    "identity removed, no method": ({"PatientIdentityRemoved": b"YES"}, {"PatientIdentityRemoved": None}),
    "identity removed by a method": (
        {"PatientIdentityRemoved": b"YES", "DeidentificationMethod": b"by hand\\twice"},
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ["by hand", "twice"]},
    ),
    "references without UIDs": ({"SOPInstanceUID": b"", "SOPClassUID": b""}, {"SourceImageSequence": None}),
    "one broken UID for all": (
        {"StudyInstanceUID": b"1.2.x", "FrameOfReferenceUID": b"1.2.x", "SOPInstanceUID": b"0.99.1"},
        {"SourceImageSequence": None},
    ),
    "the study's UID as frame of reference": (
        {"StudyInstanceUID": b"1.2.3", "FrameOfReferenceUID": b"1.2.3"},
        {"StudyInstanceUID": "1.2.3"},
    ),
    "a reference of a broken UID": ({"SOPInstanceUID": b"1.2.x"}, {"SourceImageSequence": None}),
    "numbers of images, two the same": ({"InstanceNumber": b"7"}, {"InstanceNumber": 1}),
    "numbers of images that are none": ({"InstanceNumber": b"first"}, {"InstanceNumber": 1}),
    "two versions of software": ({"SoftwareVersions": b"a\\b"}, {"SoftwareVersions": ["a", "b"]}),
}  # fmt: skip


def store(path: Path, stored: Mapping[str, bytes]) -> None:
    """Set the very bytes of elements, which pydicom would not write."""
    for keywords in (["SpecificCharacterSet"], [*stored]):  # declared first, or pydicom converts the rest
        image = dcmread(path)
        for keyword in keywords:
            content, tag = stored.get(keyword, b""), Tag(keyword)
            padded = content + b" " * (len(content) % 2)
            vr = pydicom.datadict.dictionary_VR(tag)
            image._dict[tag] = RawDataElement(tag, vr, len(padded), padded, 0, False, True)
        image.save_as(path)


@pytest.mark.parametrize("deidentify", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_what_is_copied_is_valid_or_left_out(case: str, deidentify: bool, tmp_path: Path) -> None:
    stored, expected = CASES[case]
    for path in write_series(tmp_path / "source", chest(3, 32), SPACING):
        store(path, stored)
    write_back(tmp_path / "source", tmp_path / "target", Derivation("Denoised", "recipe", "source", deidentify))
    first = files(tmp_path / "target")[0]
    assert errors_in(first) == []
    if not deidentify:
        image = dcmread(first)
        for keyword, content in expected.items():
            assert (image.get(keyword) or ("" if content == "" else None)) == content, keyword
        is_ascii = all(str(element.value).isascii() for element in image if element.VR in ("LO", "PN", "SH"))
        assert image.get("SpecificCharacterSet", "") == ("" if is_ascii else "ISO_IR 192")


def test_codes_of_a_deidentification_are_copied_where_they_are_complete(tmp_path: Path) -> None:
    def code(**elements: str) -> Dataset:
        item = Dataset()
        for keyword, text in elements.items():
            setattr(item, keyword, text)
        return item

    complete = code(CodeValue="113100", CodingSchemeDesignator="DCM", CodeMeaning="Basic Profile")
    sequence = [complete, code(CodeValue="113101")]
    for path in write_series(tmp_path / "source", chest(3, 32), SPACING, PatientIdentityRemoved="YES"):
        image = dcmread(path)
        image.DeidentificationMethodCodeSequence = sequence
        image.save_as(path)
    write_back(tmp_path / "source", tmp_path / "target")
    image = dcmread(files(tmp_path / "target")[0])
    assert [item.CodeValue for item in image.DeidentificationMethodCodeSequence] == ["113100"]
    assert errors_in(files(tmp_path / "target")[0]) == []


def test_numbers_of_images_stay_where_they_tell_images_apart(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "source", chest(3, 32), SPACING)
    for path, number in zip(paths, (b"30", b"20.0", b"10"), strict=True):
        store(path, {"InstanceNumber": number})
    write_back(tmp_path / "source", tmp_path / "target")
    assert [dcmread(path).InstanceNumber for path in files(tmp_path / "target")] == [30, 20, 10]


@pytest.mark.parametrize("deidentify", [False, True])
def test_a_written_series_is_of_one_patient_and_study(deidentify: bool, tmp_path: Path) -> None:
    whose: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "SeriesNumber": 3}
    paths = write_series(tmp_path / "source", chest(6, 32), SPACING, **whose)
    for path, keyword in zip(paths, ("PatientID", "PatientName", *whose), strict=False):
        change(path, **{keyword: None})
    write_back(tmp_path / "source", tmp_path / "target", Derivation("Denoised", "recipe", "source", deidentify))
    images = [dcmread(path) for path in files(tmp_path / "target")]
    for keyword in ("PatientID", "PatientName", "SeriesInstanceUID", *whose):
        assert len({str(image[keyword].value) for image in images}) == 1, keyword
    if not deidentify:
        assert [images[0][keyword].value for keyword in whose] == ["1.2.3", "1.2.4", 1003]
        assert {str(image.PatientID) for image in images} == {"Doe^Jane"}


def test_images_without_any_uid_are_of_the_study_of_their_source_alone(tmp_path: Path) -> None:
    studies = set()
    for source in ("a", "b"):
        for path in write_series(tmp_path / source, chest(3, 32), SPACING):
            store(path, {"SeriesInstanceUID": b"", "StudyInstanceUID": b"1.2.x" if source == "a" else b""})
        write_back(tmp_path / source, tmp_path / f"{source}-out", Derivation("Denoised", "recipe", source))
        first = files(tmp_path / f"{source}-out")[0]
        assert errors_in(first) == []
        studies.add(dcmread(first).StudyInstanceUID)
    assert len(studies) == 2


NAMES = {  # of NIfTI files; PatientName and PatientID in DICOM
    "toy": ("toy", "toy-1a2b3c4d"),
    "Müller_ß": ("Müller_ß", "Müller_ß-1a2b3c4d"),
    "患者一": ("患者一", "患者一-1a2b3c4d"),
    "a\\b": ("a/b", f"a/b-1a2b3c4d-{digest(b'a' + BACKSLASH + b'b-1a2b3c4d')}"),
    "a^b^c^d^e^f=g": ("a b c d e f g", "a^b^c^d^e^f=g-1a2b3c4d"),
    "ct-1a2b3c4d": ("ct-1a2b3c4d", "ct-1a2b3c4d"),
}


def written_names(name: str, source: str, folder: Path) -> tuple[str, str, str]:
    """Write an image of a source that is no DICOM; return PatientName, PatientID and the character set."""
    folder.mkdir()
    writer = DicomWriter(folder, FromGrid(name, np.diag([-0.7, -0.7, 2.5, 1.0]), Derivation("D", "recipe", source)))
    writer.write(chest(1, 32)[0])
    (path,) = files(folder)
    assert errors_in(path) == []
    image = dcmread(path)
    return str(image.PatientName), image.PatientID, image.get("SpecificCharacterSet", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_files_name_becomes_a_patient(name: str, tmp_path: Path) -> None:
    characters = "" if name.isascii() else "ISO_IR 192"
    assert written_names(name, "1a2b3c4d5e6f", tmp_path / "out") == (*NAMES[name], characters)


def test_different_files_are_different_patients(tmp_path: Path) -> None:
    pairs = ("x" * 79, "患" * 30, os.fsdecode(b"a\xff"))
    names = [*(f"{name}{i}" for name in pairs for i in (1, 2)), os.fsdecode(b"a\xfe1"), "a\n", "a "]
    written = [written_names(name, "1a2b3c4d", tmp_path / str(i))[1] for i, name in enumerate(names)]
    written += [written_names("ct", source, tmp_path / source)[1] for source in ("0" * 64, "1" * 64)]
    assert len({*written}) == len(written)
    assert max(len(text.encode()) for text in written) <= 64
