"""Doses of training samples: drawn among those of a pair, or simulated anew in each epoch."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.group_writer import writing_group
from data_prep.lowdose.model import NoiseModel, named_model
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.lowdose.recorded import recorded_simulator
from data_prep.partners import FULL_DOSE
from data_prep.settings import LowDoseSettings
from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.dataset import PairSamples, RankBatches
from pipeline.doses import DoseChoice
from pipeline.evaluate.denoisers import identity, load_denoiser, tune_classical
from pipeline.evaluate.judgement import evaluate
from pipeline.inference.trained_noise import describe_training, rows_at
from pipeline.report.doses import at_lowest, doses_table
from pipeline.report.quality_tables import judged_table, quality_tables
from pipeline.settings.run import EvaluateSettings
from pipeline.settings.told_dose import check_dose
from pipeline.settings.training import TrainingSettings
from pipeline.slices import Fresh, SliceReader
from tests.pipeline.cells import cell
from tests.pipeline.runs import SCAN_VALUES, SLICE_VALUES
from tests.pipeline.trainings import Halted, assert_same_losses, losses, run, train_ranks
from tests.scans import chest

SETTINGS = LowDoseSettings.model_validate({
    "doses": [0.05, 0.25], "realisations": 2, "photons": 2e5, "z_correlation": [0.3, 0.1],
    "geometry": {"views": 288, "channels": 368, "channel_arc_mm": 2.5716},
})  # fmt: skip
SIDE, PIXEL = 64, 5.0  # a body as large as a real one absorbs as much


def write_doses(
    data: Path, settings: LowDoseSettings = SETTINGS, slices: int = 48, side: int = SIDE, pixel: float = PIXEL
) -> Path:
    """Write a toy pair with the low doses of these settings; return its path."""
    path, full = data / "toy" / "a.zarr", chest(slices, side)
    lows, models = dict[str, Any](), dict[float | None, Any]()
    for partner in settings.partners:
        assert partner.dose
        simulator = LowDoseSimulator(settings.at(partner.dose), side, pixel)
        lows[partner.array] = simulator.low_dose(full, "a", 0, partner.draw)
        models[partner.dose] = simulator.model.as_record()
    several = [{**asdict(partner), "noise_model": models[partner.dose]} for partner in settings.partners]
    listed = {"partners": several} if len(several) > 1 else {"noise_model": several[0]["noise_model"]}
    with writing_group(path, [FULL_DOSE, *lows], full.shape, (2.5, pixel, pixel)) as writer:
        writer.write(full, *lows.values())
        writer.close({"low_dose": settings.as_record(), **listed})
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_doses(tmp_path / "data")
    return tmp_path / "data"


def samples(data: Path, dims: int = 2, per_epoch: int = 8, *, validating: bool = False, **training: Any) -> PairSamples:
    segments = [Segment("toy", "a", 0, 24), Segment("toy", "a", 24, 48)]
    return PairSamples(data, segments, cell(dims, crop=None, **training), 3, per_epoch, validating=validating)


def place_of(pair: Pair, sample: tuple[torch.Tensor, ...]) -> tuple[str, int]:
    """The array and the first slice that a sample's low dose is from."""
    low, full = ((100 * x.squeeze()).round().numpy().astype(np.int16) for x in sample[:2])
    low, full = (x if x.ndim == 3 else x[None] for x in (low, full))
    (first,) = [z for z in range(49 - len(full)) if np.array_equal(pair.read(FULL_DOSE, z, z + len(full)), full)]
    matches = [p.array for p in pair.partners if np.array_equal(pair.read(p.array, first, first + len(low)), low)]
    return (matches or [""])[0], first


@pytest.mark.parametrize("dims", [2, 3])
def test_each_sample_draws_one_of_the_low_doses_by_seed_and_index(data: Path, dims: int) -> None:
    pair, drawn = Pair(data / "toy" / "a.zarr"), samples(data, dims)
    places = [place_of(pair, drawn[index]) for index in range(48)]
    counts = Counter(array for array, _ in places)
    assert set(counts) == {partner.array for partner in pair.partners}
    assert min(counts.values()) >= 5
    assert [place_of(pair, samples(data, dims)[index]) for index in (47, 3)] == [places[47], places[3]]
    chosen = samples(data, dims, doses=0.25)
    special = [place_of(pair, chosen[index]) for index in range(48)]
    assert {array for array, _ in special} == {"low_dose_0.25_1", "low_dose_0.25_2"}
    assert [z for _, z in special] == [z for _, z in places]  # the same slices, whatever the doses


