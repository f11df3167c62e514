import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_prep.errors import UserError
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.dataset import PairSamples, RankBatches
from tests.pipeline.cells import cell

SEGMENT = Segment("toy", "a", 0, 48)


def samples(data: Path, seed: int = 0, stop: int = 48, dims: int = 3) -> PairSamples:
    return PairSamples(data, [Segment("toy", "a", 0, stop)], cell(dims), seed, 4)


def test_low_and_full_are_cut_at_the_same_place(make_pair: Callable[..., Path]) -> None:
    data = make_pair()
    pair = Pair(data / "toy" / "a.zarr")
    low, full, scales = samples(data)[7]
    assert low.shape == full.shape == (1, 16, 16, 16)
    assert scales.tolist() == [[0, 100], [0, 100]]
    assert len(_offsets(pair, full, low)) == 1


def _offsets(pair: Pair, full: torch.Tensor, low: torch.Tensor) -> list[tuple[int, int, int]]:
    arrays = [pair.read(name) for name in ("full_dose", "low_dose")]
    crops = [(x[0] * 100).round().numpy().astype(np.int16) for x in (full, low)]
    return [
        (z, y, x)
        for z in range(33) for y in range(49) for x in range(49)
        if all(a[z, y, x] == w[0, 0, 0] for a, w in zip(arrays, crops, strict=True))
        and all(np.array_equal(a[z : z + 16, y : y + 16, x : x + 16], w) for a, w in zip(arrays, crops, strict=True))
    ]  # fmt: skip


def test_a_sample_depends_on_seed_and_index_alone(make_pair: Callable[..., Path]) -> None:
    data = make_pair()
    first = samples(data)
    unpickled = pickle.loads(pickle.dumps(samples(data)))
    _ = unpickled[0], unpickled[1]
    assert torch.equal(first[5][0], unpickled[5][0])
    assert not torch.equal(first[5][0], first[6][0])
    assert not torch.equal(first[5][0], samples(data, seed=1)[5][0])


def test_crops_with_much_air_are_drawn_again(make_pair: Callable[..., Path]) -> None:
    """A toy chest fills half of its plane: more than half of the crops anywhere would have much air."""
    flat = PairSamples(make_pair(), [Segment("toy", "a", 0, 48)], cell(2, crop=16), 0, 200)
    air = np.array([float((flat[i][1] < -9.5).float().mean()) for i in range(200)])
    assert (air > 0.25).sum() < 10
    assert air.max() > 0  # the rim of the body is not left out


def _symmetries(images: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(images, quarters, (-2, -1)) for quarters in range(4)]
    return [*turned, *(np.flip(image, -1) for image in turned)]


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_flips_draw_all_symmetries_of_the_square_alike_for_both_doses(
    make_pair: Callable[..., Path], dims: int
) -> None:
    data, drawn = make_pair(), set[int]()
    plain, flipped = (PairSamples(data, [SEGMENT], cell(dims, flips=flips), 0, 40) for flips in (False, True))
    for index in range(40):
        same = [
            [np.array_equal(image, flipped[index][dose].numpy()) for image in _symmetries(plain[index][dose].numpy())]
            for dose in (0, 1)
        ]
        assert same[0] == same[1]
        assert sum(same[0]) == 1
        drawn.add(same[0].index(True))
    assert drawn == set(range(8))
    assert flipped[3][0].is_contiguous()


def test_planes_that_are_no_squares_are_mirrored_and_not_turned(make_pair: Callable[..., Path]) -> None:
    samples = PairSamples(make_pair(), [SEGMENT], cell(2, crop=None, flips=True), 0, 1)
    plane = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 1, 3, 4)
    mirrored = [plane, plane[..., ::-1, :], plane[..., ::-1], plane[..., ::-1, ::-1]]
    drawn = [samples._flip(plane, np.random.default_rng(seed)) for seed in range(30)]
    assert {next(i for i, image in enumerate(mirrored) if np.array_equal(image, x)) for x in drawn} == set(range(4))


def test_without_flips_and_in_validation_only_slices_and_crop_are_drawn(make_pair: Callable[..., Path]) -> None:
    """So the samples of a seed are those that they were before there were flips."""
    data = make_pair()
    pair = Pair(data / "toy" / "a.zarr")
    arrays = np.stack([pair.read(name) for name in ("low_dose", "full_dose")])
    trained = PairSamples(data, [SEGMENT], cell(flips=False), 7, 4)
    validated = PairSamples(data, [SEGMENT], cell(flips=True), 7, 4, validating=True)
    for index in range(6):
        generator = np.random.default_rng((7, index))
        start = generator.integers(48 - 16 + 1)
        for _ in range(8):
            top, left = generator.integers(64 - 16 + 1), generator.integers(64 - 16 + 1)
            cropped = arrays[:, start : start + 16, top : top + 16, left : left + 16]
            if (cropped[1] < -950).mean() < 0.25:
                break
        for samples in (trained, validated):
            for dose in (0, 1):
                assert np.array_equal((100 * samples[index][dose][0]).round().numpy(), cropped[dose])


