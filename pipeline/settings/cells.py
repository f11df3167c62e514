"""Cells: all trainings that the settings of a run ask for, each with its settings resolved."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from pydantic import Field

from data_prep.settings import Settings
from pipeline.sampling import Sampling
from pipeline.settings.architectures import Dims
from pipeline.settings.names import Transfer
from pipeline.settings.networks import donor_of
from pipeline.settings.run import RunSettings
from pipeline.settings.study import GridSettings
from pipeline.settings.training import SIDE_MULTIPLE, WITHOUT_EFFECT, TrainingSettings

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
    """Settings of one training, resolved. ``validated``: number of slices of the volumes that it is validated on.

    ``counterpart``: id of the 2D training with which a 3D one is compared, and from which it starts unless ``transfer``
    is none; empty where there is none.
    """

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
    counterpart: str = ""
    arm: ArmName = "full"
    training: TrainingSettings

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # options may hold lists

    @property
    def network(self) -> str:
        """Id of the network, with which that of the cell begins."""
        return self.id.partition("-")[0]

    @property
    def is_in_grid(self) -> bool:
        """Whether it is of the study's grids; else its network is trained once."""
        return self.id != self.network

    @property
    def is_control(self) -> bool:
        """Whether it is trained for its times alone."""
        return self.arm != "full"

    def with_effect(self) -> dict[str, Any]:
        """Return what decides on its result, as plain values: neither how it is saved nor with what it is compared."""
        changes: dict[str, Any] = {"counterpart": ""} if self.transfer == "none" else {}
        if self.training.validation == "scans":  # whatever crops it would be validated on: a default, as of most runs
            samples = {"validation_samples": TrainingSettings().validation_samples}
            changes["training"] = self.training.model_copy(update=samples)
            changes |= {"validated_sampling": GridSettings().sampling[0]} if self.dims == 2 else {}
        return self.model_copy(update=changes).model_dump(mode="json", exclude={"training": set(WITHOUT_EFFECT)})

    def validated_on(self, stored: Sequence[float]) -> tuple[Hashable, ...]:
        """Return what decides on the doses and voxels of its validation, where these doses are ``stored``.

        Errors of trainings compare only where it is equal. A validation of whole scans has all voxels, and one with
        fresh noise also has doses that are not stored.
        """
        training = self.training
        doses = tuple(sorted(dose for dose in training.doses or stored if training.fresh or dose in stored))
        if training.validation == "scans":
            return (doses,)
        return doses, training.validation_samples, training.crop, self.validated, self.validated_sampling


def cells_of(run: RunSettings) -> list[CellSettings]:
    """List every training of a run: networks that no grid names, the study's grids, then control arms.

    Trainings with equal settings have the same id and are listed once.
    """
    single = [_single_cell(run, network) for network in run.networks if not run.is_in_grid(network)]
    studied = [cell for grid in run.study.grids for network in run.networks_of(grid)
               for cell in _grid_cells(run, grid, network)]  # fmt: skip
    cells = _with_counterparts(run, {cell.id: cell for cell in (*single, *studied)})
    arms = [arm for cell in cells for arm in _control_arms(run, cell) if run.is_in_grid(cell.network)]
    return list({cell.id: cell for cell in (*cells, *arms)}.values())


def _single_cell(run: RunSettings, network: str) -> CellSettings:
    """Build the training of a network that no grid names: with the study's first slices and sampling in 3D."""
    cell = _cell(run, network, run.study.slices[0], run.study.sampling[0], "none", run.networks[network].training)
    return cell.model_copy(update={"id": network, "ranks": run.networks[network].ranks})


def _grid_cells(run: RunSettings, grid: GridSettings, network: str) -> Iterator[CellSettings]:
    training = run.networks[network].training
    axes = (grid.transfer, grid.sampling, grid.seeds or (training.seed,), grid.slices, grid.ranks)
    for transfer, sampling, seed, slices, ranks in product(*axes):
        changes = {"seed": seed, "epochs": grid.epochs or training.epochs}
        cell = _cell(run, network, slices, sampling, transfer, training.model_copy(update=changes))
        yield _name(run, cell.model_copy(update={"id": network, "ranks": ranks}))


def _cell(
    run: RunSettings, network: str, slices: int, sampling: Sampling, transfer: Transfer, training: TrainingSettings
) -> CellSettings:
    """Build a training on one rank; a 2D one is validated on the slices of volumes as thin as the study may have."""
    settings = run.networks[network]
    volumes: dict[str, Any] = {"slices": slices, "sampling": sampling, "transfer": transfer,
                               "validated": slices, "validated_sampling": sampling}  # fmt: skip
    planes: dict[str, Any] = {"slices": 1, "sampling": "window", "transfer": "none",
                              "validated": SIDE_MULTIPLE, "validated_sampling": run.study.sampling[0]}  # fmt: skip
    return CellSettings(
        id=network, model=settings.model, options=settings.options, dims=settings.dims, ranks=1, training=training,
        **(planes if settings.dims == 2 else volumes),
    )  # fmt: skip


def _with_counterparts(run: RunSettings, cells: Mapping[str, CellSettings]) -> list[CellSettings]:
    """Add to each 3D training the first 2D training of its donor."""
    first = {cell.network: cell.id for cell in reversed(list(cells.values()))}
    donors = {network: donor_of(network, run.networks) for network in run.networks}
    return [cell.model_copy(update={"counterpart": first.get(donors[cell.network] or "", "")})
            for cell in cells.values()]  # fmt: skip


def _control_arms(run: RunSettings, cell: CellSettings) -> Iterator[CellSettings]:
    """Yield short trainings from random weights, whose times show where the time of the cell's own steps goes."""
    if run.study.control_steps is None:
        return
    samples = run.study.control_steps * cell.training.batch * cell.training.accumulation
    seed = run.networks[cell.network].training.seed
    changes = {"samples": samples, "work": "weak", "epochs": 1, "seed": seed, "validation_samples": 1,
               "validation": "crops", "patience": None, "keep": "last"}  # fmt: skip
    training = cell.training.model_copy(update=changes)
    by_itself = training.model_copy(update={"norm": "batch"}) if training.norm == "sync" else training
    for name, arm in ARMS.items():
        ranks = 1 if arm.single_rank else cell.ranks
        if name != "full" and arm.on(ranks) == arm:
            yield _name(run, cell.model_copy(update={
                "arm": name, "ranks": ranks, "transfer": "none",
                "training": training if arm.exchanges_gradients else by_itself,
            }))  # fmt: skip


def _name(run: RunSettings, cell: CellSettings) -> CellSettings:
    """Name the cell after the settings that differ from the defaults of the study and its network."""
    epochs, seed, training = cell.training.epochs, cell.training.seed, run.networks[cell.network].training
    parts = [
        cell.network,
        *([f"s{cell.slices}"] if cell.dims == 3 else []),
        f"r{cell.ranks}",
        *([cell.sampling] if cell.dims == 3 and cell.sampling != run.study.sampling[0] else []),
        *([cell.transfer] if cell.dims == 3 and cell.transfer != "zero" and not cell.is_control else []),
        *([f"e{epochs}"] if epochs != training.epochs and not cell.is_control else []),
        *([f"seed{seed}"] if seed != training.seed else []),
        *([cell.arm] if cell.is_control else []),
    ]
    return cell.model_copy(update={"id": "-".join(parts)})
