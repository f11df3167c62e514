"""The search: trials of each network, of which a stage trains one generation up to one rung."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep.errors import UserError
from data_prep.files import digest_json
from data_prep.progress import Progress
from jobs.engine.marker import Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref, Stage
from jobs.stages.split import read_split
from jobs.stages.train import CellStage, transfer_item
from jobs.stages.trial_folder import FILES, TrialFolder
from jobs.stages.trial_training import train_trial
from pipeline.search.cells import first_cell, trial_cell
from pipeline.search.halving import Rung, choose, rungs_of
from pipeline.search.trials import Parameters, RungResult, Trial, TrialState, name_trial
from pipeline.training.world import World

_HOUR = 3600.0  # seconds
_RESULT = ("steps", "value", "hours", "cpu_hours", "finished")


class Search(Stage):
    """Train the trials of one generation up to one rung; an item is a trial, also where it does not go on.

    A trial goes on from the checkpoint of the rung before, as a training that was stopped there. Its parameters are
    written before it starts, so that they stay the same however often its process is killed.

    Args:
        folder: of the run.
        rung: of the search.
        earlier: the stages of the rungs before it.
    """

    uses_gpu: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    accepts_failed_inputs: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = (*CellStage.modules, "pipeline.search.asking")

    def __init__(self, folder: RunFolder, rung: Rung, earlier: Sequence["Search"]) -> None:
        self.name = f"search-{rung.generation}-{rung.number}"
        super().__init__(folder)
        assert self.settings.search
        self.search, self.rung = self.settings.search, rung
        self.cells = {network: first_cell(self.settings, network) for network in self.settings.searched}
        self.trials = {
            name_trial(network, number): (network, number) for number in rung.trials for network in self.cells
        }
        self.generations = [stage for stage in earlier if stage.rung.generation < rung.generation]
        self.rungs = [stage for stage in earlier if stage.rung.generation == rung.generation]

    def items(self) -> list[str]:
        return list(self.trials)

    def workers(self) -> int:
        return min(self.search.workers, self.rung.size * len(self.cells))

    def allowed_failures(self, count: int) -> int:
        return count  # the summary fails where all trials did

    def reads(self, item: str) -> Mapping[str, Any]:
        network, _ = self.trials[item]
        return {"share": self.rung.share, **({"size": self.rung.size} if self.rungs else self._recipe(network))}

    def _recipe(self, network: str) -> dict[str, Any]:
        """Collect the settings that decide on the network's trials, however far they are trained."""
        return {
            "training": CellStage.version, **self.search.to_ask(),
            "space": {name: x.model_dump(exclude_none=True) for name, x in self.search.space_of(network).items()},
            "cell": self.cells[network].with_effect(),
        }  # fmt: skip

    def inputs(self, item: str) -> list[Ref]:
        """List what a trial is made of, and the results that decide whether it is trained.

        These are, on a later rung, those of the network's trials on the rung before, and on the first one with a
        budget those of all earlier generations.
        """
        network, _ = self.trials[item]
        if self.rungs:
            return [*self._sources(network), *self.rungs[-1].refs([network])]
        spent = self.generations if self.search.budget_gpu_hours is not None else []
        return list(dict.fromkeys([*self._sources(network), *(ref for x in spent for ref in x.refs(list(self.cells)))]))

    def _sources(self, network: str) -> list[Ref]:
        """List what a network's trials are made of: the split, weights, and with TPE earlier generations."""
        lessons = self.generations if self.search.sampler == "tpe" else []
        return [*self._starts(network), *(ref for stage in lessons for ref in stage.refs([network]))]

    def _starts(self, network: str) -> list[Ref]:
        cell = self.cells[network]
        return [("split", "split"), *([] if cell.transfer == "none" else [("transfer", transfer_item(cell))])]

    def needs(self, item: str) -> list[Ref]:
        """List the split and the weights with which the trial starts: earlier trials may fail."""
        network, _ = self.trials[item]
        return self._starts(network)

    def key(self, item: str) -> str:
        """Return a digest of all that decides on the trial's parameters and on its training."""
        network, _ = self.trials[item]
        markers = {ref: Markers(self.folder.root, ref[0]).read(ref[1]) for ref in self._sources(network)}
        stamps = {"/".join(ref): marker.stamp for ref, marker in markers.items() if marker}
        return digest_json([self._recipe(network), stamps])

    def refs(self, networks: Sequence[str]) -> list[Ref]:
        """List the items of some networks."""
        return [(self.name, item) for item, (network, _) in self.trials.items() if network in networks]

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        return {name: result.get(name) for name in ("state", "parameters", "value")}

    def folders(self, item: str) -> Mapping[Path, str]:
        return {self.folder.trial(item): FILES}

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Train the trial up to the rung, unless others go on in its place.

        Raises:
            UserError: its parameters are not allowed together, or the budget is spent.
            MachineError: its process died again and again.
        """
        network, number = self.trials[item]
        if self.rungs and number not in self._chosen(network):
            return {"state": "pruned"}
        if not self.rungs:
            self._check_budget()
        parameters, split = self._ask_once(item), read_split(self)
        cell = trial_cell(self.settings, network, number, parameters, len(split.parts["train"]))
        outcome = train_trial(self.folder, split, cell, self.rung.share, world, progress)
        return {"parameters": dict(parameters), **outcome}

    def _chosen(self, network: str) -> set[int]:
        """Return the numbers of the network's trials that go on to this rung."""
        before = self.rungs[-1]
        values = {number: before.read_result(item).get("value") for item, (name, number) in before.trials.items()
                  if name == network}  # fmt: skip
        return choose(values, self.rung.size)

    def read_result(self, item: str) -> Mapping[str, Any]:
        """Read what became of a trial on this rung: ``state`` and, where it was trained, steps, value and hours."""
        marker = self.markers.read(item)
        if marker is None:
            return {"state": "unfinished"}
        if marker.state != "done":
            return {"state": "failed", "reason": marker.reason, "hours": marker.seconds / _HOUR}
        return {**marker.result, "finished": marker.finished}

    def _check_budget(self) -> None:
        budget, generations = self.search.budget_gpu_hours, self.generations
        if budget is None or not generations:
            return
        hours = sum(trial.hours for trial in read_trials(generations))
        if hours >= budget:
            raise UserError(
                f"search.budget_gpu_hours {budget:g} is spent: the trials of {generations[-1].rung.generation} "
                f"generations took {hours:.3g} hours"
            )

    def _ask_once(self, item: str) -> Parameters:
        """Return the trial's parameters: those that it was started with, or else ask for them."""
        first, folder = (*self.rungs, self)[0], TrialFolder(self.folder.trial(item))
        key = first.key(item)
        parameters = folder.read_parameters(key)
        if parameters is None:
            parameters = first.read_result(item).get("parameters") or self._ask(*self.trials[item])
            folder.start(key, parameters)
        return parameters

    def _ask(self, network: str, number: int) -> Parameters:
        from pipeline.search.asking import ask

        earlier = [trial for trial in read_trials(self.generations) if trial.network == network]
        return ask(self.search, network, self.rung.trials, earlier)[self.rung.trials.index(number)]


