"""Check that a data folder holds what its manifest says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.manifest import DIGEST, read_manifest
from data_prep.partners import FULL_DOSE
from data_prep.paths import pair_path
from data_prep.progress import Progress, ignore_progress
from data_prep.store import Pair

_SOURCE = f"{DIGEST}source"
_COLUMNS = ["dataset", "scan", f"{DIGEST}{FULL_DOSE}"]


@dataclass(frozen=True)
class Fault:
    """A fault of a scan's pair; ``message``: what is wrong; ``is_damaged``: the pair is not as it was written."""

    scan: str
    message: str
    is_damaged: bool


def verify(data: Path, progress: Progress = ignore_progress) -> tuple[int, list[Fault]]:
    """Read all pairs of ``data`` and compare each with its own digests and with ``manifest.csv``.

    Returns the number of pairs in the manifest, and the faults: pairs that are missing, that hold other bytes than
    were written or than the manifest says, or that are not in the manifest.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    rows = _read_manifest(data)
    faults: list[Fault] = []
    for number, row in enumerate(rows, start=1):
        faults += _faults(row, data)
        progress(number, len(rows), str(row["scan"]))
    listed = {pair_path(data, str(row["dataset"]), str(row["scan"])) for row in rows}
    unlisted = sorted(path for path in data.glob("*/*.zarr") if not path.name.startswith(".") and path not in listed)
    strangers = [Fault(path.stem, f"{path} is not in the manifest", is_damaged=False) for path in unlisted]
    return len(rows), faults + strangers


def _read_manifest(data: Path) -> list[dict[str, str]]:
    """Read the rows of the scans that have a pair: data set, scan, and the digests of its arrays."""
    path = data / "manifest.csv"
    try:
        manifest = read_manifest(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_describe_lack(data)) from error
    except ValueError as error:
        raise UserError(f"{path} was cut or changed: move it, and run the preparation again") from error
    lacking = [name for name in _COLUMNS if name not in manifest]
    if lacking and "kept" in set(manifest.get("state", ["kept"])):
        raise UserError(f"{path} lacks the column {lacking[0]}: move it, and run the preparation again")
    digests = [name for name in map(str, manifest) if name.startswith(DIGEST) and name != _SOURCE]
    columns = list(dict.fromkeys([*_COLUMNS, *digests]))
    rows = manifest.reindex(columns=columns, fill_value="").to_dict("records")
    texts = [{str(key): str(text) for key, text in row.items() if text} for row in rows]
    return [row for row in texts if row.keys() >= set(_COLUMNS)]


def _describe_lack(data: Path) -> str:
    if not data.is_dir():
        return f"{data} does not exist or is no folder: name the data folder of a run, such as runs/NAME/data"
    inner = data / "data"
    hint = f", which is {inner}" if (inner / "manifest.csv").is_file() else ", such as runs/NAME/data"
    return f"{data} holds no manifest.csv: it is no data folder of a run{hint}"


def _faults(row: Mapping[str, str], data: Path) -> list[Fault]:
    """Compare a pair with its own digests and with its row of the manifest."""
    scan, path = row["scan"], pair_path(data, row["dataset"], row["scan"])
    if not path.exists():
        return [Fault(scan, f"{path} is missing", is_damaged=True)]
    pair = Pair(path)
    try:
        pair.check()
    except (UserError, OSError) as error:
        return [Fault(scan, str(error), is_damaged=True)]
    recorded = pair.provenance["sha256"]
    listed = {name.removeprefix(DIGEST): digest for name, digest in row.items() if name.startswith(DIGEST)}
    names = dict.fromkeys([*recorded, *listed])
    wrong = " and ".join(name for name in names if recorded.get(name) != listed.get(name))
    return [Fault(scan, f"the manifest has another digest for {wrong} of {path}", is_damaged=False)] if wrong else []
