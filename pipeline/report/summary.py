"""The run in a few lines for the terminal."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from pipeline.quality.measures import RANKED_BY, SliceMeasure, slice_measures
from pipeline.report.doses import dose_text, split_by_dose
from pipeline.report.tables import records

_COLUMN = 9  # characters of a measure without a longer title


def summary(
    quality: pd.DataFrame, verdicts: Iterable[str], speed: pd.DataFrame, transfer: pd.DataFrame, cells: pd.DataFrame
) -> str:
    """Write the report's tables of the same names as text, ``verdicts`` on who wins, and why trainings are not done."""
    width = max([12, *map(len, cells["cell"])]) + 2
    lines = [*_quality_lines(quality, width), *verdicts]
    lines += _speed_lines(speed, width)
    lines += _transfer_lines(transfer, width)
    lines += [f"{row['cell']}: {row['state']}: {row['reason']}" for row in records(cells[cells["state"] != "done"])]
    return "\n".join(lines) + "\n"


def _quality_lines(quality: pd.DataFrame, width: int) -> list[str]:
    """Mean and SD of the measure by which networks are ranked, its change against the input, other measures' means."""
    first, *means = slice_measures("summary")
    assert first.name == RANKED_BY
    header = f"{'model':<{width}}{first.title:>16}{'vs input':>10}"
    lines = [header + "".join(f"{measure.title:>{_width(measure)}}" for measure in means)]
    by_dose = split_by_dose(quality)
    for dose, rows in by_dose:
        lines += [f"dose: {dose_text(dose)}"] if len(by_dose) > 1 else []
        lines += _model_lines(rows, width)
    return lines


def _model_lines(quality: pd.DataFrame, width: int) -> list[str]:
    first, *means = slice_measures("summary")
    lines = []
    for row in records(quality):
        line = f"{row['model']:<{width}}{_spread(row, first):>16}{_change(row['rmse_change']):>10}"
        lines.append(line + "".join(f"{row[f'{m.name}_mean']:>{_width(m)}.{m.digits}}" for m in means))
    return lines


def _spread(row: dict[str, Any], measure: SliceMeasure) -> str:
    """Write mean and standard deviation over slices; a single slice has none."""
    mean, sd = row[f"{measure.name}_mean"], row[f"{measure.name}_sd"]
    return f"{mean:.{measure.digits}}" + ("" if pd.isna(sd) else f" +/- {sd:.{measure.digits}}")


def _change(change: float) -> str:
    """Write a change against the input, which may not have been judged."""
    return "-" if pd.isna(change) else f"{100 * change:+z.1f}%"


def _width(measure: SliceMeasure) -> int:
    return max(_COLUMN, len(measure.title) + 2)


def _speed_lines(speed: pd.DataFrame, width: int) -> list[str]:
    """Nothing where the study has no grid, or none of its trainings is done."""
    if speed.empty:
        return []
    header = f"{'cell':<{width}}{'ranks':>6}{'slices':>8}{'s/sample':>10}{'speed-up':>10}{'efficiency':>12}"
    rows = [_speed_line(row, width) for row in records(speed)]
    return ["", header, *rows, *filter(None, speed["reason"].unique())]


def _speed_line(row: dict[str, Any], width: int) -> str:
    notes = ["disturbed" if row["disturbed"] else "", "impossible" if row["impossible"] else ""]
    gain = "-" if pd.isna(row["speed_up"]) else f"{row['speed_up']:.2f}"
    efficiency = "-" if pd.isna(row["efficiency"]) else f"{100 * row['efficiency']:.0f}%"
    return (
        f"{row['cell']:<{width}}{row['ranks']:>6}{row['slices']:>8}{row['seconds_a_sample']:>10.3g}"
        f"{gain:>10}{efficiency:>12}  {', '.join(filter(None, notes))}"
    ).rstrip()


def _transfer_lines(transfer: pd.DataFrame, width: int) -> list[str]:
    """Nothing where no 2D network sets a goal to reach."""
    table = transfer.dropna(subset="error_2d")
    if table.empty:
        return []
    goals = table.drop_duplicates("counterpart").set_index("counterpart")["error_2d"]
    errors = ", ".join(f"{flat}: {100 * error:.1f}%" for flat, error in goals.items())
    level = f"as good as the 2D counterpart in validation ({errors} of the input's RMSE)"
    lines = [
        f"{row['cell']:<{width}}{row['transfer']:>10}{_count(row['steps_to_2d'], 'not reached'):>14}"
        f"{_count(row['steps_saved'], ''):>8}"
        for row in records(table)
    ]
    return ["", level, f"{'cell':<{width}}{'transfer':>10}{'after steps':>14}{'saved':>8}", *lines]


def _count(value: Any, otherwise: str) -> str:
    return otherwise if pd.isna(value) else f"{value}"
