"""The cells of a run: every training that its settings ask for, fully resolved."""

from collections.abc import Iterator
from itertools import product
from typing import Literal

from data_prep.settings import Settings
from pipeline.sampling import Sampling
from pipeline.settings.names import DDNET_2D, RED_CNN, ModelName, Transfer
from pipeline.settings.run import GridSettings, RunSettings, StudySettings, Train2DSettings
from pipeline.settings.training import SIDE_MULTIPLE, TrainingSettings

Arm = Literal["full", "synthetic", "silent", "alone"]
"""What a training is for: itself; or as a control one that reads no data after its first batch, one whose ranks do
not exchange gradients, or one of a single rank."""

CONTROL_ARMS: tuple[Arm, ...] = ("synthetic", "silent", "alone")


class CellSettings(Settings):
    """One training, fully resolved. ``validated``: slices of the volumes that it is validated on."""

    id: str
    model: ModelName = "ddnet"
    dims: Literal[2, 3]
    ranks: int
    slices: int
    sampling: Sampling
    validated: int
    validated_sampling: Sampling
    transfer: Transfer
    arm: Arm = "full"
    training: TrainingSettings


def cells_of(run: RunSettings) -> list[CellSettings]:
    """The 2D trainings first, then the study's grids by transfer, slice count and rank count, and the control arms.

    Trainings that are alike have the same id, and are one.
    """
    flat = [_flat_cell(run, DDNET_2D, "ddnet", run.train_2d)]
    if run.red_cnn:
        flat.append(_flat_cell(run, RED_CNN, "redcnn", run.red_cnn))
    deep = [cell for grid in run.study.grids for cell in _grid_cells(run.study, grid)]
    arms = [arm for cell in deep for arm in _control_arms(run.study, cell)]
    return list({cell.id: cell for cell in (*flat, *deep, *arms)}.values())


def _flat_cell(run: RunSettings, name: str, model: ModelName, one: Train2DSettings) -> CellSettings:
    """A 2D training, validated on the slices of such volumes as the study's thinnest can be."""
    return CellSettings(
        id=name, model=model, dims=2, ranks=one.ranks, slices=1, sampling="window",
        validated=SIDE_MULTIPLE, validated_sampling=run.study.sampling[0], transfer="none", training=one.training,
    )  # fmt: skip


def _grid_cells(study: StudySettings, grid: GridSettings) -> Iterator[CellSettings]:
    seeds = grid.seeds or (study.training.seed,)
    listed = (grid.transfer, grid.sampling, seeds, grid.slices, grid.ranks)
    for transfer, sampling, seed, slices, ranks in product(*listed):
        changes = {"seed": seed, "epochs": grid.epochs or study.training.epochs}
        yield _named(study, CellSettings(
            id="", dims=3, ranks=ranks, slices=slices, sampling=sampling, validated=slices,
            validated_sampling=sampling, transfer=transfer, training=study.training.model_copy(update=changes),
        ))  # fmt: skip


def _control_arms(study: StudySettings, cell: CellSettings) -> Iterator[CellSettings]:
    """Short trainings from nothing, for what the point's lost time went to; a rank alone is one for all rank counts."""
    steps = study.control_steps
    for arm in CONTROL_ARMS if steps else ():
        ranks = 1 if arm == "alone" else cell.ranks
        if steps is None or (ranks == 1 and arm == "silent"):
            continue  # nobody to exchange with
        samples = steps * cell.training.batch * cell.training.accumulation
        changes = {"samples": samples, "work": "weak", "epochs": 1, "seed": study.training.seed,
                   "validation_samples": 1}  # fmt: skip
        yield _named(study, cell.model_copy(update={
            "arm": arm, "ranks": ranks, "transfer": "none", "training": cell.training.model_copy(update=changes),
        }))  # fmt: skip


def _named(study: StudySettings, cell: CellSettings) -> CellSettings:
    """With an id that says what is not the rule."""
    how = cell.training
    parts = [
        f"3d-s{cell.slices}-r{cell.ranks}",
        *([cell.sampling] if cell.sampling != study.sampling[0] else []),
        *([cell.transfer] if cell.transfer != "zero" and cell.arm == "full" else []),
        *([f"e{how.epochs}"] if how.epochs != study.training.epochs and cell.arm == "full" else []),
        *([f"seed{how.seed}"] if how.seed != study.training.seed else []),
        *([cell.arm] if cell.arm != "full" else []),
    ]
    return cell.model_copy(update={"id": "-".join(parts)})
