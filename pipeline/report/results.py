"""What a report is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.report.volumes import Stacks


class NothingToDraw(Exception):
    """What a figure would show is not there; the message says why, and stands in its place."""


@dataclass(frozen=True)
class Results:
    """Tables by the names of their CSV files, and what figures need besides.

    ``curves``: a line of ``metrics.jsonl`` a row; ``judged``: a held-out slice and network a row; ``stacks``: images
    of one held-out scan, if any was judged.
    """

    tables: Mapping[str, pd.DataFrame]
    curves: pd.DataFrame
    judged: pd.DataFrame
    stacks: Stacks | None

    def table(self, name: str, otherwise: str) -> pd.DataFrame:
        """A table that has rows.

        Raises:
            NothingToDraw: it has none, or there is no such table; the message is ``otherwise``.
        """
        table = self.tables.get(name)
        if table is None or table.empty:
            raise NothingToDraw(otherwise)
        return table

    def trained(self) -> pd.DataFrame:
        """The finished trainings of 3D networks, without control arms.

        Raises:
            NothingToDraw: there is none.
        """
        cells = self.tables["cells"]
        done = cells[(cells["state"] == "done") & (cells["dims"] == 3) & (cells["arm"] == "full")]
        if done.empty:
            raise NothingToDraw("no training of a 3D network is done")
        return done
