"""Cells: the trainings of a run, with their settings resolved."""

from typing import Any

from pipeline.settings.cells import CellSettings, cells_of
from tests.pipeline.runs import settings_of


def test_validations_are_alike_where_their_doses_and_voxels_are() -> None:
    flat, thin, thick = cells_of(settings_of(study={"ranks": 1, "slices": [16, 32]}))

    def judged(cell: CellSettings, **training: Any) -> tuple[Any, ...]:
        changed = cell.training.model_copy(update=training)
        return cell.model_copy(update={"training": changed}).validated_on((0.05, 0.1))

    rules = [judged(flat), judged(thin, seed=3, epochs=2), judged(flat, doses=(0.1, 0.05)), judged(flat, fresh=True),
             judged(flat, doses=(0.05, 0.1, 0.7))]  # fmt: skip
    assert set(rules) == {((0.05, 0.1), 8, 64, 16, "grouped")}
    unlike = [judged(flat), judged(thick), judged(flat, crop=32), judged(flat, validation_samples=2),
              judged(flat, doses=(0.1,)), judged(flat, fresh=True, doses=(0.1, 0.7)),
              judged(thin.model_copy(update={"validated_sampling": "window"}))]  # fmt: skip
    assert len(set(unlike)) == len(unlike)
    scans = {"validation": "scans"}
    assert judged(flat, **scans, crop=32) == judged(thick, **scans, validation_samples=2) == ((0.05, 0.1),)


def test_crops_decide_nothing_where_whole_scans_are_validated() -> None:
    def parts(sampling: str, **training: Any) -> list[dict[str, Any]]:
        study = {"ranks": 1, "slices": 16, "sampling": sampling, "training": training}
        return [cell.with_effect() for cell in cells_of(settings_of(study=study))]

    (flat, deep), (few, few_deep) = (parts("grouped", validation="scans", validation_samples=n) for n in (8, 2))
    assert (few, few_deep) == (flat, deep)
    assert flat["training"]["validation_samples"] == 8  # as when it had a say: what was trained then stays
    windows = parts("window", validation="scans")
    assert windows[0] == flat
    assert windows[1] != deep
    crops = parts("grouped"), parts("grouped", validation_samples=2), parts("window")
    assert len({str(flat) for flat, _ in crops}) == len({str(deep) for _, deep in crops}) == 3
