"""The learning rate of each step, and the effective batch that it may grow with."""

import math

from pipeline.settings.training import TrainingSettings

EXPONENTIAL_DECAY = 0.8


def effective_batch(settings: TrainingSettings, ranks: int) -> int:
    """Samples that one step learns from: ranks x batch x accumulation."""
    return ranks * settings.batch * settings.accumulation


def samples_per_epoch(settings: TrainingSettings, volumes: int, ranks: int) -> int:
    """As set, or one a training volume, over all ranks; filled up to whole steps."""
    step = effective_batch(settings, ranks)
    shares = ranks if settings.work == "weak" else 1
    return math.ceil((settings.samples or volumes) * shares / step) * step


def learning_rate(settings: TrainingSettings, ranks: int, step: int, steps: int, epoch_steps: int) -> float:
    """The rate of step number ``step`` (from 0) of ``steps``.

    Grown by the rule (linear: Goyal et al. 2017, arXiv:1706.02677), risen over the warm-up, fallen by the schedule.
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
