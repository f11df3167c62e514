"""Training stages: the 2D network, its transfer to 3D, and the study's 3D cells."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import replacing, write_json
from data_prep.progress import Progress
from jobs.prepare import read_split
from jobs.run_folder import RunFolder
from jobs.stage import Ref, Stage
from pipeline.config import WITHOUT_EFFECT, cells_of
from pipeline.training.world import DistributionError, World


class CellStage(Stage):
    """Items are cells: trainings in ``cells/<id>``."""

    own_job: ClassVar[bool] = True

    def __init__(self, folder: RunFolder, dims: int) -> None:
        super().__init__(folder)
        self.cells = {cell.id: cell for cell in cells_of(folder.settings) if cell.dims == dims}

    def items(self) -> list[str]:
        """Cell ids."""
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The cell's settings, but those that change nothing of its result."""
        return self.cells[item].model_dump(mode="json", exclude={"training": set(WITHOUT_EFFECT)})

    def discard(self, item: str) -> None:
        """Drop the checkpoints and metrics of a training that was begun on other terms."""
        shutil.rmtree(self.folder.cell(item), ignore_errors=True)

    def inputs(self, item: str) -> list[Ref]:
        """The split."""
        return [("split", "split")]

    def outputs(self, item: str) -> list[Path]:
        """The result and the newest checkpoints."""
        return [self.folder.cell(item) / "result.json", self.folder.cell(item) / "checkpoints"]

    def ranks(self, item: str) -> int:
        """As the cell says."""
        return self.cells[item].ranks

    def start(self) -> Path | None:
        """Weights that the training begins with."""
        return None

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Train, or go on training, the cell.

        Raises:
            DistributionError: the processes are not as many as the cell's ranks.
        """
        from pipeline.training.distributed import device_of, joined
        from pipeline.training.trainer import train

        cell, folder = self.cells[item], self.folder.cell(item)
        if world.size != cell.ranks:
            raise DistributionError(
                f"cell {item} is for {cell.ranks} ranks, but its job says that this process is one of {world.size}"
            )
        with joined(world, device_of(world, cell.training.device)):
            result = train(cell, self.folder.data, read_split(self), folder, world, self.start(), progress)
        if world.leads:
            write_json(folder / "result.json", result)
        return result


class Train2D(CellStage):
    """The 2D network."""

    name: ClassVar[str] = "train"

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, dims=2)


class Transfer(Stage):
    """The 2D network's weights, inflated to 3D."""

    name: ClassVar[str] = "transfer"

    def __init__(self, train: Train2D) -> None:
        super().__init__(train.folder)
        self.train = train
        self.fill = self.settings.study.transfer

    def items(self) -> list[str]:
        """The fill, or nothing where there is no transfer."""
        return [] if self.fill == "none" else [self.fill]

    def reads(self, item: str) -> Mapping[str, Any]:
        """Nothing but the item's name."""
        return {"fill": item}

    def inputs(self, item: str) -> list[Ref]:
        """The 2D training."""
        return [("train", donor) for donor in self.train.items()]

    def outputs(self, item: str) -> list[Path]:
        """The weights."""
        return [self.folder.donor()]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Inflate and write the weights."""
        import torch

        from pipeline.models import DDnet, inflate
        from pipeline.training.trainer import load_trained

        (donor,) = self.train.cells.values()
        flat = load_trained(donor, self.folder.cell(donor.id))
        deep = DDnet(3, residual=flat.residual)
        inflate(flat, deep, item, seed=donor.training.seed)  # type: ignore[arg-type]
        target = self.folder.donor()
        with replacing(target) as temporary:
            torch.save(deep.state_dict(), temporary)
        return {"fill": item}


class Study(CellStage):
    """The grid of 3D trainings; one failed cell does not stop the others."""

    name: ClassVar[str] = "study"

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, dims=3)

    def tolerated(self) -> float:
        """All but one."""
        return 0.99

    def inputs(self, item: str) -> list[Ref]:
        """The split and the transferred weights."""
        fill = self.settings.study.transfer
        return [*super().inputs(item), *([] if fill == "none" else [("transfer", fill)])]

    def start(self) -> Path | None:
        """The transferred weights, if any."""
        return None if self.settings.study.transfer == "none" else self.folder.donor()
