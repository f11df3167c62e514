"""The DICOM images below a folder, by their headers: read in parallel, and remembered for the next time.

What was read of a file is kept in the user's cache (mode 0600) with the file's size and time. Looking again at
100,000 files then lists the folders and opens no file. Identifiers are kept as pseudonyms.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from data_prep.cache import cache_path, read_cache, write_cache
from data_prep.errors import ScanError, UserError
from data_prep.processes import end_with_parent, start_fork_server
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import pseudonym, temporary_key, use_temporary_key
from data_prep.readers.dicom_file import NoDicomError
from data_prep.readers.dicom_header import Frame, Header, read_header, read_series_uid
from data_prep.readers.distinctions import DELIMITER
from data_prep.readers.suspects import Plane
from data_prep.sources.file_names import named_as_images
from data_prep.sources.tree import CANNOT_OPEN, Entry, fault_of, list_files
from data_prep.writers.dicom_elements import SERIES_ENDING

_EMPTY, _NO_DICOM, _DIRECTORY = "is empty", str(NoDicomError()), "is the directory of a disc"
_BATCH_FILES = 200  # that a process reads between two reports of progress
_MIN_FILES_FOR_PROCESSES = 2000  # below, starting processes takes longer than reading
DENOISED = "denoised"
_VERSION = 10  # of what is remembered of a file

Entries = Sequence[Entry]
SubjectRule = Callable[[str, Path], str]
"""Gives the id under which a patient may be shown, from PatientID and the file's path below the root.

The id is an empty text if they do not tell the patient.
"""


class Image(NamedTuple):
    """What is remembered of a file: plain values, and no identifier. Texts are empty where they do not apply.

    ``path``: below the root. ``size``: bytes. ``time``: of the last change, ns. ``fault``: why the file could not
    be read. ``subject``: the patient, where PatientID or the path tells it. ``study``, ``series``, ``instance``: stand
    for the UIDs; a series without one is its folder. ``exclusion``: why it is no slice of a CT scan, even with a fault.
    ``dose``: ``full`` or ``low``, if its description says so. ``thickness``: mm, 0 if unknown. ``grid``: orientation,
    pixel spacing and size, as numbers; with an exclusion it is what is known of an image that may be a slice none the
    less. ``height``: mm along the normal of the slices, infinite if unknown. ``frames``: number of image planes.
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
) -> tuple[list[Image], Mapping[str, int]]:
    """List the DICOM files at or below ``root``, and those named as if they were; sorted by path.

    Other files are passed over: their number by the reason comes with the list. ``rule_name`` stands for ``subject_of``
    in the cache: what one rule gave is not used for another.

    Raises:
        UserError: ``root`` is no folder, or cannot be looked at; or a process that reads was killed.
    """
    cache = None if temporary_key() else cache_path("headers", str(root.absolute()), rule_name)
    cached = {image.path: image for image in _read_cached(cache)} if cache else {}
    entries = list_files(root)
    unchanged = [image for entry in entries if (image := _recall(cached, entry))]
    paths = {image.path for image in unchanged}
    unread = [entry for entry in entries if entry.path not in paths]
    changed = [entry for entry in unread if not _is_directory(entry.path)]
    contents = unchanged + _read_images(root, changed, subject_of, len(unchanged), progress)
    if cache and (changed or len(cached) != len(contents)):
        write_cache(cache, _VERSION, contents)
    images, counts = _images_among(contents)
    return sorted(images), {**counts, _DIRECTORY: len(unread) - len(changed)}


def _is_directory(path: str) -> bool:
    """Whether a file is the directory of a disc by its name."""
    return os.path.basename(path).upper() == "DICOMDIR"


def _images_among(files: list[Image]) -> tuple[list[Image], Mapping[str, int]]:
    """Return the files that are DICOM, or are named as if they were, and what cannot be looked at.

    With them comes the number of all others by the reason.
    """
    strangers = [file for file in files if _is_stranger(file)]
    if not strangers:
        return files, {}
    images = [file for file in files if not _is_stranger(file)]
    names = named_as_images([file.path for file in strangers], (image.path for image in images))
    missed = [file for file in strangers if file.size < 0 and file.path not in names]
    counts = Counter(file.fault for file in strangers if file.size >= 0 and file.path not in names)
    return [
        *images,
        *(file for file in strangers if file.path in names),
        *(file._replace(exclusion=f"file {file.fault}") for file in missed),
    ], counts


def _is_stranger(file: Image) -> bool:
    return file.size < 0 or file.fault in (_EMPTY, _NO_DICOM)


def _read_cached(cache: Path) -> list[Image]:
    try:
        return [Image(*values) for values in read_cache(cache, _VERSION) or ()]
    except TypeError:
        return []


