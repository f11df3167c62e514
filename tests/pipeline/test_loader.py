"""What keeps the processes that read ahead from sending a batch ends the training, in words of its own."""

import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.errors import MachineError, UserError
from data_prep.split import Segment
from pipeline.dataset import PairSamples, RankBatches
from pipeline.settings.training import TrainingSettings
from pipeline.training.loader import naming_dead_readers, read_ahead
from pipeline.training.world import World
from tests.pipeline.cells import cell

SEGMENTS = [Segment("toy", "a", 0, 48)]


class Starved(PairSamples):
    """Samples after which their process can open one file for each tensor, and none to send them by."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        sample = super().__getitem__(index)
        files = [os.open(os.devnull, os.O_RDONLY) for _ in sample]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for file in files:
            os.close(file)
        return sample


def read_first(samples: PairSamples, workers: int) -> None:
    settings = TrainingSettings(loader_workers=workers)
    batches = read_ahead(samples, RankBatches(0, 2, 1, 0, 1), settings, World(), torch.device("cpu"))
    with naming_dead_readers(), closing(batches):
        next(batches)


def readers() -> set[BaseProcess | threading.Thread]:
    """Processes and threads that may read ahead."""
    pools = (thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor"))
    return {*active_children(), *pools}


def kill_and_wait(process: BaseProcess) -> None:
    """Wait until torch hears of the death."""
    process.kill()
    time.sleep(5)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_pair_is_named_in_the_words_of_its_reader(make_pair: Callable[..., Path], workers: int) -> None:
    data = make_pair()
    for shard in data.glob("toy/a.zarr/low_dose/c/*/0/0"):
        shard.write_bytes(bytes(byte ^ 0x55 for byte in shard.read_bytes()))
    others = readers()
    with pytest.raises(UserError, match=r"^\S+/toy/a\.zarr/low_dose does not hold what was written") as refusal:
        read_first(PairSamples(data, SEGMENTS, cell(3), 0, 4), workers)
    assert readers() <= others, f"{refusal} keeps some"


def test_a_process_that_cannot_send_a_batch_ends_and_the_training_with_it(
    make_pair: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MachineError, match=r"reads ahead for the training died, [^.]*exited unexpectedly[^.]*$"):
        read_first(Starved(make_pair(), SEGMENTS, cell(3), 0, 4), 1)
    assert "Too many open files" in capfd.readouterr().err


def test_a_killed_process_is_said_to_be_killed_wherever_its_rank_is(make_pair: Callable[..., Path]) -> None:
    samples, others = PairSamples(make_pair(), SEGMENTS, cell(3), 0, 4), set(active_children())
    batches = read_ahead(samples, RankBatches(0, 99, 1, 0, 1), TrainingSettings(loader_workers=1), World(),
                         torch.device("cpu"))  # fmt: skip
    next(batches)
    (reader,) = set(active_children()) - others
    with closing(batches), pytest.raises(MachineError, match=r"is killed by signal: Killed$"), naming_dead_readers():
        kill_and_wait(reader)
