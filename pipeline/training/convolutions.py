"""The algorithms by which a training computes its convolutions: chosen by rank 0, and the same to its end."""

from collections.abc import Mapping
from typing import Any

import torch

from data_prep.log import logger
from pipeline.convolutions.choice import choose, covers, from_rows, to_rows
from pipeline.convolutions.machine import describe_machine
from pipeline.convolutions.needs import Needs, NeedsCollector
from pipeline.settings.cells import CellSettings
from pipeline.training.memory import blank_batches, blank_sample, blank_step, normalise
from pipeline.training.ranks import Ranks


def chooses_algorithms(cell: CellSettings, device: torch.device) -> bool:
    """Whether algorithms are chosen for the cell's convolutions; CPUs in float32 take torch's."""
    return device.type == "cuda" or cell.training.lowers_precision(gpu=False)


def convolutions_of(cell: CellSettings, *, gpu: bool) -> Needs:
    """Collect the convolutions of a step of the cell's training, and of judging a sample."""
    with blank_step(normalise(cell), gpu=gpu) as step, NeedsCollector() as collected:
        step.accumulate(next(blank_batches(cell)), last=True)
        if cell.training.validation == "crops":  # whole scans are denoised, by algorithms of outputs alone
            step.judged.eval()
            step.judge(*blank_sample(cell))
    needs: Needs = collected.needs
    return needs


def algorithms_of(cell: CellSettings, state: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Return the choice of a training, which all its ranks share: ``machine`` and ``algorithms``.

    A training goes on with the algorithms with which it started, unless it goes on with another device or library.
    ``state``: of the checkpoint from which it goes on, or empty.

    Raises:
        UserError: no algorithm computes one of the convolutions right.
    """
    choice = _continue_or_choose(cell, state.get("convolutions"), ranks.device) if ranks.world.leads else None
    shared: dict[str, Any] = ranks.object_of_first(choice)
    return shared


def _continue_or_choose(cell: CellSettings, earlier: dict[str, Any] | None, device: torch.device) -> dict[str, Any]:
    needs, machine = convolutions_of(cell, gpu=device.type == "cuda"), describe_machine(device)
    if earlier:
        if earlier["machine"] == machine and covers(from_rows(earlier["algorithms"]), needs):
            return earlier
        logger.warning(f"cell {cell.id}: it began on another device or library, so its last bits may differ")
    return {"machine": machine, "algorithms": to_rows(choose(needs, device))}
