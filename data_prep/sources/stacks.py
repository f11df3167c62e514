"""Stacks: DICOM images that can be the slices of one scan, grouped from a folder's images."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import MachineError, ScanError
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import pseudonym
from data_prep.sources.images import CANNOT_OPEN, Image, SubjectRule, list_images


@dataclass(frozen=True)
class Stack:
    """Images of one series, ordered along their normal, that can be one scan or that are all set aside.

    ``fault``: why it may be incomplete: a file of its folder cannot be read.
    """

    root: Path
    subject: str
    scan: str
    images: tuple[Image, ...]
    fault: Exception | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return tuple(self.root / image.path for image in self.images)

    @property
    def first(self) -> Image:
        """Its first image, which stands for what all its images have in common."""
        return self.images[0]

    @property
    def slices(self) -> int:
        """Number of image planes."""
        return sum(image.frames for image in self.images)


def find_stacks(
    root: Path, subject_of: SubjectRule, rule_name: str, progress: Progress = ignore_progress
) -> list[Stack]:
    """Group the DICOM files at or below ``root`` to stacks; the arguments are those of :func:`list_images`.

    An unreadable file makes its folder's stacks faulty. In a folder without any stack it is set aside by itself.
    """
    images = list_images(root, subject_of, rule_name, progress)
    unreadable = {os.path.dirname(image.path): image for image in images if image.fault}
    series = _by_series(image for image in images if not image.fault)
    stacks = [stack for members in series for stack in _split_series(root, members, unreadable)]
    folders = {os.path.dirname(image.path) for stack in stacks for image in stack.images}
    return stacks + [_unreadable_stack(root, unreadable[folder]) for folder in sorted(unreadable.keys() - folders)]


def _by_series(images: Iterable[Image]) -> list[list[Image]]:
    series = defaultdict(list)
    for image in images:
        series[image.subject, image.series].append(image)
    return [series[key] for key in sorted(series)]


def _split_series(root: Path, images: Sequence[Image], unreadable: Mapping[str, Image]) -> Iterator[Stack]:
    """Yield the stacks of one series; ``unreadable``: an unreadable file by its folder."""
    groups, scan = _by_grid(images), f"{images[0].subject}-{images[0].series}"
    for number, group in enumerate(groups, start=1):
        folders = {os.path.dirname(image.path) for image in group} & unreadable.keys()
        fault = _fault(unreadable[min(folders)]) if folders and not group[0].exclusion else None
        ordered = tuple(sorted(group, key=lambda image: (image.height, image.path)))
        yield Stack(root, images[0].subject, scan + (f"-{number}" if len(groups) > 1 else ""), ordered, fault)


def _by_grid(images: Sequence[Image]) -> list[list[Image]]:
    """Group images of one series by kernel, orientation, spacing and size, or by why they are set aside."""
    groups = defaultdict(list)
    for image in images:
        groups[(image.exclusion, "", "") if image.exclusion else ("", image.kernel, image.grid)].append(image)
    return [groups[key] for key in sorted(groups)]


def _fault(image: Image) -> Exception:
    """The fault of a scan beside an unreadable file: the machine's if the file cannot be opened, else the file's."""
    kind = MachineError if image.fault.startswith(CANNOT_OPEN) else ScanError
    return kind(f"a file of its folder {image.fault}")


def _unreadable_stack(root: Path, image: Image) -> Stack:
    return Stack(root, "unknown", f"x-{pseudonym(image.path)}", (image._replace(exclusion=f"file {image.fault}"),))
