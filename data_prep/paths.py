"""Where things lie in a data folder."""

from pathlib import Path


def pair_path(data: Path, dataset: str, scan: str) -> Path:
    """The pair of a scan."""
    return data / dataset / f"{scan}.zarr"


def contact_path(data: Path, dataset: str, scan: str) -> Path:
    """The contact sheet of a scan."""
    return data / "contact" / dataset / f"{scan}.png"
