"""The DICOM images below a folder, by their headers: read in parallel, and remembered for the next time.

What was read of a file is kept in the user's cache (mode 0600) with the file's size and time. Looking again at
100,000 files then lists the folders and opens no file. Identifiers are kept as pseudonyms.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from data_prep.cache import cache_path, read_cache, write_cache
from data_prep.errors import ScanError
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom_header import Frame, read_header, read_series_uid
from data_prep.readers.distinctions import DELIMITER

CANNOT_OPEN = "cannot be opened"
"""Start of the fault of a file that may be readable at another time, or on another machine."""
_NO_DICOM = "no DICOM file"
_BATCH_FILES = 200  # that a process reads between two reports of progress
_MIN_FILES_FOR_PROCESSES = 2000  # below, starting processes takes longer than reading
_VERSION = 2  # of what is remembered of a file

SubjectRule = Callable[[str, Path], str]
"""Gives the id under which a patient may be shown, from PatientID and the file's path below the root.

The id is an empty text if they do not tell the patient.
"""

Files = Sequence[tuple[str, int, int]]
"""Path below the root, size (bytes) and time (ns) of files."""


class Image(NamedTuple):
    """What is remembered of a file: plain values, and no identifier. Texts are empty where they do not apply.

    ``path``: below the root. ``size``: bytes. ``time``: of the last change, ns. ``fault``: why the file could not
    be read. ``subject``: the patient, where PatientID or the path tells it. ``study``, ``series``, ``instance``: stand
    for the UIDs; a series without one is its folder. ``exclusion``: why it is no slice of a CT scan. ``dose``: ``full``
    or ``low``, if its description says so. ``thickness``: mm, 0 if unknown. ``grid``: orientation, pixel spacing and
    size, as numbers. ``height``: mm along the normal of the slices. ``frames``: number of image planes.
    ``distinctions``: texts that may tell images of one series apart, joined by ``DELIMITER``.
    """

    path: str
    size: int
    time: int
    fault: str
    subject: str
    study: str
    series: str
    instance: str
    exclusion: str
    dose: str
    kernel: str
    thickness: float
    grid: str
    height: float
    frames: int
    distinctions: str


def list_images(
    root: Path, subject_of: SubjectRule, rule_name: str, progress: Progress = ignore_progress
) -> list[Image]:
    """List the DICOM files at or below ``root``, sorted by path; other files are passed over.

    ``rule_name`` stands for ``subject_of`` in the cache: what one rule gave is not used for another.
    """
    cache = cache_path("headers", str(root.absolute()), rule_name)
    cached = {image.path: image for image in _read_cached(cache)}
    files = list(_walk(root))
    unchanged = [cached[path] for path, size, time in files if _is_unchanged(cached.get(path), size, time)]
    changed = [(path, size, time) for path, size, time in files if not _is_unchanged(cached.get(path), size, time)]
    images = unchanged + _read_images(root, changed, subject_of, len(unchanged), progress)
    if changed or len(cached) != len(files):
        write_cache(cache, _VERSION, images)
    return sorted(image for image in images if image.fault != _NO_DICOM)


def _read_cached(cache: Path) -> list[Image]:
    try:
        return [Image(*values) for values in read_cache(cache, _VERSION) or ()]
    except TypeError:
        return []


def _is_unchanged(image: Image | None, size: int, time: int) -> bool:
    return image is not None and (image.size, image.time) == (size, time) and not image.fault.startswith(CANNOT_OPEN)


def _walk(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield path below ``root``, size and time of each file; links to folders are not followed."""
    pending, start = [str(root)], len(os.path.join(root, ""))
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file() and entry.name != "DICOMDIR":
                    stat = entry.stat()
                    yield entry.path[start:], stat.st_size, stat.st_mtime_ns


def _read_images(root: Path, files: Files, subject_of: SubjectRule, unchanged: int, progress: Progress) -> list[Image]:
    """Read the files; ``unchanged``: number of files that need no reading, for the progress."""
    batches = [files[start : start + _BATCH_FILES] for start in range(0, len(files), _BATCH_FILES)]
    read = partial(_read_batch, root, subject_of)
    images, total = list[Image](), unchanged + len(files)
    for batch in map(read, batches) if len(files) < _MIN_FILES_FOR_PROCESSES else _map_in_processes(read, batches):
        images += batch
        progress(unchanged + len(images), total, "headers")
    return images


def _map_in_processes(read: Callable[[Files], list[Image]], batches: Sequence[Files]) -> Iterator[list[Image]]:
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(read, batches)


def _read_batch(root: Path, subject_of: SubjectRule, files: Files) -> list[Image]:
    return [_read_image(root, subject_of, *file) for file in files]


def _read_image(root: Path, subject_of: SubjectRule, path: str, size: int, time: int) -> Image:
    try:
        if not _has_preamble(root / path):
            return unread_image(path, size, time, _NO_DICOM)
        header = read_header(root / path)
    except ScanError as error:
        uid = read_series_uid(root / path)
        return unread_image(path, size, time, str(error), pseudonym(uid) if uid else "")
    except OSError as error:
        return unread_image(path, size, time, f"{CANNOT_OPEN} ({error.strerror})")
    acquisition, frame = header.acquisition, next(iter(header.frames), None)
    return Image(
        path,
        size,
        time,
        fault="",
        subject=subject_of(header.patient, Path(path)),
        study=pseudonym(header.study) if header.study else "",
        series=pseudonym(header.series) if header.series else folder_series(path),
        instance=pseudonym(header.instance) if header.instance else "",
        exclusion=header.exclusion,
        dose=dose_of(header.description),
        kernel=acquisition.kernel,
        thickness=acquisition.thickness or 0.0,
        grid=_grid(frame) if frame else "",
        height=_height(frame) if frame else 0.0,
        frames=max(1, len(header.frames)),
        distinctions=DELIMITER.join(frame.distinctions) if frame else "",
    )


def folder_series(path: str) -> str:
    """Return what stands for the series of an image without SeriesInstanceUID, from the path below the root."""
    return pseudonym(str(Path(path).parent))


def unread_image(path: str, size: int, time: int, fault: str, series: str = "") -> Image:
    """Return what is remembered of a file that cannot be read; ``series``: if that is known of it."""
    return Image(path, size, time, fault, "", "", series, "", "", "", "", 0.0, "", 0.0, 0, "")


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def dose_of(description: str) -> str:
    """Return ``full`` or ``low`` where a series' description or a folder's name says so, else an empty text."""
    if re.search(r"(low|quarter)[ _-]?(dose|\d+mm)|_QD_", description, re.IGNORECASE):
        return "low"
    return "full" if re.search(r"full[ _-]?(dose|\d+mm)|_FD_", description, re.IGNORECASE) else ""


def _grid(frame: Frame) -> str:
    numbers = [f"{number + 0.0:.9g}" for number in (*frame.orientation, *frame.spacing)]
    return " ".join([*numbers, *map(str, frame.shape)])


def _height(frame: Frame) -> float:
    a, b, c, d, e, f = frame.orientation  # not through numpy, which takes ten times as long for six numbers
    x, y, z = frame.position
    return (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z
