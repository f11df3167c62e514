"""Divide the images of one series: what its elements tell apart, with a tolerance between slices.

A SeriesInstanceUID holds images together. Noise in their headers must not divide them, for half of a scan looks like a
scan of twice the distance. So stacks that no element tells apart are refused where they complement each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from data_prep.readers.dicom import ORIENTATION_TOLERANCE, SPACING_TOLERANCE_MM
from data_prep.readers.distinctions import DELIMITER, separate
from data_prep.readers.slice_positions import are_consecutive, do_alternate, is_even
from data_prep.sources.images import Image

_COSINES = 6
_GRID_NAMES = (*["orientation"] * _COSINES, "pixel spacing", "pixel spacing", "image size", "image size")
_TOLERANCES = (*[ORIENTATION_TOLERANCE] * _COSINES, SPACING_TOLERANCE_MM, SPACING_TOLERANCE_MM, 0.0, 0.0)


@dataclass(frozen=True)
class Group:
    """Images that are the slices of one scan, or that are all set aside; ``fault``: why they can be no scan."""

    subject: str
    images: tuple[Image, ...]
    fault: str = ""


def group_images(images: Sequence[Image], unknown_subject: str) -> list[Group]:
    """Divide the images of one series; first those that may be slices, by kernel and grid.

    ``unknown_subject``: the patient of images with neither a patient nor a study.
    """
    slices = [image for image in images if not image.exclusion]
    subjects = _subjects(images, unknown_subject)
    groups = list(_group_slices(slices, subjects))
    excluded = defaultdict[tuple[str, str], list[Image]](list)
    for image in images:
        if image.exclusion:
            excluded[image.exclusion, subjects[image.subject]].append(image)
    return groups + [Group(subject, tuple(excluded[reason, subject])) for reason, subject in sorted(excluded)]


def _subjects(images: Sequence[Image], unknown_subject: str) -> dict[str, str]:
    """Return the patient to show for each ``subject`` of the images of one series; an empty one is the only other."""
    subjects = {image.subject for image in images}
    shown = sorted(subjects - {""})
    study = min((image.study for image in images if image.study), default="")
    unknown = shown[0] if len(shown) == 1 else f"p-{study}" if study else unknown_subject
    return {subject: subject or unknown for subject in subjects}


def _group_slices(slices: Sequence[Image], subjects: dict[str, str]) -> Iterator[Group]:
    kernels = _by_kernel(slices)
    fault = _contradiction(slices) or _continuation(kernels)
    for kernel_slices in kernels:
        parts = [
            (subject, grid_slices)
            for subject, subject_slices in _by_subject(kernel_slices, subjects)
            for grid_slices in _by_grid(subject_slices)
        ]
        faults = _complements(parts)
        for (subject, part), complement in zip(parts, faults, strict=True):
            for group, reason in _by_distinctions(part):
                yield Group(subject, group, fault or complement or reason)


def _contradiction(slices: Sequence[Image]) -> str:
    """Why slices without a kernel or a patient could belong to any of several; empty if none could."""
    for name, texts in (
        ("ConvolutionKernel", [image.kernel for image in slices]),
        ("PatientID", [image.subject for image in slices]),
    ):
        count = len({*texts} - {""})
        if count > 1 and "" in texts:
            return f"{name} is empty in {texts.count('')} images of a series that has {count} values of it"
    return ""


def _continuation(kernels: Sequence[Sequence[Image]]) -> str:
    """Why slices of several kernels are no scans each: they follow each other as if they were one."""
    if len(kernels) < 2 or not are_one_stack(kernels):
        return ""
    return (
        f"its slices are one stack in which ConvolutionKernel changes from {' to '.join(i[0].kernel for i in kernels)}"
    )


def _by_kernel(slices: Sequence[Image]) -> list[list[Image]]:
    return _by_text(slices, [image.kernel.lower() for image in slices])


def _by_text(slices: Sequence[Image], texts: Sequence[str]) -> list[list[Image]]:
    """Group slices by a text; if only one text is not empty, those without it belong to it."""
    if len({*texts} - {""}) <= 1:
        return [list(slices)] if slices else []
    groups = defaultdict[str, list[Image]](list)
    for image, text in zip(slices, texts, strict=True):
        groups[text].append(image)
    return [groups[text] for text in sorted(groups)]


def _by_subject(slices: Sequence[Image], subjects: dict[str, str]) -> list[tuple[str, list[Image]]]:
    groups = _by_text(slices, [image.subject for image in slices])
    return [(subjects[max(image.subject for image in group)], group) for group in groups]


def _by_grid(slices: Sequence[Image]) -> list[list[Image]]:
    """Group slices by grid: two values of a number divide them only with a gap wider than the tolerance."""
    if len({image.grid for image in slices}) == 1:
        return [list(slices)]
    groups = [sorted(slices, key=lambda image: image.grid)]
    for index, tolerance in enumerate(_TOLERANCES):
        groups = [part for group in groups for part in _split_at_gaps(group, index, tolerance)]
    return sorted(groups, key=lambda group: min(image.grid for image in group))


def _split_at_gaps(slices: Sequence[Image], index: int, tolerance: float) -> list[list[Image]]:
    numbered = sorted(((float(image.grid.split()[index]), image) for image in slices), key=lambda pair: pair[0])
    groups = [[numbered[0][1]]]
    for (lower, _), (upper, image) in pairwise(numbered):
        if upper - lower > tolerance * 1.001:  # texts of 9 digits
            groups.append([])
        groups[-1].append(image)
    return groups


def has_same_grid(first: Image, second: Image) -> bool:
    """Whether two slices agree in orientation, pixel spacing and size, within the tolerances of one scan."""
    numbers = ([float(text) for text in image.grid.split()] for image in (first, second))
    return all(abs(a - b) <= t * 1.001 for a, b, t in zip(*numbers, _TOLERANCES, strict=True))


def agrees_with_grid(suspect: Image, image: Image) -> bool:
    """Whether what is known of an image's grid is that of another one, within the tolerances of one scan."""
    numbers = ([float(text) for text in x.grid.split()] for x in (suspect, image))
    return not any(abs(a - b) > t * 1.001 for a, b, t in zip(*numbers, _TOLERANCES, strict=True))


