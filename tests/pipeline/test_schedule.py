"""Learning rates and batches against their closed forms."""

import math
from typing import Any

import pytest

from pipeline.settings.training import TrainingSettings
from pipeline.training.loader import workers_for
from pipeline.training.schedule import TrainingLength, effective_batch, learning_rate, length_of, samples_per_epoch
from pipeline.training.world import World


def training(**values: Any) -> TrainingSettings:
    return TrainingSettings(**{"learning_rate": 0.01, "batch": 2, **values})


@pytest.mark.parametrize(("rule", "growth"), [("none", 1), ("linear", 12), ("sqrt", math.sqrt(12))])
def test_the_rate_grows_by_its_rule(rule: str, growth: float) -> None:
    settings = training(rate_rule=rule, accumulation=3)
    assert effective_batch(settings, 4) == 24
    assert learning_rate(settings, 4, 0, 100, 10) == pytest.approx(0.01 * growth)
    assert learning_rate(training(rate_rule=rule), 1, 0, 100, 10) == pytest.approx(0.01)


def test_it_rises_over_the_warm_up_and_falls_by_half_a_cosine() -> None:
    rates = [learning_rate(training(warmup=0.1), 1, step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) / 10 * (1 + math.cos(math.pi * i / 100)) / 2 for i in range(10)])
    assert rates[50] == pytest.approx(0.005)
    assert 0 < rates[99] < 1e-5


def test_the_papers_rate_falls_by_a_fifth_an_epoch() -> None:
    settings = TrainingSettings(recipe="paper")
    assert [learning_rate(settings, 4, step, 30, 10) for step in (0, 9, 10, 29)] == pytest.approx(
        [1e-3, 1e-3, 0.8e-3, 0.64e-3]
    )


def test_samples_of_an_epoch_fill_whole_steps() -> None:
    assert samples_per_epoch(training(samples=None), 5, 1) == 6
    assert samples_per_epoch(training(samples=8, accumulation=2), 5, 2) == 8
    assert samples_per_epoch(training(samples=8, work="weak"), 5, 4) == 32


def test_a_training_has_whole_steps_in_each_epoch() -> None:
    """Seven volumes in steps of two ranks times two samples are two steps, of eight samples."""
    assert length_of(training(samples=None, epochs=3), 7, 2) == TrainingLength(8, 2, 6)


@pytest.mark.parametrize(
    ("cores", "size", "meeting", "threads", "workers"),
    [(2, 1, "file:///x", 1, 1), (2, 2, "file:///x", 1, 0), (2, 1, "", 2, 0), (64, 4, "file:///x", 1, 4),
     (8, 1, "", 6, 2), (4, 64, "tcp://node:1", 1, 3)],
)  # fmt: skip
def test_loader_workers_are_chosen_from_the_cores(
    cores: int, size: int, meeting: str, threads: int, workers: int
) -> None:
    assert workers_for(cores, World(0, size, 0, meeting), threads) == workers
