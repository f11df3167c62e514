"""The journal: the trials of a search as studies of Optuna, one a network, for its own tools."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial

from data_prep.files import replacing
from pipeline.search.asking import Distributions, distributions_of, to_optuna
from pipeline.search.trials import Trial
from pipeline.settings.search import SearchSettings


def write_journal(path: Path, search: SearchSettings, networks: Iterable[str], trials: Iterable[Trial]) -> None:
    """Write the trials to a journal file, whole: nothing is read from it again.

    Its lock is a file that must not exist yet, which also works on NFS.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    of_network = {network: [trial for trial in trials if trial.network == network] for network in networks}
    with replacing(path) as temporary:
        storage = JournalStorage(JournalFileBackend(str(temporary), lock_obj=JournalFileOpenLock(str(temporary))))
        for network, listed in of_network.items():
            study = optuna.create_study(storage=storage, study_name=network, direction="minimize")
            distributions = distributions_of(search.space_of(network))
            study.add_trials([_dated(trial, distributions) for trial in listed])


def _dated(trial: Trial, distributions: Distributions) -> FrozenTrial:
    """Return a trial of Optuna with its times, its number in the search, and the reason of its failure."""
    frozen = to_optuna(trial, distributions)
    end = datetime.fromtimestamp(trial.last.finished if trial.last else 0.0, UTC).replace(tzinfo=None)
    frozen.datetime_start, frozen.datetime_complete = end, None if trial.state == "unfinished" else end
    frozen.user_attrs = {"trial": trial.number, "generation": trial.generation, "hours": trial.hours,
                         "reason": trial.reason}  # fmt: skip
    return frozen