def _complements(parts: Sequence[tuple[str, Sequence[Image]]]) -> list[str]:
    """Why each part, of one kernel, is no scan: with others it makes up an even stack, or their slices alternate."""
    heights = [_oriented_heights(images) for _, images in parts]
    if len(parts) > 1 and is_even([height for part in heights for height in part]):
        return [_complement_reason(parts)] * len(parts)
    reasons = [""] * len(parts)
    for i, j in combinations(range(len(parts)), 2):
        if do_alternate(heights[i], heights[j]):
            reasons[i] = reasons[j] = _complement_reason([parts[i], parts[j]])
    return reasons


def are_one_stack(parts: Sequence[Sequence[Image]]) -> bool:
    """Whether parts follow each other along their normal, evenly spaced as one."""
    heights = [_oriented_heights(images) for images in parts]
    return are_consecutive(heights) and is_even([height for part in heights for height in part])


def _oriented_heights(images: Sequence[Image]) -> list[float]:
    """Return the heights of images of one orientation along their axis, whichever way their normal points."""
    a, b, c, d, e, f = (float(text) for text in images[0].grid.split()[:_COSINES])
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    sign = 1 if max(normal, key=abs) > 0 else -1
    return [sign * image.height for image in images]


def _complement_reason(parts: Sequence[tuple[str, Sequence[Image]]]) -> str:
    grids = [images[0].grid.split() for _, images in parts]
    names = [name for name, *texts in zip(_GRID_NAMES, *grids, strict=True) if len({*texts}) > 1]
    names += ["PatientID"] if len({subject for subject, _ in parts}) > 1 else []
    return (
        f"its series is {len(parts)} stacks that complement each other and differ in {', '.join(dict.fromkeys(names))}"
    )


def _by_distinctions(slices: Sequence[Image]) -> list[tuple[tuple[Image, ...], str]]:
    """Divide slices by what tells them apart; give each stack in order, and why it is no scan."""
    ordered = tuple(sorted(slices, key=lambda image: (image.height, image.path)))
    if len({image.distinctions for image in ordered}) == 1:
        return [(ordered, "")]
    heights = [image.height for image in ordered]
    stacks = separate(heights, [image.distinctions.split(DELIMITER) for image in ordered])
    return [(tuple(ordered[i] for i in sorted(members)), reason) for members, reason in stacks]
