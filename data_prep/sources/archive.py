"""The DICOM images below a folder, by their headers: read in parallel, remembered, grouped to stacks.

What was read of a file is kept in the user's own cache (mode 0600) with its size and time, so that a
second look at 100,000 files costs a listing and no reading. Identifiers are pseudonyms there.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.cache import memory_path, read_memory, write_memory
from data_prep.errors import MachineError, ScanError
from data_prep.progress import Progress, untold
from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom_header import Frame, read_header

_TOGETHER = 200  # files that a process reads between two reports
_WORTH_PROCESSES = 2000  # below, starting processes takes longer than reading
_VERSION = 1  # of what is remembered of a file

Subject = Callable[[str, Path], str]
"""The id under which a patient may be known, from PatientID and the file's path below the archive."""


class Image(NamedTuple):
    """What is remembered of a file: plain values, no identifier. ``path`` is below the archive; times in ns.

    ``fault``: why it could not be read; ``aside``: why it is no slice of a CT scan. ``place``: orientation,
    size and spacing in words, alike for slices that can be one scan. ``height``: mm along the normal.
    """

    path: str
    size: int
    time: int
    fault: str
    subject: str
    series: str
    aside: str
    dose: str
    kernel: str
    thickness: float
    place: str
    height: float
    frames: int


@dataclass(frozen=True)
class Stack:
    """Images of one series that can be one scan, ordered along their normal, or that are all set aside."""

    root: Path
    subject: str
    scan: str
    images: tuple[Image, ...]
    fault: Exception | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(self.root / image.path for image in self.images)

    @property
    def first(self) -> Image:
        """What all have in common."""
        return self.images[0]

    @property
    def slices(self) -> int:
        """Image planes."""
        return sum(image.frames for image in self.images)


def find_stacks(root: Path, subject_of: Subject, rule: str, progress: Progress = untold) -> list[Stack]:
    """Stacks of the DICOM files at or below ``root``; ``rule`` names what ``subject_of`` does."""
    return list(_stacks(root, list_images(root, subject_of, rule, progress)))


def list_images(root: Path, subject_of: Subject, rule: str, progress: Progress = untold) -> list[Image]:
    """Every DICOM file at or below ``root``; a file that is none is passed over."""
    memory = memory_path("headers", str(root.absolute()), rule)
    known = {image.path: image for image in _recall(memory)}
    files = list(_files(root))
    same = [known[path] for path, size, time in files if _unchanged(known.get(path), size, time)]
    fresh = [(path, size, time) for path, size, time in files if not _unchanged(known.get(path), size, time)]
    images = same + _read_all(root, fresh, subject_of, len(same), progress)
    if fresh or len(known) != len(files):
        write_memory(memory, _VERSION, images)
    return sorted(image for image in images if image.fault != _NO_DICOM)


