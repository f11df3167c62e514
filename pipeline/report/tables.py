"""The tables of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.files import digest_json
from pipeline.quality.similarity import METRICS
from pipeline.scaling.points import CONDITIONS
from pipeline.scaling.timing import step_quantiles
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import DDNET_2D, LOW_DOSE_INPUT
from pipeline.settings.training import WITHOUT_EFFECT
from pipeline.training.metrics_file import Lines
from pipeline.training.schedule import effective_batch

_RESULT = ("parameters", "steps", "samples", "effective_batch", "cpu_seconds", "peak_bytes", *CONDITIONS)
_SECONDS = ("training", "validation", "start", "checkpoint")


def cells_table(
    root: Path, cells: Sequence[CellSettings], states: Mapping[str, tuple[str, str]], steps: pd.DataFrame
) -> pd.DataFrame:
    """A row a training; one that is not done has its state and reason, and no figures of its result.

    ``alike`` is the same for trainings that differ in ranks and seed alone, ``alike_but_transfer`` also where the
    transfer differs.
    """
    rows = [_cell_row(root, cell, *states[cell.id]) for cell in cells]
    return pd.DataFrame(rows).join(step_quantiles(steps), on="cell")


def _cell_row(root: Path, cell: CellSettings, state: str, reason: str) -> dict[str, Any]:
    how = cell.training
    row: dict[str, Any] = {
        "cell": cell.id, "state": state, "model": cell.model, "dims": cell.dims, "slices": cell.slices,
        "ranks": cell.ranks, "sampling": cell.sampling, "transfer": cell.transfer, "seed": how.seed, "arm": cell.arm,
        "work": how.work, "epochs": how.epochs, "batch": how.batch, "accumulation": how.accumulation,
        "rate_rule": how.rate_rule, "alike": "", "alike_but_transfer": "",
        **dict.fromkeys([*_RESULT, "nodes", "node_list", *(f"{kind}_seconds" for kind in _SECONDS)]),
    }  # fmt: skip
    if state == "done":
        row |= _result(cell, json.loads((root / "cells" / cell.id / "result.json").read_text()))
    return {**row, "reason": reason}


def _result(cell: CellSettings, result: dict[str, Any]) -> dict[str, Any]:
    alike = cell.model_dump(
        mode="json", exclude={"id": True, "ranks": True, "training": {*WITHOUT_EFFECT, "seed"}}
    )  # fmt: skip
    besides = [result[name] for name in CONDITIONS]
    return {
        **{name: result[name] for name in _RESULT},
        "nodes": len(result["nodes"]), "node_list": " ".join(result["nodes"]),
        "alike": digest_json([alike, *besides])[:12],
        "alike_but_transfer": digest_json([{**alike, "transfer": "any"}, *besides])[:12],
        **{f"{kind}_seconds": value for kind, value in result["seconds"].items()},
        **{f"validation_{name}": value for name, value in result["validation"].items()},
    }  # fmt: skip


def read_json(path: Path) -> Any:
    """What a file of the run folder holds; None where the run did not come so far."""
    return json.loads(path.read_text()) if path.exists() else None


def curves_table(cells: Sequence[CellSettings], lines: Lines) -> pd.DataFrame:
    """A row a line of each training's ``metrics.jsonl``; ``samples``: those that it had been trained on by then."""
    rows = [
        {"cell": cell.id, "samples": line["step"] * effective_batch(cell.training, cell.ranks), **line}
        for cell in cells for line in lines[cell.id]
    ]  # fmt: skip
    least = ["cell", "samples", "kind", "step", "loss", "rmse_hu", "low_dose_rmse_hu"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*least, *table.columns])))


def validation_table(curves: pd.DataFrame) -> pd.DataFrame:
    """A row a validation of each training."""
    return curves.loc[curves["kind"] == "validation", ["cell", "step", "rmse_hu", "low_dose_rmse_hu"]]


