import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import UserError
from pipeline.sampling import Sampling, choose, cover, crop_centre, mirror

NAMES: tuple[Sampling, ...] = ("strided", "grouped", "window")


def test_strided_and_grouped_are_the_papers() -> None:
    generator = np.random.default_rng(0)
    assert choose("strided", 133, 32, generator).tolist() == [4 * i for i in range(32)]
    assert choose("grouped", 133, 16, generator).tolist() == list(range(58, 74))
    assert choose("grouped", 32, 32, generator).tolist() == list(range(32))


def test_window_reaches_both_ends() -> None:
    generator = np.random.default_rng(0)
    starts = {int(choose("window", 20, 16, generator)[0]) for _ in range(200)}
    assert starts == {0, 1, 2, 3, 4}


@given(slices=st.integers(1, 40), surplus=st.integers(0, 150), name=st.sampled_from(NAMES))
def test_cover_holds_every_slice_in_volumes_like_those_of_training(slices: int, surplus: int, name: Sampling) -> None:
    available = slices + surplus
    volumes = cover(name, available, slices)
    step = available // slices if name == "strided" else 1
    assert all(len(v) == slices and (np.diff(v) == step).all() for v in volumes)
    assert {int(i) for v in volumes for i in v} == set(range(available))


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(UserError, match="32 slices a volume were asked for, but a scan or slab has only 20"):
        cover("grouped", 20, 32)


def test_the_centre_of_a_plane_is_no_larger_than_the_plane() -> None:
    image = np.arange(2 * 6 * 8).reshape(2, 6, 8)
    assert np.array_equal(crop_centre(image, 4), image[:, 1:5, 2:6])
    assert np.array_equal(crop_centre(image, 6), image[:, :, 1:7])
    assert np.array_equal(crop_centre(image, 3), image[:, 1:4, 2:5])
    assert crop_centre(image, None) is image
    with pytest.raises(AssertionError, match=r"a plane of \(6, 8\) has no centre of 7"):
        crop_centre(image, 7)


def test_symmetries_of_a_plane_have_their_numbers() -> None:
    """By which samples of a seed stay what they are."""
    plane = np.arange(6).reshape(2, 3)
    mirrored = [plane, plane[::-1], plane[:, ::-1], np.rot90(plane, 2)]
    for number, expected in enumerate([*mirrored, *(image.T for image in mirrored)]):
        assert np.array_equal(mirror(plane, number), expected)
