"""Check that a data folder holds what its manifest says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.errors import UserError
from data_prep.paths import pair_path
from data_prep.progress import Progress, ignore_progress
from data_prep.store import ARRAYS, Pair


@dataclass(frozen=True)
class Fault:
    """A fault of a scan's pair; ``message``: what is wrong with it."""

    scan: str
    message: str


def verify(data: Path, progress: Progress = ignore_progress) -> tuple[int, list[Fault]]:
    """Read all pairs of ``data`` and compare each with its own digests and with ``manifest.csv``.

    Returns the number of pairs in the manifest, and the faults: pairs that are missing, that hold other bytes than
    were written or than the manifest says, or that are not in the manifest.

    Raises:
        UserError: there is no manifest.
    """
    try:
        manifest = pd.read_csv(data / "manifest.csv", dtype=str)
    except FileNotFoundError as error:
        raise UserError(f"{data} holds no manifest.csv: it is no data folder of a run") from error
    rows = [row for row in manifest.to_dict("records") if isinstance(row.get("sha256_full_dose"), str)]
    faults: list[Fault] = []
    for number, row in enumerate(rows, start=1):
        message = _fault_message({str(key): value for key, value in row.items()}, data)
        faults += [Fault(str(row["scan"]), message)] if message else []
        progress(number, len(rows), str(row["scan"]))
    listed = {pair_path(data, str(row["dataset"]), str(row["scan"])) for row in rows}
    unlisted = sorted(path for path in data.glob("*/*.zarr") if not path.name.startswith(".") and path not in listed)
    return len(rows), faults + [Fault(path.stem, f"{path} is not in the manifest") for path in unlisted]


def _fault_message(row: dict[str, Any], data: Path) -> str:
    path = pair_path(data, row["dataset"], row["scan"])
    if not path.exists():
        return f"{path} is missing"
    pair = Pair(path)
    try:
        pair.check()
    except (UserError, OSError) as error:
        return str(error)
    recorded = pair.provenance["sha256"]
    wrong = [name for name in ARRAYS if recorded[name] != row[f"sha256_{name}"]]
    return f"the manifest has another digest for {' and '.join(wrong)} of {path}" if wrong else ""
