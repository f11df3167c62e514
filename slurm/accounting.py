"""What was allocated to jobs and for how long, by Slurm's accounting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from slurm.commands import SlurmError, array_of, batches, is_after, is_before, output, unix_seconds

_FIELDS = "JobID,State,ExitCode,Reason,Submit,Eligible,Start,End,ElapsedRaw,AllocTRES,NodeList"


@dataclass(frozen=True)
class Allocation:
    """Resources of one incarnation of a job; a job that is requeued n times has n + 1 incarnations.

    Times are Unix seconds, None where Slurm does not know them (yet). ``submitted`` of a later incarnation is when the
    job was requeued. ``seconds`` grows while the job runs, but not while it is suspended. ``gpus`` is 0 where the site
    does not count them (``AccountingStorageTRES=gres/gpu``).
    """

    job: str
    incarnation: int  # 0 is the first
    state: str
    exit: str  # "exit code:signal"
    reason: str  # the last one for which it waited; Slurm keeps it after the start
    nodes: str
    submitted: float | None
    eligible: float | None  # from then on it only waited for its turn
    started: float | None
    ended: float | None
    seconds: float
    gpus: int
    cpus: int

    @property
    def waited(self) -> float | None:
        """Seconds in the queue from ``eligible`` to ``started``; None if either is not known."""
        return None if self.started is None or self.eligible is None else max(0.0, self.started - self.eligible)

    @property
    def gpu_seconds(self) -> float:
        """Number of GPUs times seconds."""
        return self.gpus * self.seconds


def allocations(ids: Sequence[str], at: Mapping[str, float] | None = None) -> list[Allocation] | None:
    """Ask accounting for all incarnations of jobs, ordered by job, then by time; None on a cluster without accounting.

    Args:
        ids: of jobs ("123"), of arrays ("123": all their tasks) or of array tasks ("123_4"); unknown ids are ignored.
        at: when jobs and arrays were submitted, by id; other jobs of these ids are ignored, too.

    Raises:
        SlurmError: accounting does not answer.
    """
    try:
        lines = _accounting_lines(ids)
    except SlurmError as error:
        if "accounting storage is disabled" in str(error):
            return None
        raise
    requested = set(ids)
    allocated = [x for line in lines for x in _read(line) if requested & {x.job, array_of(x.job)}]
    allocated.sort(key=lambda x: (x.job, x.submitted or 0.0))
    return [
        replace(incarnation, incarnation=number)
        for job, incarnations in groupby(allocated, attrgetter("job"))
        for number, incarnation in enumerate(_ours(list(incarnations), (at or {}).get(array_of(job))))
    ]


def _ours(incarnations: Sequence[Allocation], at: float | None) -> Sequence[Allocation]:
    """Leave out what has the id of a job that was submitted at this time, and is another one."""
    if at is None:
        return incarnations
    later = [x for x in incarnations if not is_before(x.submitted, at)]
    return [] if later and is_after(later[0].submitted, at) else later


def _accounting_lines(ids: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for batch in batches(sorted({array_of(job) for job in ids})):  # sacct does not find a waiting task by its id
        lines += output("sacct", "-nPXD", f"--format={_FIELDS}", f"--jobs={','.join(batch)}").splitlines()
    return lines


def _read(line: str) -> Iterator[Allocation]:
    """Read a line of sacct; one line may stand for many array tasks that did not start: "123_[0-6:2,9%4]"."""
    job, state, code, reason, submitted, eligible, started, ended, seconds, resources, nodes = line.split("|")
    tres = dict(part.split("=") for part in resources.split(",") if part)
    node_list = _blank_if_none(nodes)
    allocation = Allocation(
        job=job, incarnation=0, state=state.split()[0], exit=code,  # "CANCELLED by 1000"
        reason=_blank_if_none(reason), nodes=node_list, submitted=unix_seconds(submitted),
        eligible=unix_seconds(eligible),
        started=unix_seconds(started) if node_list else None,  # a cancelled waiting job "started" when it ended
        ended=unix_seconds(ended), seconds=float(seconds or 0), gpus=_gpus(tres), cpus=int(tres.get("cpu", 0)),
    )  # fmt: skip
    array, bracket, tasks = job.partition("_[")
    if bracket:
        yield from (replace(allocation, job=f"{array}_{task}") for task in _task_numbers(tasks))
    else:
        yield allocation


def _task_numbers(tasks: str) -> Iterator[int]:
    """Expand the array tasks in a list such as "0-6:2,9%4]"."""
    for part in tasks.rstrip("]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def _gpus(tres: dict[str, str]) -> int:
    """Count GPUs; a site may list them in all, by type ("gres/gpu:a100"), or both."""
    typed = sum(int(count) for name, count in tres.items() if name.startswith("gres/gpu:"))
    return int(tres.get("gres/gpu", typed))


def _blank_if_none(text: str) -> str:
    return "" if text in ("None", "None assigned") else text
