"""Parameters of trials, drawn by the samplers of Optuna from settings and results alone."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.search.trials import Parameters, Trial
from pipeline.settings.search import Range, SearchSettings

Distributions = Mapping[str, BaseDistribution]
_SEED_BYTES = 4
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL,
           "unfinished": TrialState.RUNNING}  # fmt: skip


def ask(search: SearchSettings, network: str, numbers: Sequence[int], earlier: Iterable[Trial]) -> list[Parameters]:
    """Draw parameters for the trials of a generation, which have these numbers.

    With sampler ``random``, and in the first generation, they depend on the seed, the network and each trial's number
    alone; with ``tpe`` also on the results of the ``earlier`` generations.
    """
    distributions = distributions_of(search.space_of(network))
    if search.sampler == "random" or numbers[0] == 0:
        return [_draw_at_random(search, network, number, distributions) for number in numbers]
    seed = _seed(search, network, numbers[0])
    study = _new_study(optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True))
    study.add_trials([_lesson(trial, distributions) for trial in earlier if trial.parameters])
    return [study.ask(dict(distributions)).params for _ in numbers]


def _draw_at_random(search: SearchSettings, network: str, number: int, distributions: Distributions) -> Parameters:
    sampler = optuna.samplers.RandomSampler(seed=_seed(search, network, number))
    return dict(_new_study(sampler).ask(dict(distributions)).params)


def _new_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=sampler, direction="minimize")


def _seed(search: SearchSettings, network: str, number: int) -> int:
    """Mix the search's seed with a network's name and a trial's number."""
    text = f"{search.seed}/{network}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SEED_BYTES], "big")


def _lesson(trial: Trial, distributions: Distributions) -> FrozenTrial:
    """Return what TPE learns from: a trial that failed counts as the worst, where a FAIL would teach nothing."""
    frozen = to_optuna(trial, distributions)
    if trial.state in ("failed", "unfinished"):
        frozen.state, frozen.intermediate_values = TrialState.PRUNED, {}
    return frozen


def distributions_of(ranges: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """Return ranges as distributions of Optuna, by the names of the parameters."""
    return {name: _distribution(setting) for name, setting in ranges.items()}


def _distribution(setting: Range) -> BaseDistribution:
    if interval := setting.log or setting.uniform:
        return FloatDistribution(*interval, log=setting.log is not None)
    if setting.int:
        return IntDistribution(*setting.int)
    return CategoricalDistribution(setting.values)


def to_optuna(trial: Trial, distributions: Distributions) -> FrozenTrial:
    """Return a trial that has ended as one of Optuna: its values by rung, and of a complete one that of the last."""
    return create_trial(
        state=_STATES[trial.state],
        value=trial.last.value if trial.last and trial.state == "complete" else None,
        params=dict(trial.parameters),
        distributions={name: distributions[name] for name in trial.parameters},
        intermediate_values={result.rung: result.value for result in trial.rungs},
    )
