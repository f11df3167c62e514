"""Average of a network's weights over the steps of its training: what is validated, judged and exported."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Network in eval mode whose parameters are moving averages of those of a network in training.

    They are the weights of all steps so far, the newer the heavier, and so that their mean age is a fixed share of
    these steps (:func:`newest_share`). So the average means the same in a short training as in a long one, and where
    a long one is stopped. Buffers are copies of the last ones.

    Args:
        model: the network in training, before its first step; its layout and its device are those of the average.
        age: mean age of the averaged weights, as a share of the steps so far.
    """

    def __init__(self, model: nn.Module, age: float) -> None:
        # deepcopy itself would look for the addresses of tensors that hold no data
        copies: dict[int, Any] = {id(buffer): buffer.clone() for buffer in model.buffers()}
        copies |= {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in model.parameters()}
        self.network = deepcopy(model, copies).eval()
        self.age, self.steps = age, 0
        self._parameters = list(self.network.parameters()), list(model.parameters())
        self._buffers = list(zip(self.network.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after one more step."""
        self.steps += 1
        average = get_ema_multi_avg_fn(1 - newest_share(self.age, self.steps))
        average(*self._parameters, self.steps)
        for buffer, newest in self._buffers:
            buffer.copy_(newest)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the averaged weights, for a checkpoint."""
        return {"steps": self.steps, "weights": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the average from the state of a checkpoint."""
        self.steps = state["steps"]
        self.network.load_state_dict(state["weights"])


def newest_share(age: float, steps: int) -> float:
    """Return the share of the newest weights in the average after ``steps`` steps: 1 after the first.

    With it the mean age of the averaged weights is ``age * (steps - 1)`` steps; with 1/2 all steps weigh the same.
    It is polynomial-decay averaging (Shamir & Zhang 2013, arXiv:1212.1824) with eta = 1/age - 2.
    """
    return (1 - age) / (1 - 2 * age + age * steps)
