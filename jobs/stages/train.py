"""Stages that train: the 2D-DDnet, the transfer of its weights to 3D, and the other cells of the study."""

import io
import json
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data_prep.errors import UserError
from data_prep.files import digest_json, write_atomic, write_json
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


_CELL_FILES = r"metrics\.jsonl|result\.json|checkpoints/step-\d+\.pt|tensorboard/events\..*"


class CellStage(Stage):
    """Train one cell an item, in ``cells/<id>``."""

    version: ClassVar[int] = 4
    uses_ranks: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    # each DistributedDataParallel imports the latter
    modules: ClassVar[tuple[str, ...]] = ("pipeline.training.trainer", "torch._dynamo")

    def __init__(self, folder: RunFolder, cells: Iterable[CellSettings]) -> None:
        super().__init__(folder)
        self.cells = {cell.id: cell for cell in cells}

    def items(self) -> list[str]:
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        return self.cells[item].model_dump(mode="json", exclude={"training": set(WITHOUT_EFFECT)})

    def discard(self, item: str) -> None:
        shutil.rmtree(self.folder.cell(item), ignore_errors=True)

    def inputs(self, item: str) -> list[Ref]:
        return [("split", "split")]

    def outputs(self, item: str) -> list[Path]:
        """List the result, the metrics and the checkpoint with which the training ended."""
        folder = self.folder.cell(item)
        result = folder / "result.json"
        return [result, folder / "metrics.jsonl", folder / "checkpoints" / _checkpoint_of(result)]

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        return result["checkpoint"]  # it holds the metrics and the times too

    def folders(self, item: str) -> Mapping[Path, str]:
        return {self.folder.cell(item): _CELL_FILES}

    def ranks(self, item: str) -> int:
        return self.cells[item].ranks

    def initial_weights(self, item: str) -> Path | None:
        """Return the file of transferred weights with which the training starts, or None."""
        fill = self.cells[item].transfer
        return None if fill == "none" else self.folder.donor(fill)

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Train the cell, from its newest checkpoint if there is one.

        Raises:
            DistributionError: the processes are not as many as the cell's ranks.
        """
        from pipeline.training.distributed import device_of, joined
        from pipeline.training.train import train

        cell, folder = self.cells[item], self.folder.cell(item)
        if world.size != cell.ranks:
            raise DistributionError(
                f"cell {item} is for {cell.ranks} ranks, but its job says that this process is one of {world.size}"
            )
        split, disk = read_split(self), cell.training.local_disk_gib
        with joined(world, device_of(world, cell.training.device)), staged(self.folder.data, split, disk) as data:
            summary = train(cell, data, split, folder, world, self.initial_weights(item), progress)
        if world.leads:
            write_json(folder / "result.json", {**summary, "data": digest_json(split.to_json())})
        return summary


def _checkpoint_of(result: Path) -> str:
    """Return the name of the checkpoint that a training's result names; empty where no result of a training is."""
    try:
        return f"step-{json.loads(result.read_bytes())['steps']:08d}.pt"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Train2D(CellStage):
    """Train the 2D-DDnet, with which the study is compared and from which it may start."""

    name: ClassVar[str] = "train"

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, (cell for cell in cells_of(folder.settings) if cell.id == DDNET_2D))


class Transfer(Stage):
    """Inflate 2D weights, of the 2D training or of a donor file, to 3D, in one way (``fill``) an item."""

    name: ClassVar[str] = "transfer"

    def __init__(self, train: Train2D, study: "Study") -> None:
        super().__init__(train.folder)
        self.train = train
        self.cells: dict[str, CellSettings] = {
            cell.transfer: cell for cell in study.cells.values() if cell.transfer != "none"
        }
        self.donor = self.settings.study.donor

    def find_items(self, progress: Progress) -> str:
        self._donor_stamp()
        return ""

    def items(self) -> list[str]:
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        return {"fill": item, "seed": self.settings.study.training.seed, "donor": self._donor_stamp()}

    def _donor_stamp(self) -> tuple[str, int, int] | None:
        if self.donor is None:
            return None
        if not self.donor.is_file():
            raise UserError(f"study.donor: {self.donor} does not exist or is no file")
        return stamp_of_file(self.donor)

    def inputs(self, item: str) -> list[Ref]:
        return [] if self.donor else [(self.train.name, cell) for cell in self.train.items()]

    def outputs(self, item: str) -> list[Path]:
        return [self.folder.donor(item)]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        import torch

        from pipeline.models import DDnet, build_network, inflate
        from pipeline.training.checkpoints import load_trained

        (cell_2d,), cell = self.train.cells.values(), self.cells[item]
        network_2d = self._donor_network() if self.donor else load_trained(cell_2d, self.folder.cell(cell_2d.id))
        network_3d = build_network(cell)
        assert isinstance(network_2d, DDnet)
        assert isinstance(network_3d, DDnet)
        assert cell.transfer != "none"
        inflate(network_2d, network_3d, cell.transfer, seed=self.settings.study.training.seed)
        weights = io.BytesIO()  # torch writes the name of a file into it
        torch.save(network_3d.state_dict(), weights)
        write_atomic(self.folder.donor(item), weights.getvalue())
        return {"fill": item}

    def _donor_network(self) -> "Module":
        """Load the network of the donor file; errors name the setting."""
        from pipeline.models import published_network

        assert self.donor is not None
        try:
            return published_network(self.donor)
        except UserError as error:
            raise UserError(f"study.donor {error}") from error


class Study(CellStage):
    """Train the cells of the study: the grid of 3D networks and, if it is set, RED-CNN."""

    name: ClassVar[str] = "study"
    is_lenient: ClassVar[bool] = True

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, (cell for cell in cells_of(folder.settings) if cell.id != DDNET_2D))
        self.shares_job = folder.settings.study.allocation == "one"

    def start_order(self, items: Sequence[str]) -> Sequence[str]:
        order = list(items)  # shuffled: a drift of the machine must not look like an effect of what is studied
        random.Random(self.settings.study.order_seed).shuffle(order)  # noqa: S311 - no secret
        return order

    def inputs(self, item: str) -> list[Ref]:
        fill = self.cells[item].transfer
        return [*super().inputs(item), *([] if fill == "none" else [("transfer", fill)])]