def _recall(cached: Mapping[str, Image], entry: Entry) -> Image | None:
    """Return what is remembered of a file, unless it changed, or could not be opened then or now."""
    image = cached.get(entry.path)
    if image is None or entry.fault or image.fault.startswith(CANNOT_OPEN):
        return None
    return image if (image.size, image.time) == (entry.size, entry.time) else None


def _read_images(
    root: Path, files: Entries, subject_of: SubjectRule, unchanged: int, progress: Progress
) -> list[Image]:
    """Read the files; ``unchanged``: number of files that need no reading, for the progress."""
    batches = [files[start : start + _BATCH_FILES] for start in range(0, len(files), _BATCH_FILES)]
    read = partial(_read_batch, root, subject_of)
    images, total = list[Image](), unchanged + len(files)
    for batch in map(read, batches) if len(files) < _MIN_FILES_FOR_PROCESSES else _map_in_processes(read, batches):
        images += batch
        progress(unchanged + len(images), total, "headers")
    return images


def _map_in_processes(read: Callable[[Entries], list[Image]], batches: Sequence[Entries]) -> Iterator[list[Image]]:
    cores = len(os.sched_getaffinity(0))
    context, key = get_context("forkserver"), temporary_key()
    start_fork_server(["__main__"])
    try:
        with ProcessPoolExecutor(cores, context, _prepare_reader, (key,)) as pool:
            yield from pool.map(read, batches)
    except BrokenProcessPool as error:
        raise UserError("a process that read headers was killed: this machine may have too little memory") from error


def _prepare_reader(key: bytes) -> None:
    end_with_parent()
    use_temporary_key(key)


def _read_batch(root: Path, subject_of: SubjectRule, files: Entries) -> list[Image]:
    return [_read_image(root, subject_of, file) for file in files]


def _read_image(root: Path, subject_of: SubjectRule, file: Entry) -> Image:
    if file.fault:
        return unread_image(file, file.fault)
    try:
        return _image(file, read_header(root / file.path), subject_of)
    except NoDicomError:
        return unread_image(file, _NO_DICOM if file.size else _EMPTY)
    except ScanError as error:
        uid = read_series_uid(root / file.path)
        return unread_image(file, str(error), pseudonym(uid) if uid else "")
    except OSError as error:
        return unread_image(file, fault_of(error))


def _image(file: Entry, header: Header, subject_of: SubjectRule) -> Image:
    acquisition, frame = header.acquisition, next(iter(header.frames), None)
    plane = frame or header.suspect
    return Image(
        file.path,
        file.size,
        file.time,
        fault="",
        subject=subject_of(header.patient, Path(file.path)),
        study=pseudonym(header.study) if header.study else "",
        series=pseudonym(header.series) if header.series else folder_series(file.path),
        instance=pseudonym(header.instance) if header.instance else "",
        exclusion=header.exclusion,
        dose=dose_of(header.description),
        kernel=acquisition.kernel,
        thickness=acquisition.thickness or 0.0,
        grid=_grid(plane) if plane else "",
        height=_height(plane) if plane else 0.0,
        frames=max(1, len(header.frames)),
        distinctions=DELIMITER.join(frame.distinctions) if frame else "",
    )


def folder_series(path: str) -> str:
    """Return what stands for the series of an image without SeriesInstanceUID, from the path below the root."""
    return pseudonym(str(Path(path).parent))


def unread_image(file: Entry, fault: str, series: str = "") -> Image:
    """Return what is remembered of a file that cannot be read; ``series``: if that is known of it."""
    return Image(file.path, file.size, file.time, fault, "", "", series, "", "", "", "", 0.0, "", 0.0, 0, "")


def dose_of(description: str) -> str:
    """Return ``full``, ``low`` or ``denoised`` where a series' description or a folder's name says so, else "".

    ``denoised``: written by this program.
    """
    if description.rstrip(" \0").endswith(SERIES_ENDING):
        return DENOISED
    if re.search(r"(low|quarter)[ _-]?(dose|\d+mm)|_QD_", description, re.IGNORECASE):
        return "low"
    return "full" if re.search(r"full[ _-]?(dose|\d+mm)|_FD_", description, re.IGNORECASE) else ""


def _grid(plane: Frame | Plane) -> str:
    numbers = [f"{number + 0.0:.9g}" for number in (*plane.orientation, *plane.spacing)]
    return " ".join([*numbers, *(str(size or math.nan) for size in plane.shape)])


def _height(plane: Frame | Plane) -> float:
    a, b, c, d, e, f = plane.orientation  # not through numpy, which takes ten times as long for six numbers
    x, y, z = plane.position
    height = (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z
    return math.inf if math.isnan(height) else height
