"""Which network of a run is exported."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.progress import ignore_progress
from jobs.engine.run_folder import RunFolder
from jobs.stages.evaluate import Evaluate
from jobs.stages.export import Export
from jobs.stages.graph import graph_of
from pipeline.settings.run import RunSettings

DOSES = [0.05, 0.1, 0.5]


def export_of(
    root: Path, study: dict[str, Any] | None = None, evaluate: dict[str, Any] | None = None, **trainings: dict[str, Any]
) -> Export:
    """The export of a run with a network of each of these trainings; of 3D networks names begin with ``deep``."""
    settings = RunSettings.model_validate({
        "name": "t", "runs": root, "data": {"sources": [{"kind": "sample"}], "low_dose": {"doses": DOSES}},
        "networks": {name: {"model": "ddnet", "dims": 3 if name.startswith("deep") else 2, "training": training}
                     for name, training in trainings.items()},
        "study": {"transfer": "none", "ranks": 1, **(study or {})}, "evaluate": evaluate or {},
    })  # fmt: skip
    stage = graph_of(RunFolder.of(settings)).stages["evaluate"]
    assert isinstance(stage, Evaluate)
    return Export(stage)


def results(**errors: float) -> dict[str, dict[str, Any]]:
    """Results of trainings that ended at these errors of their inputs, each of other samples and doses."""
    return {
        name: {"validation": {"rmse_hu": error * 10 * number, "low_dose_rmse_hu": 10.0 * number}}
        for number, (name, error) in enumerate(errors.items(), start=1)
    }


def judge(export: Export, part: str = "validation", **errors: list[float]) -> None:
    """Write rows of two scans for each model: its RMSE at each of the doses, HU."""
    folder = export.folder.root / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, by_dose in errors.items():
        errors_of = {part: by_dose, "test": [1.0] * len(DOSES)}
        rows = [
            {"part": at, "dose": dose, "rmse_hu": error + scan}
            for at in errors_of
            for dose, error in zip(DOSES, errors_of[at], strict=True)
            for scan in (-1, 1)
        ]
        (folder / f"{name}.scans.json".replace("low_dose", "low-dose")).write_text(json.dumps(rows))


@pytest.mark.parametrize(
    "training_b", [{}, {"doses": [0.5, 0.05, 0.1]}, {"fresh": True}, {"fresh": True, "doses": DOSES}]
)
def test_where_all_networks_were_validated_at_the_same_doses_their_own_errors_compare(
    training_b: dict[str, Any], tmp_path: Path
) -> None:
    export = export_of(tmp_path, a={}, b=training_b)
    assert export.choose(results(a=0.5, b=0.4)) == "b"
    assert export.choose(results(a=0.4, b=0.5)) == "a"


@pytest.mark.parametrize(
    ("training_a", "training_b"),
    [
        ({}, {"validation": "scans"}),
        ({"crop": None}, {"validation": "scans"}),
        ({}, {"crop": 32}),
        ({}, {"validation_samples": 4}),
    ],
)
def test_networks_that_were_validated_on_different_voxels_are_compared_on_the_judged_validation_part(
    training_a: dict[str, Any], training_b: dict[str, Any], tmp_path: Path
) -> None:
    """On its easier crops ``b`` came out ahead, on equal terms ``a`` is."""
    export = export_of(tmp_path, a=training_a, b=training_b)
    judge(export, low_dose=[40, 20, 10], a=[30, 15, 7], b=[31, 16, 8])
    assert export.choose(results(a=0.7951, b=0.7708)) == "a"
    (tmp_path / "t" / "evaluation" / "low-dose.scans.json").write_text('[{"part": "test", "dose": 0.1, "rmse_hu": 1}]')
    with pytest.raises(UserError, match=r"a, b were validated .* on different voxels.*evaluate\.also: \[validation\]"):
        export.choose(results(a=0.7951, b=0.7708))


def test_a_run_that_could_not_choose_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for also, trainings in (([], {"a": {}}), ([], {"a": {}, "b": {}}), (["validation"], {"a": {}, "b": {"crop": 32}})):
        export_of(tmp_path, evaluate={"also": also}, **trainings).find_items(ignore_progress)
    with pytest.raises(
        UserError, match=r"evaluate\.also must name validation: the networks are validated at different"
    ):
        export_of(tmp_path, evaluate={"also": ["train"]}, a={}, b={"crop": 32}).find_items(ignore_progress)


def test_validations_of_whole_scans_compare_whatever_the_crops(tmp_path: Path) -> None:
    scans = {"validation": "scans"}
    export = export_of(tmp_path, {"slices": 32}, flat={**scans, "crop": 32, "validation_samples": 4}, deep=scans)
    assert export.choose(results(**{"flat": 0.5, "deep-s32-r1-none": 0.4})) == "deep-s32-r1-none"
    assert export.choose(results(**{"flat": 0.3, "deep-s32-r1-none": 0.4})) == "flat"


def test_a_2d_network_is_validated_on_the_voxels_of_a_3d_one_of_16_slices_and_not_of_32(tmp_path: Path) -> None:
    export = export_of(tmp_path, {"slices": [16, 32]}, flat={}, deep={})
    errors = {"flat": 0.5, "deep-s16-r1-none": 0.4}
    assert export.choose(results(**errors)) == "deep-s16-r1-none"
    rmse_hu: dict[str, list[float]] = {
        "low_dose": [40, 20, 10], "flat": [30, 15, 7], "deep-s16-r1-none": [31, 16, 8], "deep-s32-r1-none": [32, 17, 9],
    }  # fmt: skip
    judge(export, "validation", **rmse_hu)
    assert export.choose(results(**errors, **{"deep-s32-r1-none": 0.3})) == "flat"


@pytest.mark.parametrize("training_b", [{"doses": 0.5}, {"fresh": True, "doses": [*DOSES, 0.7]}])
def test_else_they_are_compared_on_the_judged_validation_part_at_all_stored_doses(
    training_b: dict[str, Any], tmp_path: Path
) -> None:
    """The errors of the lowest dose are the largest, and do not outweigh the others."""
    export = export_of(tmp_path, a={"doses": 0.05}, b=training_b)
    judge(export, low_dose=[100, 50, 10], a=[30, 40, 20], b=[50, 25, 5])
    for errors in ((0.1, 0.5), (0.5, 0.1)):
        assert export.choose(results(a=errors[0], b=errors[1])) == "b"
    judge(export, a=[40, 20, 4])
    assert export.choose(results(a=0.5, b=0.1)) == "a"


def test_a_choice_is_refused_where_nothing_compares(tmp_path: Path) -> None:
    export = export_of(tmp_path, at5={"doses": 0.05}, at50={"doses": 0.5})
    judge(export, part="train", low_dose=[100, 50, 10], at5=[30, 40, 20], at50=[50, 25, 5])
    with pytest.raises(UserError, match=r"at5, at50 were validated at different doses.*evaluate\.also: \[validation\]"):
        export.choose(results(at5=0.1, at50=0.5))
    assert export.choose(results(at50=0.5)) == "at50"
