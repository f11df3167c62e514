"""Names of files: whether a file that is no DICOM file is named as if it were an image."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

_DICOM_NAME = re.compile(
    r".+\.(dcm|dicom|ima)(\.(gz|bz2|xz|zst|zip|part|partial|tmp|filepart|crdownload))?", re.IGNORECASE | re.DOTALL
)
_NUMBERS = re.compile(r"[0-9A-Fa-f._-]*[0-9][0-9A-Fa-f._-]*")
RESOURCE_FORK = "._"
"""Start of the name of a file that macOS writes beside each file on disks of other systems."""


def named_as_images(paths: Sequence[str], images: Iterable[str]) -> set[str]:
    """Return which of the paths end as DICOM, or differ from an image in their folder by numbers alone."""
    if not paths:
        return set()
    patterns = defaultdict[str, set[str]](set)
    folders = {os.path.dirname(path) for path in paths}
    for image in images:
        folder, name = os.path.split(image)
        if folder in folders:
            patterns[folder].add(_NUMBERS.sub("#", name))
    return {path for path in paths if _is_named_as_image(path, patterns)}


def _is_named_as_image(path: str, patterns: Mapping[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    if name.startswith(RESOURCE_FORK):
        return False
    return _DICOM_NAME.fullmatch(name) is not None or _NUMBERS.sub("#", name) in patterns.get(folder, ())
