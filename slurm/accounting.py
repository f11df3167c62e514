"""What jobs were given and for how long, told by Slurm's accounting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from slurm.commands import SlurmError, array_of, batches, output, unix_seconds

_FIELDS = "JobID,State,ExitCode,Reason,Submit,Eligible,Start,End,ElapsedRaw,AllocTRES,NodeList"


@dataclass(frozen=True)
class Allocation:
    """One incarnation of a job: a job that is requeued n times has n + 1 of them.

    Times are Unix seconds, None where Slurm does not know them (yet). ``submitted`` of a later incarnation is when the
    job was requeued. ``seconds`` counts to now while it runs, and not while it is suspended. ``gpus`` is what the site
    counts (``AccountingStorageTRES=gres/gpu``), 0 where it does not.
    """

    job: str
    incarnation: int  # 0 is the first
    state: str
    exit: str  # "exit code:signal"
    reason: str  # why it waited last; Slurm keeps it after the start
    nodes: str
    submitted: float | None
    eligible: float | None  # from here on it waited for nothing but its turn
    started: float | None
    ended: float | None
    seconds: float
    gpus: int
    cpus: int

    @property
    def waited(self) -> float | None:
        """Seconds in the queue after it might have started, or None if it did not start or Slurm noted no such time."""
        return None if self.started is None or self.eligible is None else max(0.0, self.started - self.eligible)

    @property
    def gpu_seconds(self) -> float:
        """GPUs held, times seconds."""
        return self.gpus * self.seconds


def allocations(ids: Sequence[str]) -> list[Allocation] | None:
    """All incarnations of jobs, ordered by job, then in time; None on a cluster without accounting.

    Args:
        ids: of jobs ("123"), of whole arrays ("123") or of their tasks ("123_4"); unknown ones are passed over.

    Raises:
        SlurmError: accounting does not answer.
    """
    found: list[Allocation] = []
    for batch in batches(sorted({array_of(job) for job in ids})):  # sacct finds no waiting task by its own id
        try:
            text = output("sacct", "-nPXD", f"--format={_FIELDS}", f"--jobs={','.join(batch)}")
        except SlurmError as error:
            if "accounting storage is disabled" in str(error):
                return None
            raise
        found += (one for line in text.splitlines() for one in _read(line))
    wanted = set(ids)
    found = [one for one in found if one.job in wanted or array_of(one.job) in wanted]
    found.sort(key=lambda one: (one.job, one.submitted or 0.0))
    return [
        replace(one, incarnation=number)
        for _, incarnations in groupby(found, attrgetter("job"))
        for number, one in enumerate(incarnations)
    ]


def _read(line: str) -> Iterator[Allocation]:
    """A line of sacct; it may stand for many array tasks that did not start: "123_[0-6:2,9%4]"."""
    job, state, code, reason, submitted, eligible, started, ended, seconds, resources, nodes = line.split("|")
    tres = dict(part.split("=") for part in resources.split(",") if part)
    one = Allocation(
        job=job, incarnation=0, state=state.split()[0], exit=code,  # "CANCELLED by 1000"
        reason=_word(reason), nodes=_word(nodes), submitted=unix_seconds(submitted), eligible=unix_seconds(eligible),
        started=unix_seconds(started) if _word(nodes) else None,  # a cancelled waiting job "started" when it ended
        ended=unix_seconds(ended), seconds=float(seconds or 0),
        gpus=_gpus(tres), cpus=int(tres.get("cpu", 0)),
    )  # fmt: skip
    array, bracket, tasks = job.partition("_[")
    if not bracket:
        yield one
        return
    for part in tasks.rstrip("]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        for task in range(int(first), int(last or first) + 1, int(step or 1)):
            yield replace(one, job=f"{array}_{task}")


def _gpus(tres: dict[str, str]) -> int:
    """A site may count GPUs as a whole, by type ("gres/gpu:a100"), or both."""
    typed = sum(int(count) for name, count in tres.items() if name.startswith("gres/gpu:"))
    return int(tres.get("gres/gpu", typed))


def _word(text: str) -> str:
    return "" if text in ("None", "None assigned") else text
