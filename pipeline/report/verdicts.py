"""Who wins: a classical denoiser, the best network, or the input left alone; said in plain sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from data_prep.settings import ALL_DATASETS
from pipeline.quality.measures import RANKED_BY
from pipeline.report.doses import dose_text, split_by_dose
from pipeline.settings.names import CLASSICAL_TITLES, LOW_DOSE_INPUT

COLUMNS = ("low_dose", "dose", "dataset", "scans", "slices", "rmse_low_dose", "classical", "rmse_classical", "network",
           "rmse_network", "winner", "verdict")  # fmt: skip
_NAMES: dict[str, str] = {LOW_DOSE_INPUT: "the input left alone", **CLASSICAL_TITLES}


def verdicts_table(judged: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Compare models by their mean RMSE over the slices of the test part, with a sentence for people.

    There is a row for each kind of low dose (measured or simulated), dose and data set, and where a kind has several
    data sets also the row ``all``. Kinds and doses are never averaged together. Where the input was not judged there is
    nothing to compare with, and no row.

    Args:
        judged: a row a model and slice: ``model``, ``dataset``, ``scan``, ``rmse_hu``.
        manifest: says of each kept scan whether its ``low_dose`` was measured or simulated.
    """
    kinds = manifest.loc[manifest["state"] == "kept", ["dataset", "scan", "low_dose"]]
    rows = judged.merge(kinds, on=["dataset", "scan"], how="left", validate="many_to_one")
    return pd.DataFrame(list(_rows(rows)), columns=[*COLUMNS])


def _rows(judged: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for kind, of_kind in judged.groupby("low_dose"):
        by_dose = split_by_dose(of_kind)
        for dose, of_dose in by_dose:
            datasets = list(of_dose.groupby("dataset"))
            origin = f"{kind} low dose of {dose_text(dose)}" if len(by_dose) > 1 else f"{kind} low dose"
            for dataset, slices in [(ALL_DATASETS, of_dose), *datasets] if len(datasets) > 1 else datasets:
                errors = slices.groupby("model", sort=False)[RANKED_BY].mean().to_dict()
                if LOW_DOSE_INPUT in errors:
                    of_input = slices[slices["model"] == LOW_DOSE_INPUT]
                    yield {"low_dose": str(kind), "dose": dose, **_row(origin, str(dataset), of_input, errors)}


def _row(origin: str, dataset: str, slices: pd.DataFrame, errors: Mapping[Any, float]) -> dict[str, Any]:
    networks = {name: error for name, error in errors.items() if name not in (LOW_DOSE_INPUT, *CLASSICAL_TITLES)}
    best = min(networks, key=lambda name: networks[name], default="")
    classical = min(errors.keys() & CLASSICAL_TITLES.keys(), key=lambda name: errors[name], default="")
    scans, before = slices["scan"].nunique(), errors[LOW_DOSE_INPUT]
    part = "the test part" if dataset == ALL_DATASETS else f"the test part of {dataset}"
    size = f"{scans} scan{'s' if scans > 1 else ''}, {len(slices)} slice{'s' if len(slices) > 1 else ''}"
    start = f"On {part} with {origin} ({size}) "
    label = f"the best of {len(networks)} networks ({best})" if len(networks) > 1 else f"the network ({best})"
    parts = [
        f"{CLASSICAL_TITLES[classical]} {_change(errors[classical], before)}"
        if classical
        else "no classical denoiser was judged",
        f"{label} {_change(networks[best], before)}" if networks else "no network was judged",
    ]
    winner = _winner(errors, classical, best)
    ending = f": {_ending(errors, (LOW_DOSE_INPUT, classical, best), winner)}" if winner else ""
    verdict = f"{start}{', '.join(parts)}{ending}."
    return dict(zip(COLUMNS[2:], (dataset, scans, len(slices), before, classical, errors.get(classical), best,
                              networks.get(best), winner, verdict), strict=True))  # fmt: skip


def _change(error: float, before: float) -> str:
    """Say by how much an error is below, or above, that of the input."""
    share = 100 * (1 - error / before)
    return f"{'removes' if share >= 0 else 'adds'} {abs(share):.1f} % {'of' if share >= 0 else 'to'} the input's RMSE"


def _winner(errors: Mapping[Any, float], classical: str, best: str) -> str:
    """Return the model of the least error, of equal ones the simplest; none where one of the kinds is missing."""
    if not classical or not best:
        return ""
    return min((LOW_DOSE_INPUT, classical, best), key=lambda name: errors[name])


def _ending(errors: Mapping[Any, float], models: Sequence[str], winner: str) -> str:
    """Say which model wins, or which share the least error: outputs are whole HU, so small corrections change none."""
    best = [_name(model) for model in models if errors[model] == errors[winner]]
    return f"{best[0]} wins" if len(best) == 1 else f"{' and '.join(best)} are equally good"


def _name(winner: str) -> str:
    return _NAMES.get(winner, "the network")
