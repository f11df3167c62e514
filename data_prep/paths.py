"""Paths in a data folder."""

from pathlib import Path

TAKEN_NAMES = ("contact", "manifest.csv", "manifest_noise.csv", "split.json")
"""What a data folder holds beside the folders of its data sets."""


def pair_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's pair."""
    return data / dataset / f"{scan}.zarr"


def contact_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's contact sheet."""
    return data / "contact" / dataset / f"{scan}.png"
