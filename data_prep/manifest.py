"""Reading of the manifest, a row for every series, and of the table of its scans' noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = {"dataset", "subject", "patient", "scan", "kernel", "low_dose", "array", "noise_remark", "state", "reason"}
DIGEST = "sha256_"
"""Begins the names of the columns of digests."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read ``manifest.csv`` or ``manifest_noise.csv``. Texts stay as they are, such as the ids ``NA`` and ``007``.

    A text that is missing is empty, a number NaN.

    Raises:
        ValueError: the file was cut or changed.
    """
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")  # lines that were cut lack values
    numbers = [name for name in map(str, table) if name not in _TEXTS and not name.startswith(DIGEST)]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})
