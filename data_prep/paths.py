"""Paths in a data folder."""

from pathlib import Path

SPLIT_FILES = ("manifest.csv", "split.json", "manifest_noise.csv")
"""What a data folder holds of all scans; the last where they have several partners."""
TAKEN_NAMES = ("contact", *SPLIT_FILES)
"""What a data folder holds beside the folders of its data sets."""


def pair_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's pair."""
    return data / dataset / f"{scan}.zarr"


def contact_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's contact sheet."""
    return data / "contact" / dataset / f"{scan}.png"
