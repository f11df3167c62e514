"""Doses of training samples: drawn among those of a pair, validated on each, and told to a network."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from data_prep.partners import FULL_DOSE
from data_prep.store import Pair
from pipeline.doses import DoseChoice
from pipeline.evaluate.denoisers import load_denoiser
from pipeline.settings.told_dose import check_dose
from pipeline.settings.training import TrainingSettings
from pipeline.slices import Fresh
from tests.pipeline.cells import cell
from tests.pipeline.doses import EVALUATE, origin_of, samples
from tests.pipeline.trainings import run


@pytest.mark.parametrize("dims", [2, 3])
def test_each_sample_draws_one_of_the_low_doses_by_seed_and_index(data: Path, dims: int) -> None:
    pair, drawn = Pair(data / "toy" / "a.zarr"), samples(data, dims)
    origins = [origin_of(pair, drawn[index]) for index in range(48)]
    counts = Counter(array for array, _ in origins)
    assert set(counts) == {partner.array for partner in pair.partners}
    assert min(counts.values()) >= 5
    assert [origin_of(pair, samples(data, dims)[index]) for index in (47, 3)] == [origins[47], origins[3]]
    chosen = samples(data, dims, doses=0.25)
    special = [origin_of(pair, chosen[index]) for index in range(48)]
    assert {array for array, _ in special} == {"low_dose_0.25_1", "low_dose_0.25_2"}
    assert [z for _, z in special] == [z for _, z in origins]  # the same slices, whatever the doses


def test_a_dose_does_not_depend_on_the_slices_that_are_drawn_beside_it(data: Path) -> None:
    """In a 2D sample of 48 slices."""
    choice = DoseChoice(TrainingSettings(), 3, 400, 1, validating=False)
    slices: dict[object, list[int]] = {}
    for index in range(400):
        slices.setdefault(choice.choose(data / "toy" / "a.zarr", index), []).append(
            int(np.random.default_rng((3, index)).integers(48))
        )
    assert len(slices) == 4
    assert all(18 < np.mean(drawn) < 29 for drawn in slices.values())  # of 100 slices within 1.4 of 23.5 (SD)


def test_fresh_noise_is_another_for_each_seed_and_validated_where_none_is_stored(data: Path) -> None:
    path, training = data / "toy" / "a.zarr", TrainingSettings(fresh=True, doses=(0.05, 0.1))
    drawn = [{DoseChoice(training, seed, 9, 1, validating=False).choose(path, index) for index in range(9)}
             for seed in (0, 1)]  # fmt: skip
    assert [len(low_doses) for low_doses in drawn] == [2, 2]
    assert not drawn[0] & drawn[1]
    validated = DoseChoice(training, 0, 9, 1, validating=True).validated(path)
    assert [(low_dose.dose, isinstance(low_dose, Fresh)) for low_dose in validated] == [(0.05, False), (0.1, True)]


def test_validation_goes_through_the_low_doses_of_each_segment_in_turn(data: Path) -> None:
    pair, judged = Pair(data / "toy" / "a.zarr"), samples(data, 3, validating=True)
    origins = [origin_of(pair, judged[index]) for index in range(8)]
    assert len({(array, z >= 24) for array, z in origins}) == 8
    assert origins[0][0] != origins[1][0]  # nor are as many samples as segments all of one low dose


@pytest.mark.parametrize(("doses", "count"), [(None, 2), (0.25, 1)])
def test_validation_by_scans_judges_every_slice_at_every_dose(
    data: Path, tmp_path: Path, doses: float | None, count: int
) -> None:
    pair = Pair(data / "toy" / "a.zarr")
    settings = cell(2, epochs=1, samples=1, validation="scans", doses=doses)
    validation = run(settings, data, tmp_path / "cell")["validation"]
    full = pair.read(FULL_DOSE, 24, 40).astype(float)  # the validation part
    lows = [pair.read(p.array, 24, 40) - full for p in pair.partners if p.realisation == 1 and doses in (None, p.dose)]
    assert len(lows) == count
    assert validation["low_dose_rmse_hu"] == pytest.approx(np.sqrt(np.square(lows).mean()), rel=1e-12)


@pytest.mark.parametrize(("training", "doses"), [({}, [0.05, 0.25]), ({"doses": 0.25}, [0.25])])
def test_whole_scans_are_validated_at_each_dose_to_train_on(
    data: Path, tmp_path: Path, training: dict[str, Any], doses: list[float]
) -> None:
    result = run(cell(2, validation="scans", epochs=1, **training), data, tmp_path / "cell")
    pair = Pair(data / "toy" / "a.zarr")
    full = pair.read(FULL_DOSE, 24, 40).astype(float)
    errors = [np.mean((pair.read(f"low_dose_{dose}_1", 24, 40) - full) ** 2) for dose in doses]
    assert result["validation"]["low_dose_rmse_hu"] == pytest.approx(np.sqrt(np.mean(errors)))


@pytest.mark.slow
def test_a_network_that_is_told_the_dose_sees_noise_of_one_strength(data: Path, tmp_path: Path) -> None:
    for index in range(12):
        plain, with_dose = (samples(data, tell_dose=tell)[index] for tell in (False, True))
        dose = 0.05 if origin_of(Pair(data / "toy" / "a.zarr"), plain)[0].startswith("low_dose_0.05") else 0.25
        factor = np.sqrt(0.1 / dose)
        torch.testing.assert_close(with_dose[0] * factor, plain[0])
        torch.testing.assert_close(with_dose[1] * factor, plain[1])
        torch.testing.assert_close(with_dose[2][:, 1], plain[2][:, 1] * factor)  # so errors are in HU all the same
    settings = cell(2, tell_dose=True, validation="scans", epochs=1, learning_rate=1e-2)
    validation = run(settings, data, tmp_path / "cell")["validation"]
    shipped = load_denoiser(settings, tmp_path / "cell", EVALUATE)
    pair = Pair(data / "toy" / "a.zarr")
    full = pair.read(FULL_DOSE, 24, 40).astype(float)
    errors = [np.mean((shipped(pair.read(f"low_dose_{dose}_1", 24, 40), dose) - full) ** 2) for dose in (0.05, 0.25)]
    assert validation["rmse_hu"] == pytest.approx(np.sqrt(np.mean(errors)))
    low = pair.read("low_dose_0.25_1", 24, 40)
    assert np.any(shipped(low, 0.25) != shipped(low, 0.05))
    with pytest.raises(UserError, match="was trained to be told the dose: say it with --dose"):
        shipped(low, None)


def test_a_user_gives_the_dose_where_it_has_an_effect() -> None:
    with_dose, plain = TrainingSettings(tell_dose=True), TrainingSettings()
    check_dose(with_dose, 0.3)
    check_dose(plain, None)
    for training, dose, message in (
        (with_dose, None, "say it with --dose"),
        (plain, 0.3, "--dose has no effect"),
        (with_dose, 0.0, "--dose 0 is no fraction of the full dose"),
    ):
        with pytest.raises(UserError, match=message):
            check_dose(training, dose)
