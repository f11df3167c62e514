from contextlib import nullcontext
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from data_prep.errors import MachineError, ScanError
from data_prep.readers.dicom import open_dicom, open_series
from data_prep.volume import CTVolume
from tests.beside import shared_file
from tests.data_prep.dicom_series import change, edit, item, transcode, write_enhanced, write_series
from tests.data_prep.scan_checks import find
from tests.scans import Hu, chest

SPACING = (2.5, 0.703125, 0.703125)


def read(folder: Path) -> CTVolume:
    return open_dicom(sorted(folder.glob("*.dcm"))).load()


def middle(hu: Hu, side: int = 64) -> Hu:
    start = (512 - side) // 2
    return hu[:, start : start + side, start : start + side]


@pytest.mark.slow
def test_the_sample_as_dicom_equals_the_sample_as_nifti(sample: CTVolume, tmp_path: Path) -> None:
    write_series(tmp_path / "series", sample.hu[40:52], SPACING)
    volume = read(tmp_path / "series")
    np.testing.assert_array_equal(volume.hu, sample.hu[40:52])
    assert volume.spacing == pytest.approx(sample.spacing)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "slices"), [("LIDC-IDRI-0003", 140), ("Lung_Dx-A0002", 30)])
def test_real_dicom_equals_what_simpleitk_reads(name: str, slices: int) -> None:
    folder = next(p.parent for p in sorted(shared_file(f"ct/{name}").rglob("*.dcm")))
    volume = read(folder)
    assert volume.hu.shape == (slices, 512, 512)
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(files)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))
    np.testing.assert_array_equal(volume.hu, np.maximum(expected, -1024))
    assert volume.spacing == pytest.approx(image.GetSpacing()[::-1], abs=1e-4)
    by_name = [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in sorted(folder.glob("*.dcm"))]
    if name == "LIDC-IDRI-0003":
        assert by_name != sorted(by_name)


# GDCM's numbers of JPEG lossless (process 14, selection value 1), JPEG-LS, JPEG 2000 lossless, RLE
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"])
def test_compressed_series_hold_the_same_values(syntax: str, tmp_path: Path) -> None:
    import gdcm

    for path in write_series(tmp_path, chest(3), SPACING):
        transcode(path, getattr(gdcm.TransferSyntax, syntax))
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(middle(read(tmp_path).hu), chest(3))


def test_signed_and_narrow_compressed_values_keep_their_sign(tmp_path: Path) -> None:
    import gdcm

    def signed(image: FileDataset) -> None:
        stored = np.frombuffer(image.PixelData, "<u2").astype(np.int32) - 1024
        image.PixelData, image.PixelRepresentation = stored.astype("<i2").tobytes(), 1
        image.BitsStored, image.HighBit, image.RescaleIntercept = 12, 11, 0

    for syntax in ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"):
        for path in write_series(tmp_path / syntax, chest(2), SPACING):
            edit(path, signed)
            transcode(path, getattr(gdcm.TransferSyntax, syntax))
        np.testing.assert_array_equal(middle(read(tmp_path / syntax).hu), chest(2))


def test_a_missing_decoder_is_the_machines_fault(tmp_path: Path) -> None:
    import gdcm

    for path in write_series(tmp_path, chest(3), SPACING):
        transcode(path, gdcm.TransferSyntax.JPEGLSLossless)
    decoder = get_decoder(JPEGLSLossless)
    decoder.remove_plugin("imagecodecs")
    try:
        with pytest.raises(MachineError, match=r"no decoder for JPEG-LS.*pip install imagecodecs"):
            read(tmp_path)
    finally:
        decoder.add_plugin("imagecodecs", ("data_prep.readers.jpeg", "decode_frame"))
    assert len(read(tmp_path).hu) == 3


def test_enhanced_multi_frame_equals_the_classic_series(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "all.dcm", chest(5), SPACING)
    volume = read(tmp_path)
    np.testing.assert_array_equal(middle(volume.hu), chest(5))
    assert volume.spacing == pytest.approx(SPACING)


