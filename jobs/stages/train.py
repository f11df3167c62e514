"""Stages that train: donors, the transfer of their weights from 2D to 3D, and the other networks of the run."""

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
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.stages.split import read_split
from jobs.stages.staging import staged
from pipeline.settings.architectures import architecture_of, check_options
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.networks import NetworkSettings
from pipeline.training.world import DistributionError, World

if TYPE_CHECKING:
    from torch.nn import Module


_STAGES = ("train", "study")
"""A cell passes from one to the other where its network gets, or loses, a 3D counterpart."""
CELL_FILES = r"metrics\.jsonl|result\.json|checkpoints/step-\d+\.pt|tensorboard/events\..*"


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
        self.markers = Markers(folder.root, self.name, _STAGES)

    def find_items(self, progress: Progress) -> str:
        for cell in {cell.network: cell for cell in self.cells.values()}.values():
            try:
                check_options(cell.model, cell.dims, cell.options)
            except UserError as error:
                raise UserError(f"networks.{cell.network}: {error}") from error
        return ""

    def items(self) -> list[str]:
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        return self.cells[item].with_effect()

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
        return {self.folder.cell(item): CELL_FILES}

    def ranks(self, item: str) -> int:
        return self.cells[item].ranks

    def initial_weights(self, item: str) -> Path | None:
        """Return the file of transferred weights with which the training starts, or None."""
        cell = self.cells[item]
        return None if cell.transfer == "none" else self.folder.transferred(transfer_item(cell))

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
        return f"step-{json.loads(result.read_bytes())['checkpoint_step']:08d}.pt"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def transfer_item(cell: CellSettings) -> str:
    """Return the item of the transfer with which a training starts."""
    return f"{cell.network}-{cell.transfer}"


class TrainDonors(CellStage):
    """Train the 2D networks that have a 3D counterpart, which is compared with them and may start from them."""

    name: str = "train"

    def __init__(self, folder: RunFolder) -> None:
        cells = cells_of(folder.settings)
        donors = {cell.counterpart for cell in cells}
        super().__init__(folder, (cell for cell in cells if cell.id in donors))
        self.is_lenient = len(self.cells) > 1  # networks that do not start from the one that failed are trained


class Transfer(Stage):
    """Inflate the 2D weights of a donor, trained or in a file, to 3D: an item a 3D network and way (``fill``)."""

    name: str = "transfer"

    def __init__(self, donors: TrainDonors, study: "Study") -> None:
        super().__init__(donors.folder)
        self.donors = donors
        self.cells = {transfer_item(cell): cell for cell in study.cells.values() if cell.transfer != "none"}
        self.is_lenient = len(self.cells) > 1

    def find_items(self, progress: Progress) -> str:
        for cell in {cell.network: cell for cell in self.cells.values()}.values():
            if self._stamp_of_file(cell):
                self._donor_network(cell)
        return ""

    def items(self) -> list[str]:
        return list(self.cells)

    def reads(self, item: str) -> Mapping[str, Any]:
        cell = self.cells[item]
        seed = self._network(cell).training.seed
        return {"fill": cell.transfer, "seed": seed, "donor": self._stamp_of_file(cell)}

    def _network(self, cell: CellSettings) -> NetworkSettings:
        return self.settings.networks[cell.network]

    def _stamp_of_file(self, cell: CellSettings) -> tuple[str, int, int] | None:
        donor = self._network(cell).donor_file
        if donor is None:
            return None
        if not donor.is_file():
            raise UserError(f"networks.{cell.network}.donor_file: {donor} does not exist or is no file")
        return stamp_of_file(donor)

    def inputs(self, item: str) -> list[Ref]:
        cell = self.cells[item]
        return [] if self._network(cell).donor_file else [(self.donors.name, cell.counterpart)]

    def outputs(self, item: str) -> list[Path]:
        return [self.folder.transferred(item)]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        import torch

        from pipeline.models import build_network, inflate

        cell = self.cells[item]
        network_2d, network_3d = self._donor_network(cell), build_network(cell)
        assert cell.transfer != "none"
        inflate(network_2d, network_3d, cell.transfer, seed=self._network(cell).training.seed)
        weights = io.BytesIO()  # torch writes the name of a file into it
        torch.save(network_3d.state_dict(), weights)
        write_atomic(self.folder.transferred(item), weights.getvalue())
        return {"fill": cell.transfer}

    def _donor_network(self, cell: CellSettings) -> "Module":
        """Load the 2D network from which a cell starts; errors name the setting."""
        from pipeline.models import read_published
        from pipeline.training.checkpoints import load_trained

        file = self._network(cell).donor_file
        if file is None:
            return load_trained(self.donors.cells[cell.counterpart], self.folder.cell(cell.counterpart))
        try:
            code, network = read_published(file)
        except UserError as error:
            raise UserError(f"networks.{cell.network}.donor_file {error}") from error
        if code.model != cell.model:
            setting = f"networks.{cell.network}.donor_file"
            raise UserError(f"{setting} {file} holds weights of {code.model}, the network is {cell.model}")
        published = architecture_of(code.model).options().model_dump(mode="json")
        if cell.options != published:
            raise UserError(
                f"networks.{cell.network}.options {cell.options} must be those of the weights in donor_file {file}, "
                f"{published}"
            )
        return network


class Study(CellStage):
    """Train the other networks: those of the study's grids, and 2D networks without a 3D counterpart."""

    name: str = "study"
    is_lenient: bool = True

    def __init__(self, donors: TrainDonors) -> None:
        cells = cells_of(donors.settings)
        super().__init__(donors.folder, (cell for cell in cells if cell.id not in donors.cells))
        self.shares_job = self.settings.study.allocation == "one"

    def start_order(self, items: Sequence[str]) -> Sequence[str]:
        order = list(items)  # shuffled: a drift of the machine must not look like an effect of what is studied
        random.Random(self.settings.study.order_seed).shuffle(order)  # noqa: S311 - no secret
        return order

    def inputs(self, item: str) -> list[Ref]:
        cell = self.cells[item]
        return [*super().inputs(item), *([] if cell.transfer == "none" else [("transfer", transfer_item(cell))])]
