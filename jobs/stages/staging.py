"""Volumes of a training on the node's own disk, where the cluster gives one."""

import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.files import digest_json, locked, publishing
from data_prep.paths import pair_path
from data_prep.split import Part, Split
from pipeline.training.gpus import GIB

_PARTS: tuple[Part, ...] = ("train", "validation")


@contextmanager
def staged(data: Path, split: Split, most_gib: float | None) -> Iterator[Path]:
    """Copy the pairs that a training reads to ``$TMPDIR``, and give the folder to read them from.

    All processes of a node share one copy, that only their user can read; the last to leave removes it. With
    ``most_gib`` None nothing is copied. Where the pairs are larger, or the disk is full or not there, they are read
    where they lie, and a line says why.
    """
    if most_gib is None:
        yield data
        return
    temporary = os.environ.get("TMPDIR", "")
    if not temporary or not Path(temporary).is_dir():
        print(_fall_back("TMPDIR names no folder of this node"), flush=True)
        yield data
        return
    place = Path(temporary) / f"quarterdose-{os.geteuid()}-{digest_json(str(data))[:12]}"
    with _used(place):
        reason = _why_not(data, split, place, most_gib)
        print(_fall_back(reason) if reason else f"volumes are read from {place}", flush=True)
        yield data if reason else place


def _fall_back(reason: str) -> str:
    return f"volumes are read where they lie, not from this node's disk: {reason}"


@contextmanager
def _used(place: Path) -> Iterator[None]:
    """Keep others from removing the copy; remove it when nobody uses it any more."""
    with place.with_suffix(".users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another process of this node still reads
            else:
                shutil.rmtree(place, ignore_errors=True)


def _why_not(data: Path, split: Split, place: Path, most_gib: float) -> str:
    """Make the copy whole; return why it cannot be, if so."""
    pairs = sorted({pair_path(data, one.dataset, one.scan) for part in _PARTS for one in split.parts[part]})
    size = sum(path.stat().st_size for pair in pairs for path in pair.rglob("*") if path.is_file())
    if size > most_gib * GIB:
        return f"they take {size / GIB:.1f} GiB, and local_disk_gib is {most_gib:g}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        if place.stat().st_uid != os.geteuid():
            return f"{place} is another user's"
        with locked(place / ".copying"):
            for pair in pairs:
                _copy(pair, place / pair.relative_to(data))
    except OSError as error:
        return f"{place}: {error.strerror}"
    return ""


def _copy(pair: Path, copy: Path) -> None:
    """Unless it is there: a pair's own metadata hold the digests of its arrays."""
    if copy.is_dir() and filecmp.cmp(pair / "zarr.json", copy / "zarr.json", shallow=False):
        return
    with publishing(copy) as folder:
        for path in sorted(pair.rglob("*")):  # copytree would go on where the disk is full
            target = folder / path.relative_to(pair)
            if path.is_dir():
                target.mkdir()
            else:
                shutil.copyfile(path, target)
