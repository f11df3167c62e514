"""Real gloo ranks that meet, miss each other, die and hang; beats are shortened, so that silence is soon heard."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessContext, start_processes

from data_prep.errors import UserError
from pipeline.training import heartbeat, rendezvous
from pipeline.training.distributed import joined
from pipeline.training.heartbeat import LOST_EXIT_CODE
from pipeline.training.ranks import Ranks
from pipeline.training.rendezvous import Card, check_gpus
from pipeline.training.world import DistributionError, PeerLost, World
from tests.ranks import start_ranks
from tests.toy_runs import wait_for

CPU = torch.device("cpu")
BEAT, SILENCE, MEETING, GRACE = 0.3, 5.0, 4.0, 2.5  # beats seldom enough for a machine that is busy with other tests
assert 5.5 * BEAT + GRACE < SILENCE  # a rank explains a lost connection, and waits, before it counts as silence
Work = Callable[[World, Path], None]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def url_of(kind: str, folder: Path) -> str:
    return f"file://{folder}/meet" if kind == "file" else f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture(params=["file", "tcp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, tmp_path)


def _main(index: int, worlds: list[tuple[int, int]], url: str, folder: Path, work: Work) -> None:
    """Join as one of the (rank, size) and work; what went wrong is written down, as a worker marks it."""
    torch.set_num_threads(1)
    heartbeat.BEAT_SECONDS, heartbeat.SILENCE_SECONDS, rendezvous.MEETING_SECONDS = BEAT, SILENCE, MEETING
    rank, size = worlds[index]
    world = World(rank, size, rank, url, lambda error: _note(folder, index, error))
    try:
        with joined(world, CPU):
            (folder / f"{index}.joined").touch()
            work(world, folder)
    except Exception as error:
        _note(folder, index, error)
        raise


def _note(folder: Path, index: int, error: Exception) -> None:
    (folder / f"{index}.error").write_text(f"{type(error).__name__}: {error}")
    time.sleep(GRACE if isinstance(error, PeerLost) else 0)  # as a worker waits for those who know better


def start(worlds: list[tuple[int, int]], url: str, folder: Path, work: Work) -> ProcessContext:
    return start_ranks(_main, (worlds, url, folder, work), len(worlds))


def codes(context: ProcessContext, seconds: float = 60) -> list[int | None]:
    """Exit codes when all have ended; those who have not by then are killed and told by None."""
    deadline = time.monotonic() + seconds
    for process in context.processes:
        process.join(max(0.0, deadline - time.monotonic()))
    exit_codes = [process.exitcode for process in context.processes]
    for process in context.processes:
        process.kill()
        process.join()
    return exit_codes


def errors(folder: Path, ranks: int) -> list[str]:
    paths = [folder / f"{rank}.error" for rank in range(ranks)]
    return [path.read_text() if path.exists() else "" for path in paths]


def of_size(size: int) -> list[tuple[int, int]]:
    return [(rank, size) for rank in range(size)]


def flags_and_goodbyes(world: World, folder: Path) -> None:
    assert Ranks(world, CPU).is_raised(world.rank == 1)
    assert Ranks(world, CPU).is_raised(True)
    assert not Ranks(world, CPU).is_raised(False)
    if world.rank == 1:
        deadline = time.monotonic() + SILENCE + 0.5
        while time.monotonic() < deadline:  # Python code that never rests, for longer than silence is borne
            sum(range(1000))
    (folder / f"{world.rank}.done").touch()


@pytest.mark.slow
@pytest.mark.ranks
def test_busy_ranks_and_those_that_end_early_are_not_taken_for_dead(url: str, tmp_path: Path) -> None:
    assert codes(start(of_size(3), url, tmp_path, flags_and_goodbyes)) == [0, 0, 0]
    assert len(list(tmp_path.glob("*.done"))) == 3
    assert not (tmp_path / "meet").exists()


def reduce_for_ever(world: World, folder: Path) -> None:
    while True:
        Ranks(world, CPU).is_raised(False)
        time.sleep(0.05)  # other worlds want the cores too


class Victim:
    """A rank of a world of three, which is killed or stopped when all have joined."""

    def __init__(self, rank: int, number: signal.Signals, kind: str, folder: Path) -> None:
        folder.mkdir()
        self.rank, self.number, self.folder = rank, number, folder
        self.world = start(of_size(3), url_of(kind, folder), folder, reduce_for_ever)
        self.peers = [peer for peer in range(3) if peer != rank]

    def strike(self) -> None:
        wait_for(lambda: len(list(self.folder.glob("*.joined"))) == 3, 60)
        os.kill(self.world.processes[self.rank].pid, self.number)

    def ended(self) -> list[int | None]:
        for rank in self.peers:
            self.world.processes[rank].join(30)
        return codes(self.world, 0)


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_the_others_end_and_name_the_rank_that_died_or_stopped(kind: str, tmp_path: Path) -> None:
    """In four worlds at the same time, since all of them wait for silence."""
    cases = [(rank, number) for rank in (0, 1) for number in (signal.SIGKILL, signal.SIGSTOP)]
    victims = [Victim(rank, number, kind, tmp_path / f"{rank}-{number.name}") for rank, number in cases]
    for victim in victims:
        victim.strike()
    for victim in victims:
        ended, messages = victim.ended(), errors(victim.folder, 3)
        assert ended[victim.rank] == (-signal.SIGKILL if victim.number == signal.SIGKILL else None)
        assert {ended[rank] for rank in victim.peers} <= {1, LOST_EXIT_CODE}  # by an error of gloo, or as it hangs
        assert victim.number == signal.SIGKILL or LOST_EXIT_CODE in ended
        assert not messages[victim.rank]
        for rank in victim.peers:
            assert messages[rank].startswith("PeerLost: ")
            assert f"rank {victim.rank} " in messages[rank]


def fail_in_rank_1(world: World, folder: Path) -> None:
    for step in range(100):
        Ranks(world, CPU).is_raised(False)
        if world.rank == 1 and step == 50:
            raise ValueError("my own words")


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(("kind", "method"), [("file", "forkserver"), ("tcp", "spawn")])
def test_who_fails_says_so_before_the_others_lose_it(kind: str, method: str, tmp_path: Path) -> None:
    """A spawned, whole interpreter's exit code would be that of an abort if torch's threads were left to their end."""
    arguments = (of_size(2), url_of(kind, tmp_path), tmp_path, fail_in_rank_1)
    assert codes(start_processes(_main, arguments, 2, join=False, start_method=method)) == [1, 1]
    messages = errors(tmp_path, 2)
    assert messages[1] == "ValueError: my own words"
    assert messages[0].startswith("PeerLost: rank 0 lost its connection to another rank, rank 1 of 2 fell silent")
    assert (tmp_path / "1.error").stat().st_mtime_ns < (tmp_path / "0.error").stat().st_mtime_ns


def nothing(world: World, folder: Path) -> None:
    pass


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("worlds", "message"),
    [
        ([(0, 2)], "1 of 2 ranks came within 4 s, missing: rank 1"),
        ([(0, 3), (1, 3), (1, 3)], "two processes are rank 1 of 3, the second is process"),
        ([(0, 2), (1, 3)], "ranks do not agree on how many they are: 2 says rank 0 on"),
        ([(0, 2), (2, 2)], "there is no rank 2 in a world of 2"),
    ],
)
def test_ranks_that_do_not_fit_together_say_why(
    url: str, tmp_path: Path, worlds: list[tuple[int, int]], message: str
) -> None:
    assert codes(start(worlds, url, tmp_path, nothing)) == [1] * len(worlds)
    messages = errors(tmp_path, len(worlds))
    assert any(message in error for error in messages)
    assert all(error.startswith(("DistributionError: ", "PeerLost: ")) for error in messages)


@pytest.fixture
def short_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "MEETING_SECONDS", 1.0)


@pytest.mark.usefixtures("short_meeting")
def test_an_unreachable_master_is_named() -> None:
    port = free_port()
    start_time = time.monotonic()
    with pytest.raises(
        DistributionError, match=f"rank 1 cannot reach the meeting point of rank 0 at 127.0.0.1:{port} within 1 s"
    ), joined(World(1, 2, 0, f"tcp://127.0.0.1:{port}"), CPU):  # fmt: skip
        pass
    assert time.monotonic() - start_time < 20


@pytest.mark.usefixtures("short_meeting")
def test_a_port_that_is_taken_or_never_answers_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        for rank, message in ((1, f"reach.*{address} within 1 s"), (0, f"open.*{address}.*address already in use")):
            with pytest.raises(DistributionError, match=message), joined(World(rank, 2, 0, f"tcp://{address}"), CPU):
                pass


@pytest.mark.parametrize("url", ["", "file:///nowhere/at/all", "tcp://host", "env://"])
def test_a_place_where_nobody_can_meet_is_refused(url: str) -> None:
    with pytest.raises(DistributionError, match="is no place to meet: take tcp://host:port"), joined(
        World(0, 2, 0, url), CPU
    ):  # fmt: skip
        pass


def test_two_ranks_on_one_gpu_are_refused() -> None:
    def cards(*gpus: tuple[str, str]) -> list[Card]:
        return [Card(rank, len(gpus), host, gpu) for rank, (host, gpu) in enumerate(gpus)]

    check_gpus(cards(("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-1")))
    check_gpus(cards(("a", ""), ("a", "")))
    with pytest.raises(UserError, match="ranks 0, 2 have the same GPU GPU-1 of a: give each rank its own"):
        check_gpus(cards(("a", "GPU-1"), ("b", "GPU-1"), ("a", "GPU-1")))


def test_a_world_of_one_raises_its_own_flags_and_needs_nobody() -> None:
    with joined(World(), CPU):
        assert [Ranks(World(), CPU).is_raised(flag) for flag in (True, False)] == [True, False]