def test_samples_stay_inside_their_segment(make_pair: Callable[..., Path]) -> None:
    data = make_pair(slices=48)
    inside = PairSamples(data, [Segment("toy", "a", 20, 36)], cell(), 0, 4)
    full = Pair(data / "toy" / "a.zarr").read("full_dose", 20, 36)
    values = (inside[3][1][0] * 100).round().numpy()
    assert any(np.array_equal(values, full[:, y : y + 16, x : x + 16]) for y in range(49) for x in range(49))


def test_every_epoch_visits_every_segment(make_pair: Callable[..., Path]) -> None:
    data = make_pair("a")
    make_pair("b", seed=1)
    two_scans = PairSamples(data, [Segment("toy", name, 0, 48) for name in "ab"], cell(), 0, 2)
    for epoch in range(5):
        assert {two_scans.segment(2 * epoch + i).scan for i in range(2)} == {"a", "b"}


def test_an_epoch_that_ends_within_a_round_of_the_segments_starts_another_order(tmp_path: Path) -> None:
    """Each epoch goes through an order of its own from the start, again and again."""
    numbers = PairSamples(tmp_path, [Segment("toy", str(number), 0, 48) for number in range(5)], cell(), 0, 7)
    epochs = [[int(numbers.segment(7 * epoch + i).scan) for i in range(7)] for epoch in range(9)]
    assert all(sorted(epoch[:5]) == [*range(5)] and epoch[5:] == epoch[:2] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 6


def test_a_validation_samples_slices_in_its_own_way(make_pair: Callable[..., Path]) -> None:
    """Of a 2D network in volumes of the study, such as those around the middle of the scan."""
    data = make_pair(slices=48)
    settings = cell(2, crop=None).model_copy(update={"validated_sampling": "grouped"})
    validated = PairSamples(data, [Segment("toy", "a", 0, 48)], settings, 0, 4, validating=True)
    middle = Pair(data / "toy" / "a.zarr").read("full_dose", 16, 32)
    for index in range(4):
        assert np.array_equal((validated[index][1] * 100).round().numpy(), middle)


@pytest.mark.parametrize(("size", "batch"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_the_global_order_of_samples_is_the_same_for_every_world(size: int, batch: int) -> None:
    steps = 16 // (size * batch)
    ranks = [list(RankBatches(0, steps, batch, rank, size)) for rank in range(size)]
    order = [i for step in range(steps) for rank in ranks for i in rank[step]]
    assert order == list(range(16))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_changes_nothing(make_pair: Callable[..., Path], workers: int) -> None:
    chosen = samples(make_pair())
    loader = DataLoader(chosen, batch_sampler=RankBatches(2, 5, 2, 0, 1), num_workers=workers)
    batches = list(loader)
    assert [len(batch[0]) for batch in batches] == [2, 2, 2]
    assert torch.equal(batches[0][0][0], chosen[4][0])


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_workers_read_after_their_parent_has_read(make_pair: Callable[..., Path], context: str) -> None:
    chosen = samples(make_pair())
    expected = chosen[1][0]
    fresh = PairSamples(chosen.data, chosen.segments, chosen.cell, 0, 4)
    for dataset in (chosen, fresh):
        batches = list(DataLoader(dataset, batch_sampler=[[0], [1]], num_workers=2,
                                  multiprocessing_context=context, timeout=60))  # fmt: skip
        assert torch.equal(batches[1][0][0], expected)


def test_decoded_slices_are_remembered_up_to_a_bound(
    make_pair: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_pair()
    expected = [samples(data)[i] for i in range(8)]
    monkeypatch.setattr("pipeline.slices.CACHED_SLICES", 20)
    bounded = samples(data)
    for i in range(8):
        assert all(torch.equal(a, b) for a, b in zip(bounded[i], expected[i], strict=True))
        assert 16 <= len(bounded._reader._decoded) <= 20
    assert len(pickle.dumps(bounded)) < 10_000
    shutil.rmtree(data / "toy")
    assert torch.equal(bounded[7][0], expected[7][0])
    with pytest.raises(UserError, match="does not hold what was written"):
        pickle.loads(pickle.dumps(bounded))[7]


def test_two_dimensions_and_paper_scaling(make_pair: Callable[..., Path]) -> None:
    data = make_pair()
    low, _, _ = samples(data, dims=2)[0]
    assert low.shape == (1, 16, 16)
    uncropped = PairSamples(data, [Segment("toy", "a", 0, 48)], cell(crop=None, scaling="minmax"), 0, 1)[0]
    assert [(float(x.min()), float(x.max())) for x in uncropped[:2]] == [(0, 1), (0, 1)]


def test_short_segments_are_refused(make_pair: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="16 slices a volume were asked for, but a scan or slab has only 12"):
        samples(make_pair(), stop=12)
    later = [Segment("toy", "a", 0, 48), Segment("toy", "b", 0, 12)]
    with pytest.raises(UserError, match="a scan or slab has only 12"):
        PairSamples(make_pair(), later, cell(), 0, 2)


def test_a_part_without_scans_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scan to train or validate on: see data\.split"):
        PairSamples(tmp_path, [], cell(), 0, 2)
