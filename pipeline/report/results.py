"""Tables and images from which a report is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.report.verdicts import COLUMNS as VERDICTS
from pipeline.report.volumes import Stacks
from pipeline.scaling.points import finished_in_grid


class NothingToDraw(Exception):
    """A figure cannot be drawn; the message says why and is printed instead of the figure."""


@dataclass(frozen=True)
class Results:
    """Tables by the names of their CSV files, and what figures need besides them.

    ``curves``: a row a line of ``metrics.jsonl``; ``judged``: a row a network and held-out slice, at the lowest dose;
    ``stacks``: images of one held-out scan, if any was judged.
    """

    tables: Mapping[str, pd.DataFrame]
    curves: pd.DataFrame
    judged: pd.DataFrame
    stacks: Stacks | None

    def table(self, name: str, otherwise: str) -> pd.DataFrame:
        """Return a table that has rows.

        Raises:
            NothingToDraw: there is no such table, or it is empty; the message is ``otherwise``.
        """
        table = self.tables.get(name)
        if table is None or table.empty:
            raise NothingToDraw(otherwise)
        return table

    @property
    def verdicts(self) -> pd.DataFrame:
        """``quality_verdicts.csv``: who wins, in sentences; empty where nothing was judged."""
        return self.tables.get("quality_verdicts", pd.DataFrame(columns=VERDICTS))

    def trained(self) -> pd.DataFrame:
        """Return the finished trainings of the study's grids from ``cells.csv``, without control arms.

        Raises:
            NothingToDraw: no such training is done.
        """
        cells = finished_in_grid(self.tables["cells"])
        if cells.empty:
            raise NothingToDraw("no training of the study is done")
        return cells
