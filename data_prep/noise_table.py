"""The noise of a run's pairs: a row a prepared scan, or of several partners a row each, in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.manifest import read_manifest
from data_prep.partners import LOW_DOSE

if TYPE_CHECKING:
    import pandas as pd

FILE = "manifest_noise.csv"
PARTNERS = "partners"
"""Key of a scan's row, under which the rows of several partners stand."""
_SCAN = ["dataset", "scan"]


def partner_rows(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a scan's partners: those that it lists, or what its own row says of its single one."""
    ids = {name: row[name] for name in _SCAN}
    noise = {name: value for name, value in row.items() if name.startswith(("noise_", "rmse_")) or name == "dose"}
    for partner in row.get(PARTNERS) or ({"dose": None, "realisation": 1, "array": LOW_DOSE, **noise},):
        yield {**ids, **partner}


def noise_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the table of the partners of scans, by the scans' rows; of no scan at all it has a header too."""
    import pandas as pd

    lines = [line for row in rows for line in partner_rows(row)]
    return pd.DataFrame(lines, columns=None if lines else pd.Index(_SCAN))


def read_noise(data: Path) -> pd.DataFrame:
    """Read the manifest's rows of prepared scans; where scans have several partners, a row each with its own noise."""
    manifest = read_manifest(data / "manifest.csv")
    prepared = manifest[manifest["state"] == "kept"]
    if not (data / FILE).exists():
        return prepared
    noise = read_manifest(data / FILE)
    shared = [name for name in prepared if name in _SCAN or name not in noise]
    return prepared[shared].merge(noise, on=_SCAN)
