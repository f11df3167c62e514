"""The outcome of a search: a table of its trials, the settings that were best, and lines for people."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import yaml

from data_prep.log import describe_count
from pipeline.search.cells import apply
from pipeline.search.trials import Trial, best_of
from pipeline.settings.run import RunSettings

STATES = ("complete", "pruned", "failed", "unfinished")
COLUMNS = ("network", "trial", "generation", "state", "rung", "steps", "value", "hours", "cpu_hours", "reason")


def trials_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Make a row a trial; ``value`` is its validation RMSE as a share of the input's, on its last rung."""
    rows = [_row(trial) for trial in trials]
    parameters = dict.fromkeys(name for trial in trials for name in trial.parameters)
    table = pd.DataFrame(rows, columns=[*COLUMNS[:-1], *parameters, COLUMNS[-1]])
    for name in parameters:  # pandas would turn null beside numbers into NaN, and whole numbers into others
        table[name] = pd.Series([row.get(name) for row in rows], dtype=object)
    return table


def _row(trial: Trial) -> dict[str, Any]:
    last = trial.last
    reached = {"rung": last.rung, "steps": last.steps, "value": last.value, "cpu_hours": last.cpu_hours} if last else {}
    return {
        "network": trial.network, "trial": trial.number, "generation": trial.generation, "state": trial.state,
        "hours": trial.hours, **reached, **trial.parameters, "reason": trial.reason,
    }  # fmt: skip


def networks_table(networks: Iterable[str], trials: Sequence[Trial]) -> pd.DataFrame:
    """Make a row a network: its trials by state, what they took, and the best of them."""
    return pd.DataFrame(
        [_sum(network, [trial for trial in trials if trial.network == network]) for network in networks]
    )


def _sum(network: str, trials: Sequence[Trial]) -> dict[str, Any]:
    best = best_of(trials)
    return {
        "network": network, "trials": len(trials),
        **{state: sum(trial.state == state for trial in trials) for state in STATES},
        "hours": sum(trial.hours for trial in trials),
        "cpu_hours": sum(trial.last.cpu_hours for trial in trials if trial.last),
        "best": best.number if best else None, "value": best.last.value if best and best.last else None,
    }  # fmt: skip


def found_settings(run: RunSettings, trials: Sequence[Trial]) -> RunSettings:
    """Return the settings of the run with each network's best parameters, and without the search."""
    settings = run
    for network in run.searched:
        if best := best_of(trial for trial in trials if trial.network == network):
            settings = apply(settings, network, best.parameters)
    return settings


def found_yaml(run: RunSettings, trials: Sequence[Trial]) -> str:
    """Write the found settings as a settings file, with a comment on each network's best trial."""
    settings = found_settings(run, trials)
    short = settings.to_values(exclude_defaults=True)
    values = short if RunSettings.model_validate(short) == settings else settings.to_values()
    comments = [f"# {line}" for line in outcome_lines(run, trials)]
    return "\n".join([*comments, yaml.safe_dump(values, sort_keys=False)])


def outcome_lines(run: RunSettings, trials: Sequence[Trial]) -> list[str]:
    """Say for each network what its best trial reached, and with what; then what the search took."""
    assert run.search
    lines = [_describe(network, [trial for trial in trials if trial.network == network]) for network in run.searched]
    budget, missing = run.search.budget_gpu_hours, run.search.trials * len(run.searched) - len(trials)
    hours = sum(trial.hours for trial in trials)
    took = f"{describe_count(len(trials), 'trial')} took {hours:.3g} hours of their processes"
    if missing and budget is not None and hours >= budget:
        took += f"; search.budget_gpu_hours {budget:g} was spent before the other {missing} were asked for"
    elif missing:
        took += f"; the other {missing} are not asked for yet"
    return [*lines, took]


def _describe(network: str, trials: Sequence[Trial]) -> str:
    best, failed = best_of(trials), [trial for trial in trials if trial.state == "failed"]
    faults = f"; {len(failed)} failed, first: {' '.join(failed[0].reason.split())}" if failed else ""
    if best is None or best.last is None:
        return f"{network}: none of {describe_count(len(trials), 'trial')} was trained to its end{faults}"
    parameters = ", ".join(f"{name} {_short(setting)}" for name, setting in best.parameters.items())
    error = f"{best.last.value:.1%} of the input's validation RMSE"
    return f"{network}: trial {best.number} of {len(trials)} is the best, {error}, with {parameters}{faults}"


def _short(setting: object) -> str:
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)
