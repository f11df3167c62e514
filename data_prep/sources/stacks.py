"""Stacks: DICOM images that can be the slices of one scan, grouped from the images below a folder."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.errors import ScanError
from data_prep.progress import Progress, ignore_progress
from data_prep.pseudonym import file_pseudonym, pseudonym
from data_prep.sources.copies import FileLabel, resolve_positions, set_copies_aside
from data_prep.sources.grouping import Group, are_one_stack, group_images, has_same_grid
from data_prep.sources.images import Image, SubjectRule, folder_series, list_images
from data_prep.sources.suspicion import Suspects, suspects_among, suspicion

_MAX_SCRAP_SLICES = 2


@dataclass(frozen=True)
class Stack:
    """Images of one series, ordered along their normal, that can be one scan or that are all set aside.

    ``fault``: why it can be no scan, or may be incomplete. ``copies``: further files with its images.
    """

    root: Path
    subject: str
    scan: str
    images: tuple[Image, ...]
    fault: Exception | None = None
    copies: tuple[Image, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return tuple(self.root / image.path for image in self.images)

    @property
    def first(self) -> Image:
        """Its first image, which stands for what all its images have in common."""
        return self.images[0]

    @property
    def kernel(self) -> str:
        """The kernel of its images; some of them may not tell it."""
        return next((image.kernel for image in self.images if image.kernel), "")

    @property
    def thickness(self) -> float:
        """The thickness of its slices in mm, 0 if unknown; some images may not tell it."""
        return next((image.thickness for image in self.images if image.thickness), 0.0)

    @property
    def slices(self) -> int:
        """Number of image planes."""
        return sum(image.frames for image in self.images)

    @property
    def lacks_uid(self) -> bool:
        """Whether its folder stands for its SeriesInstanceUID, which is empty."""
        return self.first.series == folder_series(self.first.path)

    @property
    def studies(self) -> tuple[str, ...]:
        """The pseudonyms of its studies."""
        return tuple(sorted({image.study for image in self.images} - {""}))


def find_stacks(
    root: Path,
    subject_of: SubjectRule,
    rule_name: str,
    progress: Progress = ignore_progress,
    label: FileLabel = file_pseudonym,
) -> tuple[list[Stack], Mapping[str, int]]:
    """Group the DICOM files at or below ``root`` to stacks; the first arguments are those of :func:`list_images`.

    With them comes the number of files that are no images, by the reason.

    An unreadable file is set aside. It makes the stacks faulty to which it may belong, as does an image that is set
    aside and may be a slice. ``label``: names a file in messages.
    """
    images, no_images = list_images(root, subject_of, rule_name, progress)
    unreadable = [image for image in images if image.fault]
    series = _by_series(image for image in images if not image.fault)
    suspects = suspects_among(images)
    stacks = [stack for members in series.values() for stack in _split_series(root, members, suspects, label)]
    return _doubt_continued(stacks, label) + _unreadable_stacks(root, unreadable), no_images


def _doubt_continued(stacks: Sequence[Stack], label: FileLabel) -> list[Stack]:
    """Return the stacks; one that a slice of another series continues has a fault, as it may lack that slice."""
    scraps = defaultdict[tuple[str, ...], list[Stack]](list)
    for stack in stacks:
        if stack.slices <= _MAX_SCRAP_SLICES and not stack.first.exclusion:
            scraps[_study_key(stack)].append(stack)
    return [_doubt(stack, scraps.get(_study_key(stack), ()), label) for stack in stacks] if scraps else [*stacks]


def _study_key(stack: Stack) -> tuple[str, ...]:
    return stack.subject, *(stack.studies or (os.path.dirname(stack.first.path),))


def _doubt(stack: Stack, scraps: Sequence[Stack], label: FileLabel) -> Stack:
    if stack.fault or stack.first.exclusion or stack.slices <= _MAX_SCRAP_SLICES:
        return stack
    scrap = next((scrap for scrap in scraps if _continues(scrap, stack)), None)
    if scrap is None:
        return stack
    reason = f"file {label(scrap.first.path)}, which is no scan of its own, continues it in another series"
    return replace(stack, fault=ScanError(reason))


def _continues(scrap: Stack, stack: Stack) -> bool:
    """Whether a few slices of the same study lie where the next ones of a stack would."""
    is_alike = len({scrap.kernel, stack.kernel} - {""}) < 2 and has_same_grid(scrap.first, stack.first)
    return is_alike and are_one_stack([scrap.images, stack.images])


def _by_series(images: Iterable[Image]) -> dict[str, list[Image]]:
    series = defaultdict[str, list[Image]](list)
    for image in images:
        series[image.series].append(image)
    return dict(sorted(series.items()))


def _split_series(root: Path, images: Sequence[Image], suspects: Suspects, label: FileLabel) -> Iterator[Stack]:
    """Yield the stacks of one series."""
    images, copies = set_copies_aside(root, images)
    groups = group_images(images, unknown_subject(root))
    for subject in dict.fromkeys(group.subject for group in groups):
        members = [group for group in groups if group.subject == subject]
        for number, group in enumerate(members, start=1):
            scan = f"{subject}-{images[0].series}" + (f"-{number}" if len(members) > 1 else "")
            yield _stack(root, scan, group, copies, suspects, label)


def unknown_subject(root: Path) -> str:
    """Return the patient of all images below a root that tell neither a patient nor a study."""
    return f"p-{pseudonym(str(root.absolute()))}"


def _stack(root: Path, scan: str, group: Group, copies: Sequence[Image], suspects: Suspects, label: FileLabel) -> Stack:
    if group.images[0].exclusion:
        return Stack(root, group.subject, scan, group.images)
    images, further_copies, conflict = resolve_positions(root, group.images, label)
    instances = {image.instance for image in images}
    stack_copies = (*further_copies, *(copy for copy in copies if copy.instance in instances))
    reason = group.fault or conflict
    fault = ScanError(reason) if reason else suspicion(images, suspects, label)
    return Stack(root, group.subject, scan, images, fault, stack_copies)


def _unreadable_stacks(root: Path, unreadable: Iterable[Image]) -> list[Stack]:
    """Return the unreadable files as stacks that are set aside, by folder and reason."""
    groups = defaultdict[tuple[str, str], list[Image]](list)
    for image in unreadable:
        groups[os.path.dirname(image.path), image.fault].append(
            image._replace(exclusion=f"file {image.fault}", frames=1)
        )
    return [Stack(root, "unknown", file_pseudonym(groups[key][0].path), tuple(groups[key])) for key in sorted(groups)]
