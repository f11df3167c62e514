"""Collective operations of the ranks of one training: every rank must call each of them, in the same order."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.world import World


@dataclass(frozen=True)
class Ranks:
    """The ranks of one training, as one of them sees them. ``device``: that of this rank's network."""

    world: World
    device: torch.device

    def sum(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sum the numbers over all ranks, in float64; every rank must use the same names in the same order."""
        if self.world.size == 1:
            return dict(numbers)
        sums = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return dict(zip(numbers, sums.tolist(), strict=True))

    def compare(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the maximum over all ranks of each of these float64 numbers, which lie on the CPU."""
        if self.world.size == 1:
            return numbers, numbers
        total, largest = numbers.clone(), numbers.clone()
        dist.all_reduce(total)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return total / self.world.size, largest

    def is_raised(self, flag: bool) -> bool:
        """Whether at least one rank raises its flag; does not wait for the GPU."""
        return self.raised(flag)[0]

    def raised(self, *flags: bool) -> list[bool]:
        """Return for each flag whether at least one rank raises it; does not wait for the GPU."""
        if self.world.size == 1:
            return list(flags)
        shared = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [bool(flag) for flag in shared.tolist()]

    def copy_from_first(self, tensors: Iterator[Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""
        if self.world.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def number_of_first(self, number: int) -> int:
        """Return rank 0's number on every rank."""
        if self.world.size == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, 0)
        return int(tensor.item())

    def object_of_first(self, content: Any) -> Any:
        """Return rank 0's plain values on every rank."""
        shared = [content]
        if self.world.size > 1:
            dist.broadcast_object_list(shared, 0, device=torch.device("cpu"))
        return shared[0]

    def rows(self, numbers: Sequence[float]) -> NDArray[np.float64]:
        """Return the numbers of all ranks, a row a rank; does not wait for the GPU."""
        table = torch.zeros(self.world.size, len(numbers), dtype=torch.float64)
        table[self.world.rank] = torch.tensor(numbers, dtype=torch.float64)
        if self.world.size > 1:
            dist.all_reduce(table)
        return table.numpy()

    def gather(self, content: Any) -> list[Any]:
        """Return the plain values of all ranks, an item a rank."""
        contents: list[Any] = [content] * self.world.size
        if self.world.size > 1:
            dist.all_gather_object(contents, content)
        return contents

    def hosts(self) -> list[str]:
        """List the names of the ranks' nodes, each once."""
        return sorted(set(self.gather(socket.gethostname())))
