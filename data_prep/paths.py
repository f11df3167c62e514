"""Paths in a data folder."""

from pathlib import Path


def pair_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's pair."""
    return data / dataset / f"{scan}.zarr"


def contact_path(data: Path, dataset: str, scan: str) -> Path:
    """Return the path of a scan's contact sheet."""
    return data / "contact" / dataset / f"{scan}.png"
