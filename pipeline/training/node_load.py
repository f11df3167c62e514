"""How busy a training's nodes were with other work while it took its steps."""

import multiprocessing
import os
import resource
import socket
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.training.gpu_state import GpuState
from pipeline.training.load_limits import MOST_FOREIGN, MOST_FOREIGN_OF_NODE, MOST_THROTTLED
from pipeline.training.ranks import Ranks

_STAT = Path("/proc/stat")
_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY = (1, 2, 3, 8)  # columns user, nice, system, steal; the kernel's work on the ranks' own network is in others
_SQUEUE_SECONDS = 10


class Reading(NamedTuple):
    """Counters of a rank: seconds of the clock, CPU seconds, involuntary context switches, states of its GPU.

    ``process``: of its threads and reading processes. ``cores``: of all processes on the cores that the ranks of this
    node may use, with what a hypervisor took; ``node``: the same on all cores of the node.
    """

    wall: float
    process: float
    cores: float
    node: float
    switches: float
    gpu_samples: float
    gpu_mhz: float
    gpu_throttled: float


class LoadMeter:
    """Sums the readings of all ranks over their training steps, without what lies between; rank 0's are kept.

    ``load``: the sums so far, a list a reading with an item a rank, as a checkpoint keeps them, and the same of
    ``foreign``, the CPU seconds that other processes took on the ranks' cores, ``foreign_node``, those on all cores,
    ``capacity`` and ``node_capacity``, what these cores could have given.
    """

    def __init__(self, ranks: Ranks, load: dict[str, list[float]]) -> None:
        self.ranks, self.load, self._gpu = ranks, load, GpuState(ranks.device)
        hosts, cores = zip(*ranks.gather((socket.gethostname(), sorted(os.sched_getaffinity(0)))), strict=True)
        self._mates = [[rank for rank, peer in enumerate(hosts) if peer == host] for host in hosts]
        self._cores = {core for rank in self._mates[ranks.world.rank] for core in cores[rank]}
        if not load and ranks.world.leads:
            load["average_start"] = [os.getloadavg()[0]]
            load["jobs_start"] = [neighbour_jobs()]
        self.start()

    def start(self) -> None:
        """Read the counters at this moment."""
        self._start = self._read(samples_gpu=False)

    def settle(self) -> None:
        """Add the readings since the start; every rank must call it."""
        window = np.subtract(self._read(samples_gpu=True), self._start)
        columns = dict(zip(Reading._fields, self.ranks.rows(window.tolist()).T, strict=True))
        ours = np.array([columns["process"][mates].sum() for mates in self._mates])
        sums = {
            **columns, "foreign": columns["cores"] - ours, "foreign_node": columns["node"] - ours,
            "capacity": columns["wall"] * len(self._cores), "node_capacity": columns["wall"] * (os.cpu_count() or 1),
        }  # fmt: skip
        for name, values in sums.items():
            self.load[name] = (values + self.load.get(name, 0.0)).tolist()

    def _read(self, *, samples_gpu: bool) -> Reading:
        cores, node = busy_seconds(self._cores)
        switches = float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)
        gpu = self._gpu.sample() if samples_gpu else self._gpu.sums
        return Reading(time.perf_counter(), process_seconds(), cores, node, switches, *gpu)


def busy_seconds(cores: Collection[int]) -> tuple[float, float]:
    """Return the seconds in which ``cores``, and all cores, worked since the node started; NaN if uncounted."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return np.nan, np.nan
    seconds = {fields[0]: sum(int(fields[column]) for column in _BUSY) / _TICKS for fields in lines}
    return sum(seconds.get(f"cpu{core}", np.nan) for core in cores), seconds.get("cpu", np.nan)


def process_seconds() -> float:
    """Return the CPU seconds of this process, and of the processes that it started by multiprocessing."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    readers = sum(_seconds_of(child.pid) for child in multiprocessing.active_children() if child.pid)
    return time.process_time() + ended.ru_utime + ended.ru_stime + readers


def _seconds_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def neighbour_jobs() -> float:
    """Count the other Slurm jobs that run on this job's nodes; NaN outside of Slurm, or where it does not answer."""
    job, nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NODELIST")
    if not job or not nodes:
        return np.nan
    command = ["squeue", "--noheader", "--states=running", "--format=%A", f"--nodelist={nodes}"]
    unfiltered = {name: text for name, text in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(
            command, env=unfiltered, capture_output=True, text=True, check=True, timeout=_SQUEUE_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return np.nan
    return float(len(set(answer.stdout.split()) - {job}))


def summarise(load: dict[str, list[float]]) -> dict[str, float | None]:
    """Summarise the sums of a meter at the end of a training; what could not be measured is None.

    Shares are of the cores' seconds, those of the node that had most of other work: ranks wait for the slowest. The
    clock rate is that of the slowest GPU that answered.
    """
    sums = {name: np.array(values, np.float64) for name, values in load.items()}
    wall = sums["wall"]
    samples = np.where(sums["gpu_samples"] > 0, sums["gpu_samples"], np.nan)
    return {
        name: None if np.isnan(number) else round(float(number), 4)
        for name, number in {
            "cpu_share": (sums["process"] / wall).mean(),
            "switches_a_second": (sums["switches"] / wall).mean(),
            "foreign_share": _largest_share(
                _foreign_shares(sums["foreign"], sums["cores"], sums["capacity"]), MOST_FOREIGN
            ),
            "foreign_node_share": _largest_share(
                _foreign_shares(sums["foreign_node"], sums["node"], sums["node_capacity"]), MOST_FOREIGN_OF_NODE
            ),
            "average_start": sums["average_start"][0],
            "average_end": os.getloadavg()[0],
            "jobs_start": sums["jobs_start"][0],
            "jobs_end": neighbour_jobs(),
            "gpu_mhz": np.fmin.reduce(sums["gpu_mhz"] / samples),
            "gpu_throttled_share": _largest_share(sums["gpu_throttled"] / samples, MOST_THROTTLED),
        }.items()
    }


def _foreign_shares(
    foreign: NDArray[np.float64], busy: NDArray[np.float64], capacity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each rank's share of the cores that was foreign; NaN where /proc/stat could not be read or is not true.

    In a sandbox it may count next to nothing, less than half of what the ranks themselves took.
    """
    ours = busy - foreign
    return np.where(busy < 0.5 * ours, np.nan, np.maximum(0.0, foreign / capacity))


def _largest_share(shares: NDArray[np.float64], limit: float) -> float:
    """Return the largest share; NaN if a rank's is unknown, which does not matter where another is above the limit."""
    largest = np.fmax.reduce(shares)
    return float(largest if largest > limit else shares.max())
