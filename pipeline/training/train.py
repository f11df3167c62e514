"""Training of one cell: its parts are built, restored from the newest checkpoint and handed to the trainer."""

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_prep.progress import Progress
from data_prep.split import Split
from pipeline.convolutions.choice import from_rows
from pipeline.convolutions.layers import Algorithms, use_algorithms
from pipeline.convolutions.memory_format import lay_out
from pipeline.dataset import PairSamples
from pipeline.models import build_network
from pipeline.settings.cells import ARMS, CellSettings
from pipeline.training.captured import capture_if_asked
from pipeline.training.checkpoints import Checkpoints, load_state
from pipeline.training.clock import StepClock
from pipeline.training.compiled import compile_network, naming_failed_compilation
from pipeline.training.convolutions import algorithms_of, chooses_algorithms
from pipeline.training.distributed import device_of
from pipeline.training.exchange import exchange_gradients
from pipeline.training.loader import Batch, batches_of, naming_dead_readers, read_ahead, repeat_first
from pipeline.training.measurements import Measurements
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.node_load import process_seconds
from pipeline.training.ranks import Ranks
from pipeline.training.record import TrainingRecord
from pipeline.training.schedule import TrainingLength, length_of
from pipeline.training.step import TrainingStep
from pipeline.training.stopping import StopFlag
from pipeline.training.trainer import Trainer
from pipeline.training.validators import VALIDATION_SEED, CropValidator, ScanValidator, Validator
from pipeline.training.world import World


def train(
    cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None, progress: Progress,
    epochs: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the cell's network in ``folder``, from its newest checkpoint if there is one; return the result.

    Every rank of ``world`` calls it, after joining the process group. The result holds seconds by kind of work and by
    part of a step, CPU seconds of all ranks and their reading processes from start to end, steps, the step of the
    checkpoint that is judged and its validation, and rank 0's memory peak (bytes).

    Args:
        cell: the settings.
        data: folder of the prepared pairs.
        split: the scans to train and to validate on.
        folder: for checkpoints and metrics.
        world: this process among the ranks.
        start: first weights, a file of ``torch.save``; random ones if None.
        progress: called after each step.
        epochs: to end after so many, of which the training takes more: another call goes on from there.

    Raises:
        UserError: a scan has too few slices, ``start`` does not fit the network, or one of the network's convolutions
            is wrong on this machine by all algorithms.
        TrainingError: a loss, gradient or weight is NaN or infinite.
        MachineError: a checkpoint cannot be written, a reading process died, or the network cannot be compiled.
        Stopped: a signal asked for it (SIGUSR2, SIGTERM); a checkpoint was written.
    """
    with StopFlag() as stop, naming_dead_readers(), naming_failed_compilation(cell):
        return _build_trainer(cell, data, split, folder, world, start, stop).run(
            progress, epochs or cell.training.epochs
        )


def _build_trainer(
    cell: CellSettings, data: Path, split: Split, folder: Path, world: World, start: Path | None, stop: StopFlag
) -> Trainer:
    start_time, cpu_start, settings = time.perf_counter(), process_seconds(), cell.training
    ranks = Ranks(world, device_of(world, settings.device))
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.deterministic = True  # a resumed training computes the same bits
    checkpoints = Checkpoints(folder / "checkpoints")
    steps_taken, state = _read_newest(checkpoints, ranks, with_best=settings.keep == "best")
    convolutions = algorithms_of(cell, state, ranks) if chooses_algorithms(cell, ranks.device) else None
    torch.manual_seed(settings.seed)
    length = length_of(settings, len(split.parts["train"]), world.size)
    samples = PairSamples(data, split.parts["train"], cell, settings.seed, length.epoch_samples)
    step = _build_step(cell, start, ranks, from_rows(convolutions["algorithms"]) if convolutions else None)
    record = _restore(step, state)
    record.seconds["start"] += time.perf_counter() - start_time
    return Trainer(
        cell, length, samples, _build_validator(cell, data, split, step),
        metrics=MetricsFile(folder, state.get("metrics", ()), steps_taken) if world.leads else None,
        batches=_read_batches(cell, samples, steps_taken, length, ranks),
        step=step, ranks=ranks, measurements=Measurements(record, step.clock, ranks, cpu_start),
        checkpoints=checkpoints, stop=stop, record=record, steps_taken=steps_taken, convolutions=convolutions,
    )  # fmt: skip


def _build_validator(cell: CellSettings, data: Path, split: Split, step: TrainingStep) -> Validator:
    segments, count = split.parts["validation"], cell.training.validation_samples
    if cell.training.validation == "scans":
        return ScanValidator(data, segments, cell, step)
    return CropValidator(PairSamples(data, segments, cell, VALIDATION_SEED, count, validating=True), count)


def _build_step(cell: CellSettings, start: Path | None, ranks: Ranks, algorithms: Algorithms | None) -> TrainingStep:
    model, clock = _build_model(cell, start, ranks.device), StepClock(ranks.device)
    use_algorithms(model, algorithms)
    low_precision = cell.training.lowers_precision(gpu=ranks.device.type == "cuda")
    network = capture_if_asked(cell, model, low_precision=low_precision)
    if ranks.world.size > 1 and ARMS[cell.arm].exchanges_gradients:
        network = exchange_gradients(network, cell.training, ranks.device, clock)
    step = TrainingStep(cell, model, network, clock, low_precision=low_precision)
    if cell.training.compile:
        for compiled in {step.model, step.judged}:
            compile_network(compiled)
    return step


def _build_model(cell: CellSettings, start: Path | None, device: torch.device) -> nn.Module:
    model = build_network(cell)
    if start is not None:
        model.load_state_dict(load_state(start))
    return lay_out(model.to(device=device), cell.dims)


def _read_newest(checkpoints: Checkpoints, ranks: Ranks, *, with_best: bool) -> tuple[int, Mapping[str, Any]]:
    """Read rank 0's newest checkpoint on every rank; return its number of steps and its state, empty without any."""
    newest = None
    if ranks.world.leads:
        checkpoints.remove_leftovers()
        newest = checkpoints.newest(with_best=with_best)
    steps_taken = ranks.number_of_first(-1 if newest is None else newest)
    if steps_taken < 0:
        return 0, {}
    return steps_taken, checkpoints.load(steps_taken)


def _restore(step: TrainingStep, state: Mapping[str, Any]) -> TrainingRecord:
    """Load the state of a checkpoint, if there is one, and return its record."""
    if not state:
        return TrainingRecord()
    step.load_state_dict(dict(state))
    return TrainingRecord.from_state(dict(state))


def _read_batches(
    cell: CellSettings, samples: PairSamples, steps_taken: int, length: TrainingLength, ranks: Ranks
) -> Generator[Batch]:
    """Read this rank's batches of the steps that remain; in an arm that reads no data the training's first for ever."""
    numbers = batches_of(cell, range(steps_taken, length.steps), ranks.world.rank, ranks.world.size)
    batches = read_ahead(samples, numbers, cell.training, ranks.world, ranks.device)
    return batches if ARMS[cell.arm].reads_data else repeat_first(batches)