def test_a_frames_own_rescale_comes_before_the_shared_one(tmp_path: Path) -> None:
    def offset(image: FileDataset) -> None:
        for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            group.PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=-1000 - number)]

    write_enhanced(tmp_path / "all.dcm", np.zeros((5, 16, 16), np.int16), SPACING)
    edit(tmp_path / "all.dcm", offset)
    intercepts = {ct_slice.frame.rescale.intercept for ct_slice in open_series([tmp_path / "all.dcm"]).slices}
    assert intercepts == {-1000, -1001, -1002, -1003, -1004}


@pytest.mark.parametrize(
    ("name", "beside", "is_one"),
    [
        ("PixelSpacing", [0.704025, 0.704025], True),
        ("PixelSpacing", [0.704225, 0.704225], False),
        ("ImageOrientationPatient", [1, 0, 9e-5, 0, 1, 0], True),
        ("ImageOrientationPatient", [1, 0, 1.1e-4, 0, 1, 0], False),
    ],
)
def test_frames_of_a_file_may_differ_within_the_tolerance(
    name: str, beside: list[float], is_one: bool, tmp_path: Path
) -> None:
    def change_a_frame(image: FileDataset) -> None:
        image.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = [item(**{name: beside})]

    write_enhanced(tmp_path / "all.dcm", chest(5), SPACING)
    edit(tmp_path / "all.dcm", change_a_frame)
    with (
        nullcontext() if is_one else pytest.raises(ScanError, match=r"^holds 2 .*, wanted one series of alike slices$")
    ):
        assert len(read(tmp_path).hu) == 5


def test_acquisition_is_read_and_may_be_missing(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(3), SPACING, KVP=120, ConvolutionKernel="B30f", SliceThickness=3,
                         XRayTubeCurrent=200, ExposureTime=500)  # fmt: skip
    acquisition = open_dicom(files).acquisition
    assert (acquisition.kernel, acquisition.kvp, acquisition.mas, acquisition.thickness) == ("B30f", 120, 100, 3)
    for path in files:
        change(path, KVP=None, ConvolutionKernel=None, XRayTubeCurrent=None, Modality=None)
    acquisition = open_dicom(files).acquisition
    assert (acquisition.kernel, acquisition.kvp, acquisition.mas) == ("", None, None)


def test_private_sequences_of_frames_tell_nothing(tmp_path: Path) -> None:
    """Vendors keep there what a classic image said, or another reconstruction."""

    def add_private(image: FileDataset) -> None:
        for group in image.PerFrameFunctionalGroupsSequence:
            block = group.private_block(0x0019, "VENDOR", create=True)
            block.add_new(0x11, "SQ", [item(PixelSpacing=[3, 3], RescaleSlope=2)])

    write_enhanced(tmp_path / "all.dcm", chest(5), SPACING)
    edit(tmp_path / "all.dcm", add_private)
    volume = read(tmp_path)
    np.testing.assert_array_equal(middle(volume.hu), chest(5))
    assert volume.spacing == pytest.approx(SPACING)


def test_the_acquisition_of_an_enhanced_file_is_in_its_functional_groups(tmp_path: Path) -> None:
    def describe(image: FileDataset) -> None:
        (shared,), (first, *_) = image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence
        shared.CTReconstructionSequence = [item(ConvolutionKernel="B40f")]
        shared.CTXRayDetailsSequence = [item(KVP=120.0)]
        first.CTExposureSequence = [item(XRayTubeCurrentInmA=200.0, ExposureTimeInms=500.0)]

    def drop_thickness(image: FileDataset) -> None:
        del image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness

    write_enhanced(tmp_path / "all.dcm", chest(5), SPACING)
    edit(tmp_path / "all.dcm", describe)
    acquisition = open_dicom([tmp_path / "all.dcm"]).acquisition
    assert (acquisition.kernel, acquisition.kvp, acquisition.mas, acquisition.thickness) == ("B40f", 120, 100, 2.5)
    choice: dict[str, Any] = {"kernel": "B40f", "thickness_mm": 2.5}
    assert len(find(tmp_path, **choice).series) == 1
    edit(tmp_path / "all.dcm", drop_thickness)
    (exclusion,) = find(tmp_path, thickness_mm=2.5).exclusions
    assert exclusion.reason == "thickness unknown, wanted 2.5 mm"


