"""The training of a trial up to a rung, and what became of it."""

import time
from typing import Any

from data_prep.errors import describe_lack_of_memory
from data_prep.progress import Progress
from data_prep.split import Split
from jobs.engine.run_folder import RunFolder
from jobs.stages.staging import staged
from jobs.stages.train import transfer_item
from jobs.stages.trial_folder import TrialFolder
from pipeline.search.halving import last_epoch
from pipeline.settings.cells import CellSettings
from pipeline.training.errors import TrainingError
from pipeline.training.stopping import Stopped
from pipeline.training.world import World

_HOUR = 3600.0  # seconds


def train_trial(
    folder: RunFolder, split: Split, cell: CellSettings, share: float, world: World, progress: Progress
) -> dict[str, Any]:
    """Train a share of a trial, from its newest checkpoint; return what became of it, also where it failed by itself.

    Raises:
        MachineError: its process died again and again.
        Stopped: a signal asked for it; a checkpoint was written.
    """
    trial, start = TrialFolder(folder.trial(cell.id)), time.monotonic()
    trial.count_start()
    try:
        outcome = {"state": "trained", **_train(folder, split, cell, share, world, progress)}
    except Stopped:  # as before a maintenance of its node: it is not to blame
        trial.forget_starts()
        raise
    except (MemoryError, RuntimeError) as error:
        reason = _fault_of(error)
        if not reason:
            raise
        outcome = {"state": "failed", "reason": reason, "hours": (time.monotonic() - start) / _HOUR}
    trial.forget_starts()
    return outcome


def _fault_of(error: MemoryError | RuntimeError) -> str:
    """Say what made a training fail by itself; empty for other errors."""
    return str(error) if isinstance(error, TrainingError) else describe_lack_of_memory(error)


def _train(
    folder: RunFolder, split: Split, cell: CellSettings, share: float, world: World, progress: Progress
) -> dict[str, Any]:
    from pipeline.training.distributed import device_of, joined
    from pipeline.training.metrics_file import read_metrics
    from pipeline.training.schedule import length_of
    from pipeline.training.train import train

    training, path = cell.training, folder.trial(cell.id)
    start = None if cell.transfer == "none" else folder.transferred(transfer_item(cell))
    epochs = last_epoch(share, training.epochs, training.validation_epochs)
    with (
        joined(world, device_of(world, training.device)),
        staged(folder.data, split, training.local_disk_gib) as data,
    ):
        result = train(cell, data, split, path, world, start, progress, epochs)
    steps = epochs * length_of(training, len(split.parts["train"]), 1).epoch_steps
    judged = [line for line in read_metrics(path) if line["kind"] == "validation" and 0 < line["step"] <= steps]
    errors = [line["rmse_hu"] / line["low_dose_rmse_hu"] for line in judged]
    return {
        "steps": judged[-1]["step"], "value": min(errors) if training.keep == "best" else errors[-1],
        "hours": sum(result["seconds"].values()) / _HOUR, "cpu_hours": result["cpu_seconds"] / _HOUR,
    }  # fmt: skip