def judged_table(root: Path, judged: Sequence[str]) -> pd.DataFrame:
    """A row a network, or the untouched input, and held-out slice."""
    rows = [{"model": model, **row} for model in judged
            for row in json.loads((root / "evaluation" / f"{model}.json").read_text())]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "dataset", "scan", "slice", *METRICS])


def quality_table(judged: pd.DataFrame) -> pd.DataFrame:
    """A row a network, the low-dose input first: mean and SD over the held-out slices of each metric.

    ``rmse_change``: relative to the input, negative is better; ``beats_input`` says so in a word.
    """
    rows = [_quality_row(str(model), slices) for model, slices in judged.groupby("model", sort=False)]
    means = [f"{metric}_{name}" for metric in METRICS for name in ("mean", "sd")]
    table = pd.DataFrame(rows, columns=["model", "scans", "slices", *means])
    of_input = table.loc[table["model"] == LOW_DOSE_INPUT, "rmse_hu_mean"].max()  # NaN while it is not judged
    table["rmse_change"] = table["rmse_hu_mean"] / of_input - 1
    beats = np.select([table["rmse_change"].isna(), table["rmse_change"] < 0], ["unknown", "yes"], "no")
    table["beats_input"] = np.where(table["model"] == LOW_DOSE_INPUT, "-", beats)
    return table


def _quality_row(model: str, slices: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "scans": slices["scan"].nunique(), "slices": len(slices)}
    for metric in METRICS:
        row |= {f"{metric}_mean": slices[metric].mean(), f"{metric}_sd": slices[metric].std(ddof=1)}
    return row


def summary(quality: pd.DataFrame, speed: pd.DataFrame, transfer: pd.DataFrame, cells: pd.DataFrame) -> str:
    """A few lines for the terminal."""
    width = max([12, *map(len, cells["cell"])]) + 2
    lines = [f"{'model':<{width}}{'RMSE (HU)':>16}{'vs input':>10}{'PSNR (dB)':>11}{'SSIM':>9}{'MS-SSIM':>9}"]
    lines += [_quality_line(row, width) for row in records(quality)]
    lines += ["", f"{'cell':<{width}}{'ranks':>6}{'slices':>8}{'s/sample':>10}{'speed-up':>10}{'efficiency':>12}"]
    lines += [_speed_line(row, width) for row in records(speed)]
    lines += _transfer_lines(transfer, width)
    lines += [f"{row['cell']}: {row['state']}: {row['reason']}" for row in records(cells[cells["state"] != "done"])]
    return "\n".join(lines) + "\n"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict a row."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _quality_line(row: dict[str, Any], width: int) -> str:
    error = f"{row['rmse_hu_mean']:.2f} +/- {row['rmse_hu_sd']:.2f}"
    return (
        f"{row['model']:<{width}}{error:>16}{100 * row['rmse_change']:>+9.1f}%"
        f"{row['psnr_mean']:>11.2f}{row['ssim_mean']:>9.4f}{row['ms_ssim_mean']:>9.4f}"
    )


def _speed_line(row: dict[str, Any], width: int) -> str:
    return (
        f"{row['cell']:<{width}}{row['ranks']:>6}{row['slices']:>8}{row['seconds_a_sample']:>10.3g}"
        f"{row['speed_up']:>10.2f}{100 * row['efficiency']:>11.0f}%"
    )


def _transfer_lines(transfer: pd.DataFrame, width: int) -> list[str]:
    """Nothing where there is no 2D network to be as good as."""
    known = transfer.dropna(subset="error_2d")
    if known.empty:
        return []
    level = f"as good as {DDNET_2D} in validation ({100 * known['error_2d'].iloc[0]:.1f}% of the input's RMSE)"
    lines = [
        f"{row['cell']:<{width}}{row['transfer']:>10}{_count(row['steps_to_2d'], 'not reached'):>14}"
        f"{_count(row['steps_saved']):>8}"
        for row in records(known)
    ]
    return ["", level, f"{'cell':<{width}}{'transfer':>10}{'after steps':>14}{'saved':>8}", *lines]


def _count(value: Any, otherwise: str = "") -> str:
    return otherwise if pd.isna(value) else f"{value}"
