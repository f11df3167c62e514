"""Training stages: the 2D-DDnet, its transfer to 3D, and the study's other cells."""

import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data_prep.errors import UserError
from data_prep.files import digest_json, replacing, write_json
from data_prep.progress import Progress
from data_prep.sources.series import stamp_of_file
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.stages.prepare import read_split
from jobs.stages.staging import staged
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.names import DDNET_2D
from pipeline.settings.training import WITHOUT_EFFECT
from pipeline.training.world import DistributionError, World

if TYPE_CHECKING:
    from torch.nn import Module


class CellStage(Stage):
    """Items are cells: trainings in ``cells/<id>``."""

    version: ClassVar[int] = 2
    uses_ranks: ClassVar[bool] = True

    def __init__(self, folder: RunFolder, cells: Iterable[CellSettings]) -> None:
        super().__init__(folder)
        self.cells = {cell.id: cell for cell in cells}

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

    def start(self, item: str) -> Path | None:
        """Weights that the training begins with: transferred ones, if the cell wants them."""
        fill = self.cells[item].transfer
        return None if fill == "none" else self.folder.donor(fill)

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
        split, disk = read_split(self), cell.training.local_disk_gib
        with joined(world, device_of(world, cell.training.device)), staged(self.folder.data, split, disk) as data:
            result = train(cell, data, split, folder, world, self.start(item), progress)
        if world.leads:
            write_json(folder / "result.json", {**result, "data": digest_json(split.to_json())})
        return result


class Train2D(CellStage):
    """The 2D-DDnet, which the study is compared with and may begin from."""

    name: ClassVar[str] = "train"

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, (cell for cell in cells_of(folder.settings) if cell.id == DDNET_2D))


class Transfer(Stage):
    """An item is a fill: 2D weights, of the 2D training or of a donor file, inflated to 3D."""

    name: ClassVar[str] = "transfer"

    def __init__(self, train: Train2D, study: "Study") -> None:
        super().__init__(train.folder)
        self.train = train
        self.cells: dict[str, CellSettings] = {
            cell.transfer: cell for cell in study.cells.values() if cell.transfer != "none"
        }
        self.donor = self.settings.study.donor

    def find_items(self, progress: Progress) -> str:
        """Refuse a donor that is not there, before anything is run."""
        self._stamp()
        return ""

    def items(self) -> list[str]:
        """The fills of the study."""
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        """The fill, the seed of its noise, and the donor file's name, size and time."""
        return {"fill": item, "seed": self.settings.study.training.seed, "donor": self._stamp()}

    def _stamp(self) -> tuple[str, int, int] | None:
        if self.donor is None:
            return None
        if not self.donor.is_file():
            raise UserError(f"study.donor: {self.donor} does not exist or is no file")
        return stamp_of_file(self.donor)

    def inputs(self, item: str) -> list[Ref]:
        """The 2D training, unless there is a donor file."""
        return [] if self.donor else [(self.train.name, flat) for flat in self.train.items()]

    def outputs(self, item: str) -> list[Path]:
        """The weights."""
        return [self.folder.donor(item)]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Inflate and write the weights."""
        import torch

        from pipeline.models import DDnet, build_network, inflate
        from pipeline.training.trainer import load_trained

        (trained,), cell = self.train.cells.values(), self.cells[item]
        flat = self._donated() if self.donor else load_trained(trained, self.folder.cell(trained.id))
        deep = build_network(cell)
        assert isinstance(flat, DDnet)
        assert isinstance(deep, DDnet)
        assert cell.transfer != "none"
        inflate(flat, deep, cell.transfer, seed=self.settings.study.training.seed)
        with replacing(self.folder.donor(item)) as temporary:
            torch.save(deep.state_dict(), temporary)
        return {"fill": item}

    def _donated(self) -> "Module":
        """The network of the donor file; what is wrong with it is told with the setting's name."""
        from pipeline.models import published_network

        assert self.donor is not None
        try:
            return published_network(self.donor)
        except UserError as error:
            raise UserError(f"study.donor {error}") from error


class Study(CellStage):
    """RED-CNN, if asked for, and the grid of 3D trainings; one failed cell does not stop the others."""

    name: ClassVar[str] = "study"
    is_lenient: ClassVar[bool] = True

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, (cell for cell in cells_of(folder.settings) if cell.id != DDNET_2D))
        self.shares_job = folder.settings.study.allocation == "one"

    def start_order(self, items: Sequence[str]) -> Sequence[str]:
        """Shuffled: what changes on a machine with time must not look like what is studied."""
        order = list(items)
        random.Random(self.settings.study.order_seed).shuffle(order)  # noqa: S311 - no secret
        return order

    def inputs(self, item: str) -> list[Ref]:
        """The split and the transferred weights."""
        fill = self.cells[item].transfer
        return [*super().inputs(item), *([] if fill == "none" else [("transfer", fill)])]