def test_padding_becomes_air_even_if_its_sign_is_lost(tmp_path: Path) -> None:
    """63536 written as unsigned is -2000 of signed pixels; and padding may lie at a tissue's value."""

    def padded(value: int) -> FileDataset:
        def pad(image: FileDataset) -> None:
            stored = np.full((64, 64), 40, "<i2")
            stored[:8], stored[8:10] = value, -1000
            image.PixelData, image.PixelRepresentation, image.RescaleIntercept = stored.tobytes(), 1, 0
            image.add_new(0x00280120, "US", value % 65536)

        return pad  # type: ignore[return-value]

    for value in (-2000, -990, 1200):
        for path in write_series(tmp_path / str(value), chest(2), SPACING):
            edit(path, padded(value))  # type: ignore[arg-type]
        hu = middle(read(tmp_path / str(value)).hu)
        assert (hu[:, :8] == -1024).all()
        assert (hu[:, 8:10] == -1000).all()
        assert (hu[:, 10:] == 40).all()


def test_padding_of_a_tissues_value_is_outside_of_the_body_alone(tmp_path: Path) -> None:
    """It surrounds a round field of view; the body inside of it holds the same value."""
    y, x = np.meshgrid(np.linspace(-1, 1, 65), np.linspace(-1, 1, 62), indexing="ij")
    outside = x * x + y * y > 1
    hu = np.random.default_rng(0).integers(-2, 3, (2, *outside.shape)).astype("<i2")
    hu[:, x * x + y * y > 0.6], hu[:, outside] = -1000, 0

    def pad(image: FileDataset) -> None:
        image.add_new(0x00280120, "SS", 0)
        image.PixelRepresentation, image.RescaleIntercept = 1, 0
        image.PixelData = hu[round(image.ImagePositionPatient[2] / SPACING[0])].tobytes()

    files = write_series(tmp_path, np.abs(hu), SPACING)
    for path in files:
        edit(path, pad)
    expected = np.where(outside, -1024, hu)
    np.testing.assert_array_equal(open_dicom(files).planes(0, 2), expected)
    assert (expected == 0).sum() > 100


@pytest.mark.parametrize("syntax", ["native", "JPEGLosslessProcess14_1", "RLELossless"])
def test_padding_that_the_used_bits_cannot_hold_becomes_air_in_compressed_files_too(
    syntax: str, tmp_path: Path
) -> None:
    """63536 in words of 16 bits of which 12 are used: without the others it is 2096, a bone."""
    import gdcm

    def pad(image: FileDataset) -> None:
        words = np.frombuffer(image.PixelData, "<u2").reshape(64, 64).copy()
        words[:8], words[8] = 63536, 0xFC10  # above the padding: 3088, beneath an overlay
        image.PixelData, image.BitsStored, image.HighBit = words.tobytes(), 12, 11
        image.add_new(0x00280120, "US", 63536)

    for path in write_series(tmp_path, chest(2), SPACING):
        edit(path, pad)
        if syntax != "native":
            transcode(path, getattr(gdcm.TransferSyntax, syntax))
    hu = middle(read(tmp_path).hu)
    assert (hu[:, :8] == -1024).all()
    assert (hu[:, 8] == 3088 - 1024).all()
    np.testing.assert_array_equal(hu[:, 9:], chest(2)[:, 9:])