def searches_of(folder: RunFolder) -> list[Search]:
    """Build the stages of a search, in the order in which they run; none where the settings have no search."""
    stages = list[Search]()
    for rung in rungs_of(folder.settings.search) if folder.settings.search else ():
        stages.append(Search(folder, rung, tuple(stages)))
    return stages


def read_trials(stages: Sequence[Search]) -> list[Trial]:
    """Read what became of the trials of some stages, network by network, without those that nobody asked for."""
    by_trial = dict[tuple[str, int], list[Search]]()
    for stage in stages:
        for trial in stage.trials.values():
            by_trial.setdefault(trial, []).append(stage)
    trials = (_read_trial(by_trial[key], *key) for key in sorted(by_trial, key=lambda key: key[1]))
    return sorted(filter(None, trials), key=lambda trial: list(stages[0].cells).index(trial.network))


def _read_trial(stages: Sequence[Search], network: str, number: int) -> Trial | None:
    """Read a trial from the rungs of its generation, None if it was never asked for."""
    item, rungs, hours = name_trial(network, number), list[RungResult](), 0.0
    first = stages[0]
    parameters = first.read_result(item).get("parameters")
    parameters = parameters or TrialFolder(first.folder.trial(item)).read_parameters(first.key(item))
    if parameters is None:
        return None
    state: TrialState = "complete"
    reason = ""
    for stage in stages:
        result = stage.read_result(item)
        if result["state"] != "trained":
            state, reason, hours = result["state"], result.get("reason", ""), hours + result.get("hours", 0.0)
            break
        rungs.append(RungResult(stage.rung.number, *(result[name] for name in _RESULT)))
        hours = result["hours"]
    return Trial(network, number, first.rung.generation, parameters, tuple(rungs), state, hours, reason)