def test_validation_goes_through_the_low_doses_of_each_segment_in_turn(data: Path) -> None:
    pair, judged = Pair(data / "toy" / "a.zarr"), samples(data, 3, validating=True)
    places = [place_of(pair, judged[index]) for index in range(8)]
    assert len({(array, z >= 24) for array, z in places}) == 8


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


@pytest.mark.parametrize("dims", [2, 3])
def test_fresh_noise_is_new_in_each_epoch_and_the_same_within_it(data: Path, dims: int) -> None:
    segments, settings = [Segment("toy", "a", 0, 16)], cell(dims, crop=None, fresh=True, doses=0.25)
    first, again = (PairSamples(data, segments, settings, 3, 40) for _ in range(2))
    pair = Pair(data / "toy" / "a.zarr")
    by_slice: dict[int, list[torch.Tensor]] = {}
    for index in range(40 if dims == 2 else 3):
        array, z = place_of(pair, first[index])
        assert array == ""  # none that is stored
        by_slice.setdefault(z, []).append(first[index][0])
    assert all(torch.equal(low, lows[0]) for lows in by_slice.values() for low in lows)
    later = next(index for index in range(40, 80) if place_of(pair, first[index])[1] in by_slice)
    z = place_of(pair, first[later])[1]
    assert torch.equal(first[later][1], next(first[i][1] for i in range(40) if place_of(pair, first[i])[1] == z))
    noise = [(low - first[later][1]).numpy().ravel() for low in (by_slice[z][0], first[later][0])]
    assert abs(np.corrcoef(noise)[0, 1]) < 0.1
    assert torch.equal(again[later][0], first[later][0])  # without what was read before


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
    whole = fresh(path, 0.25, list(range(16)))
    np.testing.assert_array_equal(fresh(path, 0.25, [3, 4, 9]), whole[[3, 4, 9]])
    reader, low_dose = SliceReader(single=False), Fresh(0.25, "0.25/x")
    reader.read(path, low_dose, [0, 2, 4, 6, 8])
    low, full = reader.read(path, low_dose, list(range(16)))
    np.testing.assert_array_equal(low.astype(float) - full, whole)
    alone = fresh(path, 0.25, list(range(16)), single=True)
    assert np.abs(alone - whole).max() <= 1  # a last bit that is rounded otherwise


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


@pytest.mark.parametrize(("dims", "stop_at"), [(2, 3), (2, 6), (3, 5)])
def test_a_training_on_fresh_noise_goes_on_to_the_same_losses(
    data: Path, tmp_path: Path, dims: int, stop_at: int
) -> None:
    settings = cell(dims, checkpoint_minutes=1e-9, **FRESH)
    run(settings, data, tmp_path / "whole")
    with pytest.raises(Halted):
        run(settings, data, tmp_path / "halted", stop_at)
    run(settings, data, tmp_path / "halted")
    assert_same_losses(tmp_path / "halted", tmp_path / "whole")
    run(cell(dims, **{**FRESH, "fresh": False, "doses": [0.05]}), data, tmp_path / "stored")
    assert losses(tmp_path / "stored") != losses(tmp_path / "whole")


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


