"""Noise that is simulated anew where a sample is read, by the record of its pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.group_writer import writing_group
from data_prep.lowdose.model import NoiseModel, named_model
from data_prep.lowdose.recorded import recorded_simulator
from data_prep.partners import FULL_DOSE
from data_prep.settings import LowDoseSettings
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.dataset import PairSamples, RankBatches
from pipeline.doses import DoseChoice
from pipeline.settings.training import TrainingSettings
from pipeline.slices import Fresh, SliceReader
from tests.pipeline.cells import cell
from tests.pipeline.doses import PIXEL, SETTINGS, SIDE, origin_of, samples, write_doses
from tests.pipeline.trainings import Halted, Trained, assert_same_losses, losses, run, train_ranks
from tests.scans import chest


@pytest.mark.parametrize("dims", [2, 3])
def test_fresh_noise_is_new_in_each_epoch_and_the_same_within_it(data: Path, dims: int) -> None:
    segments, settings = [Segment("toy", "a", 0, 16)], cell(dims, crop=None, fresh=True, doses=0.25)
    first, reread = (PairSamples(data, segments, settings, 3, 40) for _ in range(2))
    pair = Pair(data / "toy" / "a.zarr")
    by_slice: dict[int, list[torch.Tensor]] = {}
    for index in range(40 if dims == 2 else 3):
        array, z = origin_of(pair, first[index])
        assert array == ""  # none that is stored
        by_slice.setdefault(z, []).append(first[index][0])
    assert all(torch.equal(low, lows[0]) for lows in by_slice.values() for low in lows)
    revisit = next(index for index in range(40, 80) if origin_of(pair, first[index])[1] in by_slice)
    z = origin_of(pair, first[revisit])[1]
    assert torch.equal(first[revisit][1], next(first[i][1] for i in range(40) if origin_of(pair, first[i])[1] == z))
    noise = [(low - first[revisit][1]).numpy().ravel() for low in (by_slice[z][0], first[revisit][0])]
    assert abs(np.corrcoef(noise)[0, 1]) < 0.1
    assert torch.equal(reread[revisit][0], first[revisit][0])  # without what was read before


def fresh(path: Path, dose: float, chosen: list[int], *, single: bool = False) -> NDArray[np.float64]:
    low, full = SliceReader(single=single).read(path, Fresh(dose, f"{dose}/x"), chosen)
    return np.asarray(low.astype(float) - full)


def test_fresh_noise_has_the_statistics_of_the_stored_one(data: Path) -> None:
    path = data / "toy" / "a.zarr"
    pair, inside = Pair(path), np.s_[:, 20:44, 20:44]
    full = pair.read(FULL_DOSE).astype(float)
    for dose in (0.05, 0.25):
        stored = (pair.read(f"low_dose_{dose}_1") - full)[inside]
        anew = fresh(path, dose, list(range(48)))[inside]
        assert anew.std() == pytest.approx(stored.std(), rel=0.03)
        assert abs(np.corrcoef(anew.ravel(), stored.ravel())[0, 1]) < 0.03
        neighbours = [np.corrcoef(x[1:].ravel(), x[:-1].ravel())[0, 1] for x in (anew, stored)]
        assert neighbours == pytest.approx([0.3, 0.3], abs=0.04)
    between = fresh(path, 0.1, list(range(48)))[inside].std()  # a dose that is not stored
    assert between / fresh(path, 0.25, list(range(48)))[inside].std() == pytest.approx(np.sqrt(9 / 3), rel=0.03)


def test_a_slice_has_the_same_fresh_noise_whatever_is_read_with_it(data: Path) -> None:
    path = data / "toy" / "a.zarr"
    noise = fresh(path, 0.25, list(range(16)))
    np.testing.assert_array_equal(fresh(path, 0.25, [3, 4, 9]), noise[[3, 4, 9]])
    reader, low_dose = SliceReader(single=False), Fresh(0.25, "0.25/x")
    reader.read(path, low_dose, [0, 2, 4, 6, 8])
    low, full = reader.read(path, low_dose, list(range(16)))
    np.testing.assert_array_equal(low.astype(float) - full, noise)
    alone = fresh(path, 0.25, list(range(16)), single=True)
    assert np.abs(alone - noise).max() <= 1  # a last bit that is rounded otherwise


def test_a_noise_model_comes_back_from_its_record() -> None:
    model = NoiseModel(SETTINGS.geometry.model_copy(update={"channels": 400}), 3e5, named_model(SETTINGS).apodisation,
                       0.2, (0.8, 0.6), (2.0, 9.0), (1.1, 0.9))  # fmt: skip
    assert NoiseModel.from_record(model.as_record(), SETTINGS.geometry) == model
    assert LowDoseSettings.from_record(SETTINGS.as_record()) == SETTINGS
    assert LowDoseSettings.from_record(SETTINGS.at(0.1).as_record()) == SETTINGS.at(0.1)


def test_a_single_stored_dose_is_simulated_anew_at_any(tmp_path: Path) -> None:
    path = write_doses(tmp_path, SETTINGS.at(0.1))
    assert [partner.array for partner in Pair(path).partners] == ["low_dose"]
    assert recorded_simulator(Pair(path), 0.3).settings.dose == 0.3
    drawn = DoseChoice(TrainingSettings(fresh=True), 0, 4, 1, validating=False).choose(path, 0)
    assert isinstance(drawn, Fresh)
    assert drawn.dose == 0.1


def test_what_cannot_be_drawn_or_simulated_is_refused_before_the_training(tmp_path: Path) -> None:
    write_doses(tmp_path)
    with pytest.raises(UserError, match=r"has none of training\.doses 0\.1: store one of them"):
        samples(tmp_path, doses=0.1)
    path = write_doses(tmp_path / "old", SETTINGS.at(0.1))
    with writing_group(path, [FULL_DOSE, "low_dose"], (48, SIDE, SIDE), (2.5, PIXEL, PIXEL)) as writer:
        writer.write(*[chest(48, SIDE)] * 2)
        writer.close({"low_dose": "measured"})
    with pytest.raises(UserError, match=r"has a measured low dose, which training\.fresh cannot simulate"):
        samples(tmp_path / "old", fresh=True)


FRESH: dict[str, Any] = {"fresh": True, "doses": [0.05, 0.1], "crop": 32, "batch": 1, "samples": 4, "epochs": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "stop_at"), [(2, 3), (2, 6), (3, 5)])
def test_a_training_on_fresh_noise_goes_on_to_the_same_losses(
    data: Path, trained: Trained, tmp_path: Path, dims: int, stop_at: int
) -> None:
    settings = cell(dims, checkpoint_minutes=1e-9, **FRESH)
    uninterrupted, _ = trained(settings)
    with pytest.raises(Halted):
        run(settings, data, tmp_path, stop_at)
    run(settings, data, tmp_path)
    assert_same_losses(tmp_path, uninterrupted)
    stored, _ = trained(cell(dims, **{**FRESH, "fresh": False, "doses": [0.05]}))
    assert losses(stored) != losses(uninterrupted)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_sample_of_fresh_noise_has_the_same_bits_on_any_number_of_ranks(data: Path, dims: int) -> None:
    """Each rank reads its own samples, in another order and with other ones in memory."""
    by_ranks = []
    for ranks in (1, 2, 4):
        drawn = dict[int, tuple[torch.Tensor, ...]]()
        for rank in range(ranks):
            read = samples(data, dims, fresh=True, flips=True)
            for batch in RankBatches(0, 16 // ranks // 2, 2, rank, ranks):
                drawn |= {index: read[index] for index in batch}
        assert sorted(drawn) == list(range(16))  # two epochs
        by_ranks.append(drawn)
    for index, sample in by_ranks[0].items():
        for drawn in by_ranks[1:]:
            assert all(map(torch.equal, drawn[index], sample))


@pytest.mark.slow
@pytest.mark.ranks
def test_ranks_train_on_the_fresh_noise_of_one(data: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {**FRESH, "ms_ssim_weight": 0.0, "learning_rate": 1e-4}
    run(cell(2, **{**common, "batch": 2}), data, tmp_path / "one")
    train_ranks(cell(2, ranks=2, **common), data, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
