"""Outputs of items: their digests, which markers hold, and what became of the files since."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from data_prep.files import digest_files
from jobs.engine.decision import Cause, Reason
from jobs.engine.marker import Marker
from jobs.engine.outcome import RunFailed
from jobs.engine.stage import Stage

_REMEDY = "run the same command again, and it is made anew"


def digest_outputs(stage: Stage, item: str) -> dict[str, str]:
    """Return the digest of each output of an item, by its path below the run folder."""
    root = stage.folder.root
    return {path.relative_to(root).as_posix(): _digest(path) for path in stage.outputs(item)}


def first_fault(stage: Stage, item: str, marker: Marker) -> Reason | None:
    """Return the first output that is missing, or is no longer what the item's marker says; None if there is none."""
    root = stage.folder.root
    for path in (*stage.outputs(item), *(root / name for name in marker.outputs)):
        name = path.relative_to(root).as_posix()
        if not path.exists():
            return Reason(Cause.OUTPUT_MISSING, (name,))
        if name not in marker.outputs:  # as of a data set whose former name is back
            return Reason(Cause.OUTPUT_OF_ANOTHER, (name,))
    changed = (name for name, digest in marker.outputs.items() if _digest(root / name) != digest)
    return next((Reason(Cause.OUTPUT_CHANGED, (name,)) for name in changed), None)


def check_outputs(stages: Iterable[tuple[Stage, str]]) -> None:
    """Check, before they are read, that the outputs of completed items are what their markers say.

    Raises:
        RunFailed: one is missing or was changed.
    """
    for stage, item in stages:
        marker = stage.markers.read(item)
        fault = first_fault(stage, item, marker) if marker and marker.state == "done" else None
        if fault:
            path = stage.folder.root / fault.details[0]
            raise RunFailed(f"{Reason(fault.cause, (str(path),))}: {_REMEDY}")


def _digest(output: Path) -> str:
    """Digest a file, or the metadata of a Zarr group, which hold the digests of its arrays; empty without either."""
    files = tuple(_files(output))
    return _digest_of(files, tuple(_signature(path) for path in files)) if all(map(Path.is_file, files)) else ""


def _files(output: Path) -> Iterator[Path]:
    if not output.is_dir():
        yield output
        return
    yield output / "zarr.json"
    yield from sorted(output.glob("*/zarr.json"))


@lru_cache(100_000)
def _digest_of(files: tuple[Path, ...], _signatures: tuple[tuple[int, ...], ...]) -> str:
    """Digest files once in a process, as long as they stay the same."""
    return digest_files(files)


def _signature(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