@pytest.mark.ranks
def test_ranks_train_on_the_fresh_noise_of_one(data: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {**FRESH, "ms_ssim_weight": 0.0, "learning_rate": 1e-4}
    run(cell(2, **{**common, "batch": 2}), data, tmp_path / "one")
    train_ranks(cell(2, ranks=2, **common), data, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


HOW = EvaluateSettings(device="cpu", threads=1)
PARTS: dict[Part, list[Segment]] = {"test": [Segment("toy", "a", 0, 8)], "validation": [Segment("toy", "a", 8, 24)]}


def test_each_dose_is_judged_and_classical_denoisers_are_tuned_at_each(tmp_path: Path) -> None:
    noisy = SETTINGS.model_copy(update={"photons": 1e4})
    path = write_doses(tmp_path, noisy, slices=24, side=192, pixel=1.7)
    denoiser, strengths = tune_classical("tv", tmp_path, PARTS["validation"], HOW)
    assert list(strengths) == [0.05, 0.25]
    assert strengths[0.05] > strengths[0.25]
    errors = {}
    for name, judged in (("low", identity(HOW)), ("tv", denoiser)):
        errors[name] = evaluate(judged, tmp_path, PARTS, HOW, tmp_path / name, lambda done, total, note: None)
    rows, scans = (json.loads((tmp_path / f"low{end}").read_text()) for end in (".json", ".scans.json"))
    assert [(row["dose"], row["slice"]) for row in rows] == [(dose, z) for dose in (0.05, 0.25) for z in range(8)]
    assert [(row["part"], row["dose"]) for row in scans] == [
        ("test", 0.05), ("test", 0.25), ("validation", 0.05), ("validation", 0.25)
    ]  # fmt: skip
    pair = Pair(path)
    full = pair.read(FULL_DOSE, 0, 8).astype(float)
    for row in scans[:2]:
        low = pair.read(f"low_dose_{row['dose']}_1", 0, 8)
        assert row["rmse_hu"] == pytest.approx(np.sqrt(np.mean((low - full) ** 2)))
    for dose in ("0.05", "0.25"):
        assert errors["tv"]["rmse_hu"][dose] < errors["low"]["rmse_hu"][dose]
    with pytest.raises(UserError, match=r"tv has no strength for measured low doses"):
        denoiser(pair.read(FULL_DOSE, 0, 1), None)


def test_tables_never_average_over_doses(tmp_path: Path) -> None:
    """Two doses with errors of 40 and 10 HU: each has its own rows, input and verdict."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "data").mkdir()
    kept = {"dataset": "toy", "scan": "a", "subject": "p", "state": "kept", "low_dose": "simulated"}
    pd.DataFrame([kept]).to_csv(tmp_path / "data" / "manifest.csv", index=False)
    for model, factor in (("low-dose", 1.0), ("tv", 0.8), ("2d", 0.5)):
        rows = [{"dataset": "toy", "scan": "a", "slice": z, "dose": dose, **SLICE_VALUES, "rmse_hu": factor * error + z}
                for dose, error in ((0.05, 40.0), (0.25, 10.0)) for z in (-1, 1)]  # fmt: skip
        (tmp_path / "evaluation" / f"{model}.json").write_text(json.dumps(rows))
        scans = [{"part": "test", "dataset": "toy", "scan": "a", "dose": dose, "slices": 2, "seconds": 1.0,
                  "noise_blocks": 4, **SCAN_VALUES, "rmse_hu": factor * error, "nps": [[0.1], [error]]}
                 for dose, error in ((0.05, 40.0), (0.25, 10.0))]  # fmt: skip
        (tmp_path / "evaluation" / f"{model}.scans.json").write_text(json.dumps(scans))
    judged = judged_table(tmp_path, ["low-dose", "tv", "2d"])
    tables = quality_tables(tmp_path, ["low-dose", "tv", "2d"], judged)
    quality = tables["quality"].set_index(["dose", "model"])
    assert quality["rmse_hu_mean"].to_dict() == {
        (0.05, "low-dose"): 40, (0.05, "tv"): 32, (0.05, "2d"): 20,
        (0.25, "low-dose"): 10, (0.25, "tv"): 8, (0.25, "2d"): 5,
    }  # fmt: skip
    assert quality["rmse_hu_scans"].equals(quality["rmse_hu_mean"])
    assert quality["rmse_change"].xs("2d", level="model").tolist() == [-0.5, -0.5]
    for name in ("quality_datasets", "quality_tests", "nps"):
        assert set(tables[name]["dose"]) == {0.05, 0.25}
    assert tables["nps"].set_index(["dose", "model"])["nps"][0.25, "tv"] == 10
    assert [text.split("(1 scan")[0] for text in tables["quality_verdicts"]["verdict"]] == [
        f"On the test part of toy with simulated low dose of {dose} % " for dose in (5, 25)
    ]
    doses = doses_table(tables["quality"], [cell(2, doses=0.25).model_copy(update={"id": "2d"})], (0.05, 0.25))
    assert doses[["model", "dose", "seen"]].to_numpy().tolist() == [
        ["low-dose", 0.05, "-"], ["low-dose", 0.25, "-"], ["tv", 0.05, "-"], ["tv", 0.25, "-"],
        ["2d", 0.05, "no"], ["2d", 0.25, "yes"],
    ]  # fmt: skip
    assert at_lowest(judged)["rmse_hu"].max() == 41
    single = tables["quality"][tables["quality"]["dose"] == 0.25]
    assert doses_table(single, [], (0.25,)).empty


@pytest.mark.parametrize(("training", "doses"), [({}, [0.05, 0.25]), ({"doses": 0.25}, [0.25])])
def test_whole_scans_are_validated_at_each_dose_to_train_on(
    data: Path, tmp_path: Path, training: dict[str, Any], doses: list[float]
) -> None:
    result = run(cell(2, validation="scans", epochs=1, **training), data, tmp_path / "cell")
    pair = Pair(data / "toy" / "a.zarr")
    full = pair.read(FULL_DOSE, 24, 40).astype(float)
    errors = [np.mean((pair.read(f"low_dose_{dose}_1", 24, 40) - full) ** 2) for dose in doses]
    assert result["validation"]["low_dose_rmse_hu"] == pytest.approx(np.sqrt(np.mean(errors)))


def test_a_network_that_is_told_the_dose_sees_noise_of_one_strength(data: Path, tmp_path: Path) -> None:
    for index in range(12):
        plain, told = (samples(data, tell_dose=tell)[index] for tell in (False, True))
        dose = 0.05 if place_of(Pair(data / "toy" / "a.zarr"), plain)[0].startswith("low_dose_0.05") else 0.25
        factor = np.sqrt(0.1 / dose)
        torch.testing.assert_close(told[0] * factor, plain[0])
        torch.testing.assert_close(told[1] * factor, plain[1])
        torch.testing.assert_close(told[2][:, 1], plain[2][:, 1] * factor)  # so errors are in HU all the same
    settings = cell(2, tell_dose=True, validation="scans", epochs=1, learning_rate=1e-2)
    validation = run(settings, data, tmp_path / "cell")["validation"]
    shipped = load_denoiser(settings, tmp_path / "cell", HOW)
    pair = Pair(data / "toy" / "a.zarr")
    full = pair.read(FULL_DOSE, 24, 40).astype(float)
    errors = [np.mean((shipped(pair.read(f"low_dose_{dose}_1", 24, 40), dose) - full) ** 2) for dose in (0.05, 0.25)]
    assert validation["rmse_hu"] == pytest.approx(np.sqrt(np.mean(errors)))
    low = pair.read("low_dose_0.25_1", 24, 40)
    assert np.any(shipped(low, 0.25) != shipped(low, 0.05))
    with pytest.raises(UserError, match="was trained to be told the dose: say it with --dose"):
        shipped(low, None)


def test_a_user_gives_the_dose_where_it_has_an_effect() -> None:
    told, plain = TrainingSettings(tell_dose=True), TrainingSettings()
    check_dose(told, 0.3)
    check_dose(plain, None)
    for training, dose, message in (
        (told, None, "say it with --dose"),
        (plain, 0.3, "--dose has no effect"),
        (told, 0.0, "--dose 0 is no fraction of the full dose"),
    ):
        with pytest.raises(UserError, match=message):
            check_dose(training, dose)


def test_the_noise_of_a_training_is_that_of_its_doses() -> None:
    row = {"dataset": "d", "low_dose": "simulated", "kernel": "B", "noise_low_frequency": 0.4,
           "noise_low_z_correlation": 0.1}  # fmt: skip
    rows = [{**row, "scan": scan, "dose": dose, "noise_low_hu": sd, "noise_low_hu_low": 0.9 * sd,
             "noise_low_hu_high": 1.1 * sd} for scan in "ab" for dose, sd in ((0.1, 40.0), (0.4, 20.0))]  # fmt: skip
    assert describe_training(rows, 0.1)["SD (HU)"] == [18, 44]
    described = describe_training(rows_at(rows, [0.4]), 0.1)
    assert (described["SD (HU)"], described["dose"], described["scans"]) == ([18, 22], ["40 %"], "2 of 2 measured")
    assert describe_training(rows_at(rows, [0.025]), 0.1)["SD (HU)"] == [72, 88]  # a quarter of the dose, twice the SD
