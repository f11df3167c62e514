"""Importance of parameters, by Optuna's PED-ANOVA, beside what chance would give with as few trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from pipeline.search.asking import Distributions, distributions_of, to_optuna
from pipeline.search.trials import Trial
from pipeline.settings.search import SearchSettings

LEAST_TRIALS = 8
_BEST = 0.25  # share of the trials that count as good
_SHUFFLES, _CHANCE = 100, 0.95
COLUMNS = ("network", "parameter", "importance", "chance", "trials")


def importance_table(search: SearchSettings, networks: Sequence[str], trials: Sequence[Trial]) -> pd.DataFrame:
    """Make a row a parameter of each network with at least ``LEAST_TRIALS`` trials that have a value.

    ``importance``: how much the parameter decides on being among the best quarter after the first rung, on which all
    are compared; those of a network sum to 1. ``chance``: 95 % of what the same parameter gets when the values are
    shuffled; an importance below it shows nothing.
    """
    rows = [row for network in networks for row in _rows(search, network, trials)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(search: SearchSettings, network: str, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    judged = [trial for trial in trials if trial.network == network and trial.rungs]
    distributions = distributions_of(search.space_of(network))
    if len(judged) < LEAST_TRIALS or len(distributions) < 2:
        return []
    values = np.array([trial.rungs[0].value for trial in judged])
    generator = np.random.default_rng(search.seed)
    shuffled = [_importance(judged, generator.permutation(values), distributions) for _ in range(_SHUFFLES)]
    return [
        {"network": network, "parameter": name, "importance": share, "trials": len(judged),
         "chance": float(np.quantile([shares[name] for shares in shuffled], _CHANCE))}
        for name, share in _importance(judged, values, distributions).items()
    ]  # fmt: skip


def _importance(trials: Sequence[Trial], values: np.ndarray, distributions: Distributions) -> Mapping[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    for trial, value in zip(trials, values, strict=True):
        frozen = to_optuna(trial, distributions)
        frozen.state, frozen.values = optuna.trial.TrialState.COMPLETE, [float(value)]
        study.add_trial(frozen)
    shares: Mapping[str, float] = get_param_importances(
        study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST)
    )
    return shares
