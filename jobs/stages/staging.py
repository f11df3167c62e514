"""Copies of a training's volumes on the disk of its node, if the cluster has one."""

import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.files import digest_json, locked, publishing
from data_prep.log import logger
from data_prep.ownership import private_temporary_folder
from data_prep.paths import pair_path
from data_prep.split import Part, Split
from pipeline.training.gpus import GIB

_PARTS: tuple[Part, ...] = ("train", "validation")


@contextmanager
def staged(data: Path, split: Split, max_gib: float | None) -> Iterator[Path]:
    """Copy the pairs that a training reads to ``$TMPDIR``, and yield the folder to read them from.

    All processes of a node share one copy, that only their user can read; the last to leave removes it. With
    ``max_gib`` None nothing is copied. If the pairs are larger, or the disk is full or missing, ``data`` itself is
    yielded, and a line says why.
    """
    if max_gib is None:
        yield data
        return
    temporary = os.environ.get("TMPDIR", "")
    if not temporary or not Path(temporary).is_dir():
        logger.info(_fall_back("TMPDIR names no folder of this node"))
        yield data
        return
    folder = private_temporary_folder(Path(temporary), "volumes")
    if folder is None:
        logger.info(_fall_back(f"{temporary} has no room for a folder that this user alone can read and write"))
        yield data
        return
    copy = folder / digest_json(str(data))[:12]
    with _shared(copy):
        obstacle = _copy_pairs(data, split, copy, max_gib)
        logger.info(_fall_back(obstacle) if obstacle else f"volumes are read from {copy}")
        yield data if obstacle else copy


def _fall_back(obstacle: str) -> str:
    return f"volumes are read where they lie, not from this node's disk: {obstacle}"


def _users(copy: Path) -> Path:
    """Return the file that the processes lock which use the copy; it lies beside it before and after."""
    return copy.with_suffix(".users")


@contextmanager
def _shared(copy: Path) -> Iterator[None]:
    """Keep other processes from removing the copy; remove it if this one is the last that used it."""
    with _users(copy).open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another process of this node still reads
            else:
                shutil.rmtree(copy, ignore_errors=True)


def _copy_pairs(data: Path, split: Split, copy: Path, max_gib: float) -> str:
    """Copy all pairs that a training reads; return what prevents it, or nothing."""
    segments = [segment for part in _PARTS for segment in split.parts[part]]
    pairs = sorted({pair_path(data, segment.dataset, segment.scan) for segment in segments})
    size = sum(path.stat().st_size for pair in pairs for path in pair.rglob("*") if path.is_file())
    if size > max_gib * GIB:
        return f"they take {size / GIB:.1f} GiB, and local_disk_gib is {max_gib:g}"
    try:
        copy.mkdir(mode=0o700, exist_ok=True)
        with locked(copy / ".copying"):
            for pair in pairs:
                _copy_pair(pair, copy / pair.relative_to(data))
    except OSError as error:
        return f"{copy}: {error.strerror}"
    return ""


def _copy_pair(pair: Path, copy: Path) -> None:
    """Copy a pair unless it is there already: a pair's own metadata hold the digests of its arrays."""
    if copy.is_dir() and filecmp.cmp(pair / "zarr.json", copy / "zarr.json", shallow=False):
        return
    with publishing(copy) as folder:
        for path in sorted(pair.rglob("*")):  # copytree would go on where the disk is full
            target = folder / path.relative_to(pair)
            if path.is_dir():
                target.mkdir()
            else:
                shutil.copyfile(path, target)
