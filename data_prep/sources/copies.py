"""Identical copies of an image: they count once. Different images at one position are no scan."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_prep.errors import MachineError, ScanError
from data_prep.readers.dicom_slice import has_same_images
from data_prep.readers.slice_positions import SAME_POSITION_MM
from data_prep.sources.images import Image

FileLabel = Callable[[str], str]
"""Gives the name of a file in messages, from its path below the root."""


def set_copies_aside(root: Path, images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Return the images of one series without copies that keep their SOPInstanceUID, and these copies."""
    if len({image.instance for image in images}) == len(images):
        return list(images), []
    instances = defaultdict[str, list[Image]](list)
    for image in images:
        instances[image.instance].append(image)
    copies = {
        copy.path
        for instance, members in instances.items()
        if instance
        for first, copy in _with_first(members)
        if _is_copy(root, first, copy)
    }
    return [i for i in images if i.path not in copies], [i for i in images if i.path in copies]


def _with_first(members: Sequence[Image]) -> Iterable[tuple[Image, Image]]:
    ordered = sorted(members, key=lambda image: image.path)
    return ((ordered[0], copy) for copy in ordered[1:])


def _is_copy(root: Path, first: Image, copy: Image) -> bool:
    """Whether both files hold the same image; a fault of either is left to the reader of the scan."""
    if first.exclusion or copy.exclusion or abs(first.height - copy.height) >= SAME_POSITION_MM:
        return False
    try:
        return has_same_images(root / first.path, root / copy.path)
    except (ScanError, MachineError, OSError):
        return False


def resolve_positions(
    root: Path, stack: Sequence[Image], label: FileLabel
) -> tuple[tuple[Image, ...], list[Image], str]:
    """Return a stack, ordered along its normal, with one image at each position; its copies; why it is no scan."""
    unique, copies = list[Image](), list[Image]()
    for image in stack:
        if not unique or image.height - unique[-1].height >= SAME_POSITION_MM:
            unique.append(image)
        elif _is_copy(root, unique[-1], image):
            copies.append(image)
        else:
            names = f"{label(unique[-1].path)} and {label(image.path)}"
            return tuple(stack), [], f"{names} are different images at one position, {image.height:.2f} mm"
    return tuple(unique), copies, ""