def _unchanged(image: Image | None, size: int, time: int) -> bool:
    return image is not None and (image.size, image.time) == (size, time) and not image.fault.startswith(_CLOSED)


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    """Path below ``root``, size and modification time of every file; links to folders are not followed."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file() and entry.name != "DICOMDIR":
                    stat = entry.stat()
                    yield os.path.relpath(entry.path, root), stat.st_size, stat.st_mtime_ns


def _read_all(
    root: Path, files: Sequence[tuple[str, int, int]], subject_of: Subject, before: int, progress: Progress
) -> list[Image]:
    parts = [files[start : start + _TOGETHER] for start in range(0, len(files), _TOGETHER)]
    read, images, total = partial(_read_part, root, subject_of), list[Image](), before + len(files)
    if len(files) < _WORTH_PROCESSES:
        for found in map(read, parts):
            images += found
            progress(before + len(images), total, "headers")
        return images
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("forkserver")) as pool:
        for found in pool.map(read, parts):
            images += found
            progress(before + len(images), total, "headers")
    return images


def _read_part(root: Path, subject_of: Subject, files: Sequence[tuple[str, int, int]]) -> list[Image]:
    return [_read(root, subject_of, *file) for file in files]


_NO_DICOM = "no DICOM file"
_CLOSED = "cannot be opened"


def _read(root: Path, subject_of: Subject, path: str, size: int, time: int) -> Image:
    unread = partial(Image, path, size, time, subject="", series="", aside="", dose="", kernel="", thickness=0.0,
                     place="", height=0.0, frames=0)  # fmt: skip
    try:
        if not _has_preamble(root / path):
            return unread(fault=_NO_DICOM)
        header = read_header(root / path)
    except ScanError as error:
        return unread(fault=str(error))
    except OSError as error:
        return unread(fault=f"{_CLOSED} ({error.strerror})")
    series = pseudonym(header.series or str(Path(path).parent))
    made, frames = header.acquisition, header.frames
    dose, thickness = dose_of(header.description), made.thickness or 0.0
    subject = subject_of(header.patient, Path(path))
    image = Image(path, size, time, "", subject, series, header.aside, dose, made.kernel, thickness, "", 0.0,
                  max(1, len(frames)))  # fmt: skip
    return image._replace(place=_place(frames[0]), height=_height(frames[0])) if frames else image


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def dose_of(description: str) -> str:
    """``full`` or ``low``, where a series' description or a folder's name says so, or nothing."""
    if re.search(r"(low|quarter)[ _-]?(dose|\d+mm)|_QD_", description, re.IGNORECASE):
        return "low"
    return "full" if re.search(r"full[ _-]?(dose|\d+mm)|_FD_", description, re.IGNORECASE) else ""


def _place(frame: Frame) -> str:
    orientation = [f"{value + 0.0:.2f}" for value in np.round(frame.orientation, 2)]
    return " ".join([*orientation, *(f"{value:.3f}" for value in frame.spacing), *map(str, frame.shape)])


def _height(frame: Frame) -> float:
    row, column = np.asarray(frame.orientation, dtype=np.float64).reshape(2, 3)
    return float(np.cross(row, column) @ np.asarray(frame.position))


def _stacks(root: Path, images: Sequence[Image]) -> Iterator[Stack]:
    faults = {os.path.dirname(image.path): image for image in images if image.fault}
    used = set()
    series = defaultdict(list)
    for image in images:
        if not image.fault:
            series[image.subject, image.series].append(image)
    for (subject, uid), members in sorted(series.items()):
        stacks = _alike(members)
        for number, alike in enumerate(stacks, start=1):
            folders = {os.path.dirname(image.path) for image in alike} & faults.keys()
            used |= folders
            fault = _fault(faults[min(folders)]) if folders and not alike[0].aside else None
            ordered = tuple(sorted(alike, key=lambda image: (image.height, image.path)))
            yield Stack(root, subject, f"{subject}-{uid}" + (f"-{number}" if len(stacks) > 1 else ""), ordered, fault)
    for folder in sorted(faults.keys() - used):
        image = faults[folder]
        yield Stack(root, "unknown", f"x-{pseudonym(image.path)}", (image._replace(aside=f"file {image.fault}"),))


def _fault(image: Image) -> Exception:
    """Why a scan beside an unreadable file cannot be trusted to be whole: this machine's fault, or the file's."""
    kind = MachineError if image.fault.startswith(_CLOSED) else ScanError
    return kind(f"a file of its folder {image.fault}")


def _alike(images: Sequence[Image]) -> list[list[Image]]:
    """Images of one series, apart by kernel, orientation, spacing and size, and by why they are set aside."""
    groups = defaultdict(list)
    for image in images:
        groups[(image.aside, "", "") if image.aside else ("", image.kernel, image.place)].append(image)
    return [groups[key] for key in sorted(groups)]


def _recall(memory: Path) -> list[Image]:
    try:
        return [Image(*values) for values in read_memory(memory, _VERSION) or ()]
    except TypeError:
        return []
