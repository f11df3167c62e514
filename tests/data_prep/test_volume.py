from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import ScanError
from data_prep.grid import Grid
from data_prep.volume import CTScan, CTVolume, Fit, fit
from tests.data_prep.orientations import ORIENTATIONS


def canonical(voxels: np.ndarray, matrix: np.ndarray) -> CTVolume:
    """Voxels (i, j, k) in memory as a scan."""
    grid = Grid.of(matrix)
    view = grid.to_canonical(voxels)
    return CTScan(len(view), grid.spacing, lambda start, stop: view[start:stop]).load()


def volume(shape: tuple[int, int, int] = (3, 512, 512), seed: int = 0) -> np.ndarray:
    hu = np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)
    hu[0, 0, :2] = -1024, 1000
    return hu


def affine(spacing: tuple[float, float, float] = (2.5, 0.7, 0.7)) -> np.ndarray:
    z, y, x = spacing
    return np.diag([-x, -y, z, 1.0])


@given(codes=st.sampled_from(ORIENTATIONS))
def test_every_orientation_gives_the_same_volume(codes: tuple[str, str, str]) -> None:
    hu = volume((3, 8, 8))
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), affine())
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    oriented = canonical(np.asanyarray(turned.dataobj), turned.affine)
    np.testing.assert_array_equal(oriented.hu[:, 252:260, 252:260], hu)
    assert oriented.spacing == pytest.approx((2.5, 0.7, 0.7))


def test_whole_numbers_below_air_become_air_too() -> None:
    hu = volume((2, 8, 8))
    hu[1, :2] = -3024  # as GE pads
    np.testing.assert_array_equal(canonical(hu.transpose(2, 1, 0), affine()).hu[:, 252:260, 252:260], hu.clip(-1024))


@pytest.mark.parametrize(("count", "first"), [(3, 3), (4, 3), (10, 0), (11, 0)])
def test_the_middle_of_a_scan_has_as_many_slices_before_as_behind(count: int, first: int) -> None:
    hu = volume((10, 8, 8))
    scan = CTScan(10, (2.5, 0.7, 0.7), lambda a, b: hu[a:b], affine=affine(), labels=[f"slice {z}" for z in range(10)])
    middle = scan.middle(count)
    assert middle.slices == min(count, 10)
    np.testing.assert_array_equal(middle.planes(0, middle.slices), hu[first : first + count])
    assert (middle.name_slice(0), middle.affine_of()) == (f"slice {first}", None)


def test_below_air_becomes_air_and_values_are_rounded() -> None:
    hu = volume().astype(np.float64)
    hu[1, 5, 5], hu[1, 6, 6] = -3024, 12.6
    rounded = canonical(hu.transpose(2, 1, 0), affine()).hu
    assert rounded.dtype == np.int16
    assert rounded[1, 5, 5] == -1024
    assert rounded[1, 6, 6] == 13


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v, a: (v, _tilted(a, 18.5)), "tilted by 18.5 degrees"),
        (lambda v, a: (v, np.diag([-0.7, -5.0, 2.5, 1])), "not square"),
        (lambda v, a: (v, np.zeros((4, 4))), "singular"),
        (lambda v, a: (v * 0 + 100, a), "no HU"),
        (lambda v, a: (np.where(v == 1000, np.nan, v), a), "NaN"),
    ],
)
def test_what_is_no_axial_ct_is_refused(change, reason) -> None:  # type: ignore[no-untyped-def]
    voxels, matrix = change(volume().transpose(2, 1, 0), affine())
    with pytest.raises(ScanError, match=reason):
        canonical(voxels, matrix)


@pytest.mark.parametrize(
    ("degrees", "down", "is_axial"),
    [(0.95, 0.7, True), (-0.95, 0.7, True), (1.05, 0.7, False), (0, 0.7065, True), (0, 0.7075, False)],
)
def test_slices_may_be_tilted_by_a_degree_and_pixels_may_differ_by_a_hundredth(
    degrees: float, down: float, is_axial: bool
) -> None:
    matrix = _tilted(affine((2.5, down, 0.7)), degrees)
    with nullcontext() if is_axial else pytest.raises(ScanError, match=r"tilted by 1\.|not square"):
        assert Grid.of(matrix).spacing == pytest.approx((2.5, down, 0.7))


def _tilted(matrix: np.ndarray, degrees: float) -> np.ndarray:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]])
    return np.asarray(turn @ matrix)


@pytest.mark.parametrize("side", [511, 400, 513, 616])
def test_fit_keeps_the_centre(side: int) -> None:
    hu = volume((1, side, side))
    fitted = fit(hu)
    assert fitted.shape == (1, 512, 512)
    common = min(side, 512)
    offset, source = (512 - common + 1) // 2, (side - common) // 2
    np.testing.assert_array_equal(
        fitted[:, offset : offset + common, offset : offset + common],
        hu[:, source : source + common, source : source + common],
    )
    assert (fitted == -1024).sum() >= 512**2 - common**2


@pytest.mark.parametrize("method", ["crop", "resample"])
@pytest.mark.parametrize("plane", [(37, 37), (64, 41), (520, 515), (616, 616)])
def test_a_bright_spot_stays_where_it_was_in_the_patient(plane: tuple[int, int], method: Fit) -> None:
    rows, columns = plane
    hu = np.full((2, rows, columns), -1024, np.int16)
    spot = np.s_[rows // 2 + 3 : rows // 2 + 11, columns // 2 - 9 : columns // 2 + 3]
    hu[0, *spot], hu[1, *spot] = -900, 976
    position = np.array([[-0.7, 0, 0, 31.5], [0, -0.7, 0, -200.25], [0, 0, 2.5, 77], [0, 0, 0, 1]])
    scan = CTScan(2, (2.5, 0.7, 0.7), lambda start, stop: hu[start:stop], affine=position)
    fitted = scan.fitted(method)
    fitted_affine = fitted.affine_of()
    assert fitted_affine is not None
    np.testing.assert_allclose(_centre(fitted.load().hu, fitted_affine), _centre(hu, position), atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(fitted_affine[:3, :3], axis=0), fitted.spacing[::-1], rtol=1e-9)


def _centre(hu: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Where the centre of mass above air lies, mm."""
    weights = (hu.astype(float) + 1024).ravel()
    z, y, x = (axis.ravel() @ weights / weights.sum() for axis in np.indices(hu.shape))
    return np.asarray((position @ [x, y, z, 1])[:3])