def test_padding_below_what_the_used_bits_can_hold_becomes_air(tmp_path: Path) -> None:
    """-3024 in signed words of which 12 bits are used: without the others it is 1072, a bone."""

    def pad(image: FileDataset) -> None:
        words = np.frombuffer(image.PixelData, "<u2").reshape(64, 64).astype("<i2") - np.int16(1024)
        words[:8] = -3024
        image.PixelData, image.BitsStored, image.HighBit = words.tobytes(), 12, 11
        image.PixelRepresentation, image.RescaleIntercept = 1, 0
        image.add_new(0x00280120, "SS", -3024)

    for path in write_series(tmp_path, chest(2), SPACING):
        edit(path, pad)
    hu = middle(read(tmp_path).hu)
    assert (hu[:, :8] == -1024).all()
    np.testing.assert_array_equal(hu[:, 8:], chest(2)[:, 8:])


def test_rescale_is_each_slices_own(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(3), SPACING)
    stored = chest(3)[1].astype(np.int32) + 500
    change(files[1], RescaleIntercept=-1000, RescaleSlope=0.5, PixelData=(2 * stored + 1000).astype("<u2").tobytes())
    np.testing.assert_array_equal(middle(read(tmp_path).hu), chest(3))


def test_bits_above_those_stored_are_no_part_of_the_value(tmp_path: Path) -> None:
    def overlay(image: FileDataset) -> None:
        stored = np.frombuffer(image.PixelData, "<u2") & 0x0FFF
        image.BitsStored, image.HighBit, image.PixelData = 12, 11, (stored | 0x8000).tobytes()

    for path in write_series(tmp_path, chest(3), SPACING):
        edit(path, overlay)
    np.testing.assert_array_equal(middle(read(tmp_path).hu), chest(3))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("bits", "sign"), [(12, 0), (13, 1)])
def test_words_in_a_jpeg_are_cut_to_the_used_bits(syntax: UID, bits: int, sign: int, tmp_path: Path) -> None:
    """Their code has 16 bits. Above those used is an overlay, or a sign is missing (PS3.5 8.1.1)."""
    hu = chest(3)

    def compress(image: FileDataset) -> None:
        plane = hu[round(image.ImagePositionPatient[2] / SPACING[0])].astype(np.int32)
        image.PixelRepresentation, image.BitsStored, image.HighBit = sign, bits, bits - 1
        image.RescaleIntercept = 0 if sign else -1024
        words = (plane % (1 << bits) if sign else (plane + 1024) | 0x8000).astype(np.uint16)
        if syntax == JPEGLSLossless:
            code = imagecodecs.jpegls_encode(words)
        else:
            code = imagecodecs.jpeg2k_encode(words, level=0, codecformat="J2K", reversible=True)
        image.file_meta.TransferSyntaxUID, image.PixelData = syntax, encapsulate([bytes(code)])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True

    files = write_series(tmp_path, hu, SPACING)
    for path in files:
        edit(path, compress)
    np.testing.assert_array_equal(open_dicom(files).planes(0, 3), hu)


@settings(max_examples=24)
@given(rows=st.sampled_from([1, -1]), columns=st.sampled_from([1, -1]), swapped=st.booleans(), seed=st.integers(0, 99))
def test_every_axial_orientation_and_file_order_gives_one_volume(
    rows: int, columns: int, swapped: bool, seed: int
) -> None:
    """The same patient stored with rows and columns along any of the body's axes."""
    hu = chest(4, 16)
    right, down = np.array([columns, 0, 0]), np.array([0, rows, 0])
    view = hu[:, ::rows, ::columns]
    if swapped:
        right, down, view = down, right, view.transpose(0, 2, 1)
    with TemporaryDirectory() as folder:
        files = write_series(Path(folder), np.ascontiguousarray(view), SPACING)
        for path in files:
            change(path, ImageOrientationPatient=[*map(int, right), *map(int, down)])
        np.random.default_rng(seed).shuffle(files)
        volume = open_dicom(files).load()
    np.testing.assert_array_equal(middle(volume.hu, 16), hu)
    assert volume.spacing == pytest.approx(SPACING)


