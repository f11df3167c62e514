"""Tables of the trainings: their results and their curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.files import digest_json
from pipeline.scaling.disturbance import MEASURES, YES, judge_load
from pipeline.scaling.points import CONDITIONS
from pipeline.scaling.timing import step_quantiles
from pipeline.settings.cells import CellSettings
from pipeline.settings.training import WITHOUT_EFFECT, TrainingSettings
from pipeline.training.metrics_file import Lines
from pipeline.training.schedule import effective_batch

_RESULT = ("parameters", "steps", "stopped_early", "checkpoint_step", "samples", "effective_batch", "cpu_seconds",
           "peak_bytes", *CONDITIONS)  # fmt: skip
_SECONDS = ("training", "validation", "start", "checkpoint")
_COUNTS = ("parameters", "steps", "checkpoint_step", "samples", "effective_batch", "peak_bytes", "nodes", "jobs_start",
           "jobs_end", "ranks", "baseline_ranks", "patients", "rung", "best")  # fmt: skip


def cells_table(
    root: Path, cells: Sequence[CellSettings], states: Mapping[str, tuple[str, str]], steps: pd.DataFrame, *,
    include_disturbed: bool,
) -> pd.DataFrame:  # fmt: skip
    """Make a row a training; one that is not done has its state and the reason, and no numbers.

    ``doses``: at which the network was trained, ``stored`` for all that are.
    ``disturbed``: yes, no or not measured, and ``disturbance`` says by what; ``left_out``: whether speed-up, laws and
    projection leave it out, which is so for disturbed ones, unless they are to be included.

    Trainings that differ only in ranks and seed have the same digest ``alike``; those that differ only in ranks, seed
    and transfer the same ``alike_but_transfer``.
    """
    rows = [_cell_row(root, cell, *states[cell.id]) for cell in cells]
    table = pd.DataFrame(rows).join(step_quantiles(steps), on="cell")
    return table.assign(left_out=(table["disturbed"] == YES) & (not include_disturbed))


def _cell_row(root: Path, cell: CellSettings, state: str, reason: str) -> dict[str, Any]:
    training = cell.training
    row: dict[str, Any] = {
        "cell": cell.id, "state": state, "network": cell.network, "model": cell.model, "dims": cell.dims,
        "slices": cell.slices, "ranks": cell.ranks, "sampling": cell.sampling, "transfer": cell.transfer,
        "seed": training.seed, "arm": cell.arm, "in_grid": cell.is_in_grid, "counterpart": cell.counterpart,
        "work": training.work, "epochs": training.epochs, "batch": training.batch,
        "accumulation": training.accumulation, "rate_rule": training.rate_rule, "doses": _doses(training),
        "alike": "", "alike_but_transfer": "",
        **dict.fromkeys([*_RESULT, "nodes", "node_list", *(f"{kind}_seconds" for kind in _SECONDS), *MEASURES]),
        "disturbed": "", "disturbance": "",
    }  # fmt: skip
    if state == "done":
        row |= _result(cell, json.loads((root / "cells" / cell.id / "result.json").read_text()))
    return {**row, "reason": reason}


def _doses(training: TrainingSettings) -> str:
    """Write the doses that a network is trained and validated at."""
    doses = " ".join(f"{dose:g}" for dose in sorted(training.doses)) if training.doses else "stored"
    return f"fresh {doses}" if training.fresh else doses


def _result(cell: CellSettings, result: dict[str, Any]) -> dict[str, Any]:
    exclude: Any = {"id": True, "ranks": True, "training": {*WITHOUT_EFFECT, "seed"}}
    shared = {"network": cell.network, **cell.model_dump(mode="json", exclude=exclude)}
    compared = [result[name] for name in CONDITIONS]
    disturbed, disturbance = judge_load(result.get("load"))
    return {
        **{name: result[name] for name in _RESULT},
        "nodes": len(result["nodes"]), "node_list": " ".join(result["nodes"]),
        "alike": digest_json([shared, *compared])[:12],
        "alike_but_transfer": digest_json([{**shared, "transfer": "any"}, *compared])[:12],
        **{f"{kind}_seconds": value for kind, value in result["seconds"].items()},
        **{f"validation_{name}": value for name, value in result["validation"].items()},
        **(result.get("load") or {}), "disturbed": disturbed, "disturbance": disturbance,
    }  # fmt: skip


def read_json(path: Path) -> Any:
    """Read a file of the run folder; None where the run has not written it yet."""
    return json.loads(path.read_text()) if path.exists() else None


def curves_table(cells: Sequence[CellSettings], lines: Lines) -> pd.DataFrame:
    """Make a row a line of each training's ``metrics.jsonl``; ``samples``: trained on up to this line."""
    rows = [
        {"cell": cell.id, "samples": line["step"] * effective_batch(cell.training, cell.ranks), **line}
        for cell in cells for line in lines[cell.id]
    ]  # fmt: skip
    required = ["cell", "samples", "kind", "step", "loss", "rmse_hu", "low_dose_rmse_hu"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*required, *table.columns])))


def validation_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Select the validations from the curves; a row a validation of each training."""
    return curves.loc[curves["kind"] == "validation", ["cell", "step", "rmse_hu", "low_dose_rmse_hu"]]


def as_csv(table: pd.DataFrame) -> str:
    """Write a table as CSV; counts stay whole numbers where some are missing, such as those of a failed training."""
    counts = table.select_dtypes("number").columns.intersection([*_COUNTS])
    return table.astype(dict.fromkeys(counts, "Int64")).to_csv(index=False)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert each row to a dict."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
