"""Files that may be slices of a scan and are set aside: the scan could lack them at an end, where no gap shows."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from data_prep.errors import MachineError, ScanError
from data_prep.sources.copies import FileLabel
from data_prep.sources.grouping import agrees_with_grid
from data_prep.sources.images import Image, folder_series
from data_prep.sources.tree import CANNOT_OPEN

Suspects = Mapping[str, Sequence[Image]]
"""By series, or by folder where their series is unknown."""


def suspects_among(images: Iterable[Image]) -> Suspects:
    """Return the files that may be slices: those that cannot be read, and images that look like slices."""
    suspects = defaultdict[str, list[Image]](list)
    for image in images:
        if image.fault and not image.exclusion:
            suspects[image.series or _folder(image)].append(image)
        elif image.exclusion and image.grid:
            suspects[_folder(image) if image.series == folder_series(image.path) else image.series].append(image)
    return suspects


def _folder(image: Image) -> str:
    return os.path.dirname(image.path)


def suspicion(stack: Sequence[Image], suspects: Suspects, label: FileLabel) -> Exception | None:
    """Return the fault of a stack to which suspects may belong; its images are ordered along their normal.

    It is the machine's if the first suspect cannot be opened, else the file's.
    """
    if not suspects:
        return None
    keys = {stack[0].series, *map(_folder, stack)} & suspects.keys()
    files = sorted((image for key in keys for image in suspects[key] if _may_belong(image, stack)), key=_path)
    if not files:
        return None
    first = files[0]
    kind = MachineError if first.fault.startswith(CANNOT_OPEN) else ScanError
    further = f", and {len(files) - 1} more" if len(files) > 1 else ""
    reason = first.fault or f"is set aside: {first.exclusion}"
    return kind(f"file {label(first.path)}, which may be a slice of it, {reason}{further}")


def _path(image: Image) -> str:
    return image.path


def _may_belong(suspect: Image, stack: Sequence[Image]) -> bool:
    """Whether a suspect can be a slice of a stack that has no other at its height."""
    if suspect.fault:
        return True
    is_inside = stack[0].height <= suspect.height <= stack[-1].height
    return not is_inside and agrees_with_grid(suspect, stack[0])
