"""Whether a data folder holds what its manifest says."""

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
    """What is wrong with a scan."""

    scan: str
    what: str


def verify(data: Path, progress: Progress = ignore_progress) -> tuple[int, list[Fault]]:
    """Read every pair of ``data`` and compare it with its own digests and with ``manifest.csv``.

    Returns the number of pairs in the manifest, and what is wrong: a pair that is missing, holds other
    bytes than were written, or other bytes than the manifest says, or that the manifest does not know.

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
        what = _fault_of({str(key): value for key, value in row.items()}, data)
        faults += [Fault(str(row["scan"]), what)] if what else []
        progress(number, len(rows), str(row["scan"]))
    known = {pair_path(data, str(row["dataset"]), str(row["scan"])) for row in rows}
    unknown = sorted(path for path in data.glob("*/*.zarr") if not path.name.startswith(".") and path not in known)
    return len(rows), faults + [Fault(path.stem, f"{path} is not in the manifest") for path in unknown]


def _fault_of(row: dict[str, Any], data: Path) -> str:
    path = pair_path(data, row["dataset"], row["scan"])
    if not path.exists():
        return f"{path} is missing"
    pair = Pair(path)
    try:
        pair.check()
    except (UserError, OSError) as error:
        return str(error)
    recorded = pair.provenance["sha256"]
    lies = [name for name in ARRAYS if recorded[name] != row[f"sha256_{name}"]]
    return f"the manifest has another digest for {' and '.join(lies)} of {path}" if lies else ""
