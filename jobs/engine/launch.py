"""Launchers of worker processes: on this machine, or wherever a profile's executor puts them."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_prep.errors import UserError
from data_prep.ownership import create_private_folder
from data_prep.processes import start_fork_server
from jobs.engine.graph import OpenGraph
from jobs.engine.lifeline import Lifeline, MemoryFile, call_with_lifeline
from jobs.engine.process_group import ProcessGroup, stop_groups
from jobs.engine.worker import work_alone, work_together
from pipeline.training.world import World
from slurm.profile import Profile
from slurm.submit import Job, submit, task

_POLL_SECONDS = 0.2
_MAX_FOLDER_BYTES = 75


class Processes(Protocol):
    """Processes that a launcher started."""

    def have_ended(self) -> bool:
        """Whether all have ended; waits a fraction of a second."""

    def fault(self) -> str:
        """Say, after they ended, why the first of them died; empty if none did."""

    def stop(self) -> None:
        """End them."""


class Launcher(Protocol):
    """Starts processes that work on items of a stage, in the run folder ``root``."""

    def start_workers(self, root: Path, stage: str, items: Sequence[str], workers: int) -> Processes:
        """Start worker processes that share the items."""

    def start_ranks(self, root: Path, stage: str, item: str, ranks: int) -> Processes:
        """Start ranks that do one item together."""


class LocalLauncher:
    """Launcher of processes of this machine, which end when this process ends, even if it is killed.

    Args:
        open_graph: that each process opens the graph with.
        modules: that the processes use; see :class:`LocalProcesses`.
    """

    def __init__(self, open_graph: OpenGraph, modules: Sequence[str]) -> None:
        self.open_graph = open_graph
        self._modules = [__name__, open_graph.__module__, "torch", *modules]

    def start_workers(self, root: Path, stage: str, items: Sequence[str], workers: int) -> Processes:
        shares = share_items(items, workers)
        groups = [
            (_worker_main, (self.open_graph, root, stage, share, worker), 1) for worker, share in enumerate(shares)
        ]
        return LocalProcesses(groups, self._modules, root / "logs")

    def start_ranks(self, root: Path, stage: str, item: str, ranks: int) -> Processes:
        self._meeting = MemoryFile()
        arguments = (self.open_graph, root, stage, item, ranks, self._meeting.path.as_uri())
        return LocalProcesses([(_rank_main, arguments, ranks)], self._modules, root / "logs")


class LocalProcesses:
    """Groups of processes of this machine: if one process fails, the others of its group end too.

    Args:
        groups: of each its function, the arguments after the process's number, and the number of processes.
        modules: imported once, by the server from which the processes are forked.
        folder: of their logs, private to this user.
    """

    def __init__(
        self, groups: Sequence[tuple[Callable[..., None], tuple[Any, ...], int]], modules: Sequence[str], folder: Path
    ) -> None:
        create_private_folder(folder, "choose another `runs` in the settings", trusts_group=True)  # as its run says
        _check_temporary_folder()
        start_fork_server(modules)
        self._running = [ProcessGroup(main, arguments, size) for main, arguments, size in groups]
        self._faults: list[str] = []

    def have_ended(self) -> bool:
        ended = [group for group in self._running if group.has_ended()]
        self._running = [group for group in self._running if group not in ended]
        self._faults += [group.fault for group in ended if group.fault]
        return not self._running

    def fault(self) -> str:
        return self._faults[0] if self._faults else ""

    def stop(self) -> None:
        stop_groups(self._running)


class SubmittedLauncher:
    """Launcher of jobs of submitit, on the executor of a profile."""

    def __init__(self, profile: Profile, open_graph: OpenGraph) -> None:
        self.profile, self.open_graph, self._lifeline = profile, open_graph, Lifeline()

    def start_workers(self, root: Path, stage: str, items: Sequence[str], workers: int) -> Processes:
        jobs = list[Job]()
        try:
            for share in share_items(items, workers):
                jobs.append(self._submit(root, 1, work_alone, stage, share))
        except BaseException:
            SubmittedJobs(jobs).stop()
            raise
        return SubmittedJobs(jobs)

    def start_ranks(self, root: Path, stage: str, item: str, ranks: int) -> Processes:
        self._meeting = MemoryFile()
        meeting = self._meeting.path.as_uri()
        return SubmittedJobs([self._submit(root, ranks, run_submitted_rank, stage, item, meeting)])

    def _submit(self, root: Path, tasks: int, call: Callable[..., None], *arguments: Any) -> Job:
        words = (call, self.open_graph, root, *arguments)
        if self.profile.executor != "debug":  # whose jobs run in this process
            words = (call_with_lifeline, self._lifeline.path, *words)
        return submit(self.profile, root / "logs" / "submitit", tasks, *words)


class SubmittedJobs:
    """Processes of submitit's jobs."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def have_ended(self) -> bool:
        time.sleep(_POLL_SECONDS)
        return all(job.has_ended() for job in self._jobs)

    def fault(self) -> str:
        return next((fault for job in self._jobs if (fault := job.fault())), "")

    def stop(self) -> None:
        for job in self._jobs:
            job.cancel()


def _check_temporary_folder() -> None:
    """Check that sockets fit into the temporary folder: `multiprocessing` adds 32 bytes, and the system takes 107."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES:
        raise UserError(
            f"{folder} has too long a name: let TMPDIR name a folder of at most {_MAX_FOLDER_BYTES} bytes, as sockets "
            "lie in it"
        )


def share_items(items: Sequence[str], workers: int) -> list[list[str]]:
    """List the items for each worker: its own share, then those of the others backwards, so that it helps them."""
    shares = [list(items[worker::workers]) for worker in range(workers)]
    return [
        share + [item for k in range(1, workers) for item in reversed(shares[(worker + k) % workers])]
        for worker, share in enumerate(shares)
    ]


def _worker_main(_number: int, open_graph: OpenGraph, root: Path, stage: str, items: list[str], worker: int) -> None:
    from torch.cuda import device_count

    _redirect_output(root / "logs" / f"{stage}.{items[0]}.log")
    show_gpu(worker, device_count())
    work_alone(open_graph, root, stage, items)


def show_gpu(worker: int, count: int) -> None:
    """Let this process, before it uses one, see one of the machine's ``count`` GPUs: workers take them in turn."""
    if count > 1:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[worker % count]


def _rank_main(
    rank: int, open_graph: OpenGraph, root: Path, stage: str, item: str, ranks: int, rendezvous: str
) -> None:
    _redirect_output(root / "logs" / f"{stage}.{item}.rank{rank}.log")
    work_together(open_graph, root, stage, item, World(rank, ranks, rank, rendezvous))


def run_submitted_rank(open_graph: OpenGraph, root: Path, stage: str, item: str, rendezvous: str) -> None:
    """Do an item as one rank of a job of submitit."""
    rank, size, local_rank = task()
    work_together(open_graph, root, stage, item, World(rank, size, local_rank, rendezvous))


def _redirect_output(path: Path) -> None:
    """Append what this process and its libraries print to a file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
