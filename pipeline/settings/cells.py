"""Cells: all trainings that the settings of a run ask for, each with its settings resolved."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from pydantic import Field

from data_prep.settings import Settings
from pipeline.sampling import Sampling
from pipeline.settings.architectures import Dims
from pipeline.settings.names import DDNET_2D, RED_CNN, Transfer
from pipeline.settings.run import GridSettings, RunSettings, StudySettings, Train2DSettings
from pipeline.settings.training import SIDE_MULTIPLE, TrainingSettings

ArmName = Literal["full", "synthetic", "silent", "alone"]


@dataclass(frozen=True)
class Arm:
    """Parts of an ordinary training that a training of this arm does; a control arm leaves at least one out.

    ``reads_data``: else it takes its first batch again and again. ``exchanges_gradients``: else each rank trains by
    itself. ``single_rank``: it has one rank, and so stands for all rank counts.
    """

    reads_data: bool = True
    exchanges_gradients: bool = True
    single_rank: bool = False

    def on(self, ranks: int) -> "Arm":
        """Return the arm that is the same on so many ranks: a single rank exchanges no gradients in any arm."""
        return replace(self, exchanges_gradients=True) if ranks == 1 else self


ARMS: dict[ArmName, Arm] = {
    "full": Arm(),
    "synthetic": Arm(reads_data=False),
    "silent": Arm(exchanges_gradients=False),
    "alone": Arm(single_rank=True),
}


class CellSettings(Settings):
    """Settings of one training, resolved. ``validated``: number of slices of the volumes that it is validated on."""

    id: str
    model: str = "ddnet"
    options: dict[str, Any] = Field({}, description="of the architecture, with their defaults filled in")
    dims: Dims
    ranks: int
    slices: int
    sampling: Sampling
    validated: int
    validated_sampling: Sampling
    transfer: Transfer
    arm: ArmName = "full"
    training: TrainingSettings

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # options may hold lists

    @property
    def is_control(self) -> bool:
        """Whether it is trained for its times alone."""
        return self.arm != "full"


def cells_of(run: RunSettings) -> list[CellSettings]:
    """List every training of a run: in 2D, then the study's grids in the order of their settings, then control arms.

    Trainings with equal settings have the same id and are listed once.
    """
    flat = [_flat_cell(run, DDNET_2D, "ddnet", run.train_2d)]
    if run.red_cnn:
        flat.append(_flat_cell(run, RED_CNN, "redcnn", run.red_cnn))
    deep = [cell for grid in run.study.grids for cell in _grid_cells(run.study, grid)]
    arms = [arm for cell in deep for arm in _control_arms(run.study, cell)]
    return list({cell.id: cell for cell in (*flat, *deep, *arms)}.values())


def _flat_cell(run: RunSettings, name: str, model: str, settings: Train2DSettings) -> CellSettings:
    """Build a 2D training, validated on the slices of volumes as thin as the study may have."""
    return CellSettings(
        id=name, model=model, dims=2, ranks=settings.ranks, slices=1, sampling="window", validated=SIDE_MULTIPLE,
        validated_sampling=run.study.sampling[0], transfer="none", training=settings.training,
    )  # fmt: skip


def _grid_cells(study: StudySettings, grid: GridSettings) -> Iterator[CellSettings]:
    seeds = grid.seeds or (study.training.seed,)
    axes = (grid.transfer, grid.sampling, seeds, grid.slices, grid.ranks)
    for transfer, sampling, seed, slices, ranks in product(*axes):
        changes = {"seed": seed, "epochs": grid.epochs or study.training.epochs}
        yield _name(study, CellSettings(
            id="", dims=3, ranks=ranks, slices=slices, sampling=sampling, validated=slices,
            validated_sampling=sampling, transfer=transfer, training=study.training.model_copy(update=changes),
        ))  # fmt: skip


def _control_arms(study: StudySettings, cell: CellSettings) -> Iterator[CellSettings]:
    """Yield short trainings from random weights, whose times show where the time of the cell's own steps goes."""
    if study.control_steps is None:
        return
    samples = study.control_steps * cell.training.batch * cell.training.accumulation
    changes = {"samples": samples, "work": "weak", "epochs": 1, "seed": study.training.seed, "validation_samples": 1}
    training = cell.training.model_copy(update=changes)
    for name, arm in ARMS.items():
        ranks = 1 if arm.single_rank else cell.ranks
        if name != "full" and arm.on(ranks) == arm:
            yield _name(study, cell.model_copy(update={
                "arm": name, "ranks": ranks, "transfer": "none", "training": training,
            }))  # fmt: skip


def _name(study: StudySettings, cell: CellSettings) -> CellSettings:
    """Name the cell after the settings that differ from the study's defaults."""
    epochs, seed = cell.training.epochs, cell.training.seed
    parts = [
        f"3d-s{cell.slices}-r{cell.ranks}",
        *([cell.sampling] if cell.sampling != study.sampling[0] else []),
        *([cell.transfer] if cell.transfer != "zero" and not cell.is_control else []),
        *([f"e{epochs}"] if epochs != study.training.epochs and not cell.is_control else []),
        *([f"seed{seed}"] if seed != study.training.seed else []),
        *([cell.arm] if cell.is_control else []),
    ]
    return cell.model_copy(update={"id": "-".join(parts)})
