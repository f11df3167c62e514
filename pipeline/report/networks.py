"""Which network is worth its hours: what each kind of training reaches, and what it costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.quality.measures import RANKED_BY, SCAN_MEASURES, names
from pipeline.report.tables import records
from pipeline.scaling.estimates import NOTHING, t_interval
from pipeline.settings.architectures import architecture_of
from pipeline.settings.names import CLASSICAL_TITLES, LOW_DOSE_INPUT

_KIND = ["network", "slices", "sampling", "transfer", "epochs", "ranks"]
"""Settings whose values trainings share that differ in their seed alone."""
_MEASURES = [RANKED_BY, *names(SCAN_MEASURES)]
_COSTS = ["hours", "donor_hours", "search_hours", "total_hours"]
_COUNTS = ["slices", "epochs", "ranks", "seeds", "parameters"]
_SIZES = ["parameters", "peak_bytes", "slice_ms"]
_SECONDS = [f"{kind}_seconds" for kind in ("training", "validation", "start", "checkpoint")]
COLUMNS = ["network", "title", "cell", *_KIND[1:], "seeds", "error", "error_low", "error_high", *_MEASURES,
           "hours_of", *_COSTS, *_SIZES, "on_front"]  # fmt: skip


def networks_table(
    cells: pd.DataFrame, slices: pd.DataFrame, scans: pd.DataFrame, slice_ms: Mapping[str, float], trials: pd.DataFrame
) -> pd.DataFrame:
    """Make a row a kind of training, over its seeds, and a row the input and each classical denoiser.

    ``error``: mean RMSE of the test part's slices over that of the input; ``_low`` and ``_high``: Student's 95 %
    interval over seeds, empty with one. The measures are means over slices, or scans, and seeds. ``hours``: GPU-hours
    of all ranks, or CPU-hours (``hours_of``), from start to end; ``donor_hours``: those of the 2D training that it
    starts from; ``search_hours``: of all trials of the network, and of its donor, where it was tuned.
    ``on_front``: no row has both a lower error and fewer total hours; hours of GPUs and of CPUs are not compared.

    Args:
        cells: as ``cells.csv``.
        slices: a row a judged slice of the test part: ``model, rmse_hu``.
        scans: as ``quality_scans.csv``.
        slice_ms: of each model, the milliseconds that it takes to denoise a slice.
        trials: as ``trials.csv`` of the run's search; no rows without one.
    """
    if LOW_DOSE_INPUT not in set(slices["model"]):
        return pd.DataFrame(columns=COLUMNS)
    quality = _quality(slices, scans, slice_ms)
    trained = cells[(cells["state"] == "done") & (cells["arm"] == "full") & cells["cell"].isin(quality.index)]
    rows = [*_baselines(quality), *_trainings(trained, cells, quality, trials)]
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(_COUNTS, "Int64"))
    table["on_front"] = _on_front(table)
    return table


def _quality(slices: pd.DataFrame, scans: pd.DataFrame, slice_ms: Mapping[str, float]) -> pd.DataFrame:
    """Return the measures of each model on the test part, and its error relative to the input's."""
    tested = scans[scans["part"] == "test"].groupby("model")
    quality = tested[names(SCAN_MEASURES)].mean().join(slices.groupby("model")[RANKED_BY].mean())
    quality["slice_ms"] = pd.Series(slice_ms, dtype=float)
    return quality.assign(error=quality[RANKED_BY] / float(quality[RANKED_BY].to_dict()[LOW_DOSE_INPUT]))


def _baselines(quality: pd.DataFrame) -> Iterator[dict[str, Any]]:
    titles = {LOW_DOSE_INPUT: "low-dose input", **CLASSICAL_TITLES}
    for model in (name for name in titles if name in quality.index):
        measured = {name: quality.loc[model, name] for name in ("error", *_MEASURES, "slice_ms")}
        yield {"network": model, "title": titles[model], "hours_of": "", **dict.fromkeys(_COSTS, 0.0), **measured}


def _trainings(
    trained: pd.DataFrame, cells: pd.DataFrame, quality: pd.DataFrame, trials: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    searched = trials.groupby("network")[["hours", "cpu_hours"]].sum()
    hours = {row["cell"]: _hours(row) for row in records(cells[cells["state"] == "done"])}
    for _, seeds in trained.groupby([*_KIND, "alike"], sort=False):
        first = records(seeds.iloc[:1])[0]
        judged = quality.loc[seeds["cell"]]
        mean = float(np.mean([hours[cell] for cell in seeds["cell"]]))
        donor = first["donor"]
        tuned = searched.loc[searched.index.isin([first["network"], donor.partition("-")[0]])].sum()
        costs = {"hours": mean, "donor_hours": hours.get(donor, np.nan) if donor else 0.0,
                 "search_hours": float(tuned["cpu_hours" if _unit(first) == "CPU" else "hours"])}  # fmt: skip
        low, high = _interval(judged["error"].to_numpy(float))
        yield {
            **{name: first[name] for name in ("cell", *_KIND, "parameters", "peak_bytes")},
            "title": architecture_of(first["model"]).title_in(first["dims"]), "seeds": len(seeds),
            **{name: judged[name].mean() for name in ("error", *_MEASURES)}, "error_low": low, "error_high": high,
            "hours_of": _unit(first), **costs, "total_hours": sum(costs.values()),
            "slice_ms": judged["slice_ms"].min(),
        }  # fmt: skip


def _unit(cell: Mapping[str, Any]) -> str:
    return "CPU" if cell["device"] == "cpu" else "GPU"


def _hours(cell: Mapping[str, Any]) -> float:
    """Return the GPU-hours of a training's ranks, or its CPU-hours."""
    seconds = cell["cpu_seconds"] if _unit(cell) == "CPU" else cell["ranks"] * sum(cell[name] for name in _SECONDS)
    return float(seconds) / 3600


def _interval(errors: "np.ndarray[Any, np.dtype[np.float64]]") -> tuple[float, float]:
    if len(errors) < 2:
        return NOTHING
    return t_interval(errors.mean(), [errors.var(ddof=1) / len(errors)], [len(errors) - 1])


def _on_front(table: pd.DataFrame) -> Sequence[bool]:
    """Say of each row whether no other has a lower error for no more hours, or fewer hours for no more error."""
    error, hours, unit = (table[name].to_numpy() for name in ("error", "total_hours", "hours_of"))
    at_most = (error <= error[:, None]) & (hours <= hours[:, None])
    less = (error < error[:, None]) | (hours < hours[:, None])
    comparable = (unit == unit[:, None]) | (unit == "")
    return list(~(at_most & less & comparable).any(axis=1) & ~np.isnan(hours.astype(float)))
