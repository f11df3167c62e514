"""The number of steps of a training, the effective batch, and the learning rate of each step."""

import math
from dataclasses import dataclass

from pipeline.settings.training import TrainingSettings

EXPONENTIAL_DECAY = 0.8


@dataclass(frozen=True)
class TrainingLength:
    """Length of a training: samples of an epoch, over all ranks; steps of an epoch; steps in all."""

    epoch_samples: int
    epoch_steps: int
    steps: int


def effective_batch(settings: TrainingSettings, ranks: int) -> int:
    """Return the samples that one step learns from: ranks x batch x accumulation."""
    return ranks * settings.batch * settings.accumulation


def samples_per_epoch(settings: TrainingSettings, volumes: int, ranks: int) -> int:
    """Return the samples of an epoch over all ranks, rounded up to whole steps; by default one a training volume."""
    step = effective_batch(settings, ranks)
    shares = ranks if settings.work == "weak" else 1
    return math.ceil((settings.samples or volumes) * shares / step) * step


def length_of(settings: TrainingSettings, volumes: int, ranks: int) -> TrainingLength:
    """Return the length of a training on so many volumes."""
    samples = samples_per_epoch(settings, volumes, ranks)
    steps = samples // effective_batch(settings, ranks)
    return TrainingLength(samples, steps, settings.epochs * steps)


def learning_rate(settings: TrainingSettings, ranks: int, step: int, steps: int, epoch_steps: int) -> float:
    """Return the learning rate of step number ``step`` (from 0) of ``steps``.

    It grows with the effective batch by the rule of the settings (linear: Goyal et al. 2017, arXiv:1706.02677), rises
    from zero during the warm-up and falls by the schedule.
    """
    height = settings.learning_rate * _growth(settings, ranks)
    rise = min(1.0, (step + 1) / (settings.warmup * steps)) if settings.warmup else 1.0
    return height * rise * _decay(settings, step, steps, epoch_steps)


def _growth(settings: TrainingSettings, ranks: int) -> float:
    batches = effective_batch(settings, ranks) / settings.batch
    return {"none": 1.0, "linear": batches, "sqrt": math.sqrt(batches)}[settings.rate_rule]


def _decay(settings: TrainingSettings, step: int, steps: int, epoch_steps: int) -> float:
    if settings.schedule == "exponential":
        return float(EXPONENTIAL_DECAY ** (step // epoch_steps))
    return (1 + math.cos(math.pi * step / steps)) / 2
