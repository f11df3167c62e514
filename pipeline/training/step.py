"""One training step, and the judging of one validation sample: taken by the trainer, counted by the memory model."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from data_prep.log import logger
from pipeline.convolutions.memory_format import channels_last
from pipeline.losses import build_loss
from pipeline.settings.cells import CellSettings
from pipeline.training.average import WeightAverage
from pipeline.training.clock import StepClock
from pipeline.training.errors import CheckpointError
from pipeline.training.exchange import is_exchanging, without_exchange
from pipeline.training.loader import Batch
from pipeline.training.validation import judge


class TrainingStep:
    """Takes training steps with one rank's network, and judges validation samples by it.

    Args:
        cell: the settings.
        model: the network, laid out and on its device.
        network: the same network for training: captured in CUDA graphs, or with several ranks one that exchanges
            gradients at the last batch.
        clock: that measures the parts of a step.
        low_precision: the network's arithmetic is in bfloat16.
        foreach: the optimiser handles all parameters at once; None: where torch finds it faster.
    """

    def __init__(
        self, cell: CellSettings, model: nn.Module, network: nn.Module, clock: StepClock, *,
        low_precision: bool, foreach: bool | None = None,
    ) -> None:  # fmt: skip
        self.cell, self.model, self.network, self.clock = cell, model, network, clock
        self.low_precision = low_precision
        self.device = next(model.parameters()).device
        self.loss = build_loss(cell.training)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=cell.training.learning_rate, eps=1e-8, foreach=foreach)
        self.average = WeightAverage(model, cell.training.average) if cell.training.average else None

    @property
    def exchanges(self) -> bool:
        """Whether gradients are exchanged with other ranks."""
        return is_exchanging(self.network)

    @property
    def arithmetic(self) -> str:
        """In which numbers the network computes, and where."""
        return f"{'bfloat16' if self.low_precision else 'float32'} on a {'CPU' if self.device.type == 'cpu' else 'GPU'}"

    @property
    def judged(self) -> nn.Module:
        """The network that is validated: with the averaged weights, if the settings ask for them."""
        return self.average.network if self.average else self.model

    def seed(self, number: int) -> None:
        """Seed what dropout draws, as ``torch.manual_seed``, which looks for devices of all kinds: 1 % of a 2D step."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def take(self, batches: Iterator[Batch], rate: float) -> Tensor:
        """Take one step at a learning rate with the next batches; return its loss and its gradients' norm, (2,)."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for number in range(1, self.cell.training.accumulation + 1):
            loss += self.accumulate(next(batches), last=number == self.cell.training.accumulation)
        self.optimizer.step()
        if self.average:
            self.average.update()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss_and_norm = torch.stack([loss, get_total_norm(gradients)])
        self.clock.mark("optimiser")
        self.clock.end_step()
        return loss_and_norm

    def accumulate(self, batch: Batch, *, last: bool) -> Tensor:
        """Add the gradients of one batch, and exchange them after the last one; return its share of the loss."""
        self.clock.mark("data")
        with nullcontext() if last else without_exchange(self.network):
            low, full = (self._to_device(images) for images in batch[:2])
            with self._autocast():
                output = self.network(low)
            loss: Tensor = self.loss(output.float(), full) / self.cell.training.accumulation
            self.clock.mark("forward")
            loss.backward()
        self.clock.mark("exchange" if last and self.exchanges else "backward")
        return loss.detach()

    @torch.no_grad()
    def judge(self, low: Tensor, full: Tensor, scales: Tensor) -> dict[str, float]:
        """Judge the network, in eval mode, by one sample of :class:`~pipeline.dataset.PairSamples`."""
        axis = 1 if self.cell.dims == 2 else 0  # in 2D the slices of a volume are a batch
        low, full = (self._to_device(images.unsqueeze(axis)) for images in (low, full))
        with self._autocast():
            output = self.judged(low)
        return judge(output.float(), self.loss, low, full, scales)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of network, optimiser and averaged weights (None without them), for a checkpoint."""
        average = self.average.state_dict() if self.average else None
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average,
            "arithmetic": self.arithmetic,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore network, optimiser and averaged weights from the state of a checkpoint.

        A warning says where it was computed otherwise, as on a GPU, which this machine does not have.

        Raises:
            CheckpointError: the training averages its weights, but the checkpoint has no average.
        """
        before = state.get("arithmetic", self.arithmetic)
        if before != self.arithmetic:
            logger.warning(
                f"cell {self.cell.id} was trained in {before} so far, and goes on in {self.arithmetic}: its losses are "
                "not those of a training on one kind of machine"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            if not state.get("average"):
                raise CheckpointError(
                    f"the newest checkpoint of cell {self.cell.id} has no averaged weights, as training.average asks "
                    "for: delete the cell's checkpoints, or set training.average to null"
                )
            self.average.load_state_dict(state["average"])

    def _to_device(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True).contiguous(memory_format=channels_last(self.cell.dims))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision)