def test_thick_slices_may_overlap_and_planes_may_be_large(tmp_path: Path) -> None:
    write_series(tmp_path, chest(4, 616), (2.0, 0.7, 0.7), SliceThickness=3)
    volume = read(tmp_path)
    assert volume.spacing[0] == pytest.approx(2)
    np.testing.assert_array_equal(volume.hu, chest(4, 616)[:, 52:564, 52:564])
    scan = open_dicom(sorted(tmp_path.glob("*.dcm"))).fitted("resample")
    assert scan.spacing == pytest.approx((2.0, 0.7 * 616 / 512, 0.7 * 616 / 512))
    resampled = scan.load().hu
    assert resampled.shape == (4, 512, 512)
    assert resampled.mean() == pytest.approx(chest(4, 616).mean(), abs=2)


def positions(files: list[Path], heights: list[float], sideways: float = 0) -> None:
    for path, z in zip(files, heights, strict=True):
        change(path, ImagePositionPatient=[-180.0, -180.0 + sideways * z, z])


def test_series_that_are_no_regular_axial_scan_are_refused_with_their_reason(tmp_path: Path) -> None:
    def series(name: str, slices: int = 4, **tags: object) -> list[Path]:
        return write_series(tmp_path / name, chest(slices), SPACING, **tags)  # type: ignore[arg-type]

    twice = series("twice")
    (tmp_path / "twice" / "copy.dcm").write_bytes(twice[0].read_bytes())
    two = series("two") + write_series(tmp_path / "two", chest(4), SPACING, first="2")
    cut, shifted, uneven, gap = series("cut"), series("shifted"), series("uneven"), series("gap", 8)
    cut[0].write_bytes(cut[0].read_bytes()[:-5000])
    positions(shifted, [0.0, 2.5, 5.0, 7.5], sideways=np.tan(np.radians(18.5)))
    positions(uneven, [0.0, 4.22, 11.6, 12.74])
    gap[3].unlink()
    (tmp_path / "empty").mkdir()
    pixelless = series("pixelless")
    change(pixelless[1], PixelData=None)
    series("no-hu", RescaleIntercept=None)
    number = series("number")[0]
    number.write_bytes(number.read_bytes().replace(b"-1024", b"-1o24"))
    coronal = series("coronal", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for k, path in enumerate(coronal):
        change(path, ImagePositionPatient=[-180.0, 2.5 * k, 0.0])
    assert len(two) == 8
    for name, reason in {
        "twice": "two slices lie at",
        "two": "holds 2 series",
        "cut": "pixels of file . of 4 .by name. are cut off",
        "shifted": "shifted sideways by up to 2.5 mm",
        "uneven": "1.14 to 7.38 mm apart",
        "gap": r"a slice is missing: 5\.00 mm between positions 5\.00 and 10\.00 mm, elsewhere 2\.50 mm",
        "empty": "0 CT images",
        "pixelless": "holds no image",
        "no-hu": "no HU",
        "number": "RescaleIntercept is no number",
        "coronal": "not axial",
    }.items():
        with pytest.raises(ScanError, match=reason):
            read(tmp_path / name)
    kinds: list[tuple[dict[str, Any], str]] = [
        ({"Modality": "MR"}, "modality is MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"], "SeriesNumber": 2}, "a projection of several slices"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.948, -0.317]}, "tilted by 18.5"),
        ({"PixelSpacing": [0.7, 0.9]}, "not square"),
        ({"PixelSpacing": []}, "lacks PixelSpacing"),
    ]
    for tags, reason in kinds:
        name = "-".join(tags)
        series(name, **tags)
        with pytest.raises(ScanError, match=reason):
            read(tmp_path / name)


def test_a_slice_among_others_of_another_kind_is_named(tmp_path: Path) -> None:
    for (tag, value), number in zip(
        [("PixelSpacing", [0.8, 0.8]), ("ImageOrientationPatient", [0, 1, 0, -1, 0, 0])], product("ab"), strict=True
    ):
        folder = tmp_path / number[0]
        change(write_series(folder, chest(3), SPACING)[1], **{tag: value})
        with pytest.raises(ScanError, match=r"holds 2 (pixel spacings|orientations)"):
            read(folder)
