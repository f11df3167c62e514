"""Judging on the held-out scans: the low-dose input, a classical denoiser and every trained network."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data_prep.progress import Progress
from data_prep.split import Segment
from jobs.engine.graph import Graph
from jobs.engine.stage import Ref, Stage
from jobs.stages.split import SplitScans, read_split
from jobs.stages.train import CellStage, Transfer
from pipeline.settings.names import LOW_DOSE_INPUT
from pipeline.training.world import World

if TYPE_CHECKING:
    from pipeline.evaluate.denoisers import Denoiser


class Evaluate(Stage):
    """Judge one denoiser an item: ``low-dose``, the baseline; classical ones; and cells that are no control arms.

    ``stages``: the split, and all from it to the networks.
    """

    name: str = "evaluate"
    version: ClassVar[int] = 9
    uses_gpu: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("pipeline.evaluate.judgement",)
    is_lenient: bool = True  # a network whose training failed cannot be judged

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__(stages[0].folder)
        self.graph = Graph([*stages, self])
        trainings = [stage for stage in stages if isinstance(stage, CellStage)]
        cells = [(stage, cell) for stage in trainings for cell in stage.cells.values()]
        self.cells = {cell.id: (stage, cell) for stage, cell in cells if not cell.is_control}

    def workers(self) -> int:
        return self.settings.evaluate.workers

    def items(self) -> list[str]:
        return [LOW_DOSE_INPUT, *self.settings.evaluate.classical, *self.cells]

    def reads(self, item: str) -> Mapping[str, Any]:
        return self.settings.evaluate.model_dump(mode="json", exclude={"workers", "threads", "classical"})

    def inputs(self, item: str) -> list[Ref]:
        return [("split", "split"), *([(self.cells[item][0].name, item)] if item in self.cells else [])]

    def outputs(self, item: str) -> list[Path]:
        endings = (".json", ".scans.json", ".npz", ".times.json")  # rows by slice, rows by scan, an example, speed
        return [self.folder.evaluation(item).with_name(f"{item}{ending}") for ending in endings]

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        return {path: digest for path, digest in outputs.items() if not path.endswith(".times.json")}

    def folders(self, item: str) -> Mapping[Path, str]:
        return {self.folder.evaluation(item): r"[^/]+\.(json|npz)"}

    def discard(self, item: str) -> None:
        shutil.rmtree(self.folder.evaluation(item), ignore_errors=True)

    def judged_items(self) -> list[str]:
        """List the items whose judgement is up to date, as :meth:`current` says."""
        current = self.current()
        return [item for item in self.items() if (self.name, item) in current]

    def current(self) -> set[Ref]:
        """Collect the items that are, with what they were made of from the split on, of the settings of now.

        They may be of an earlier version, unless others of their kind are of a later one. A run that was interrupted
        has both, and items of other settings, and they do not compare.
        """
        current, newest = set[Ref](), self._newest_versions()
        for stage in self.graph.stages.values():
            for item in stage.items():
                ref = stage.name, item
                if isinstance(stage, SplitScans) or (
                    self._is_made(ref, newest) and all(source in current for source in stage.inputs(item))
                ):
                    current.add(ref)
        return current

    def _is_made(self, ref: Ref, newest: Mapping[type[Stage], int]) -> bool:
        """Whether an item was done with the settings and inputs of now, by the newest version that did its kind."""
        stage = self.graph.stages[ref[0]]
        if isinstance(stage, Transfer):
            return True  # the file of a donor may be out of reach, but what was made of it is an input of the training
        return self.graph.is_current(ref) and _version_of(stage, ref[1]) == newest[_kind(stage)]

    def _newest_versions(self) -> dict[type[Stage], int]:
        """Return the newest version by which an item of each kind, such as any training, was done."""
        newest = dict[type[Stage], int]()
        for stage in (stage for stage in self.graph.stages.values() if isinstance(stage, CellStage | Evaluate)):
            versions = [_version_of(stage, item) for item in stage.items()]
            newest[_kind(stage)] = max(newest.get(_kind(stage), 0), *versions, 0)
        return newest

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        from pipeline.evaluate.judgement import evaluate

        settings, split = self.settings.evaluate, read_split(self)
        denoiser, tuning = self._denoiser(item, split.parts["validation"])
        parts = {part: split.parts[part] for part in settings.parts}
        return {
            **tuning, **evaluate(denoiser, self.folder.data, parts, settings, self.folder.evaluation(item), progress)
        }  # fmt: skip

    def _denoiser(self, item: str, validation: Sequence[Segment]) -> tuple["Denoiser", dict[str, Any]]:
        """Return the denoiser of an item, and what was tuned for it on the validation part."""
        from pipeline.evaluate.denoisers import identity, load_denoiser, tune_classical

        settings = self.settings.evaluate
        if item == LOW_DOSE_INPUT:
            return identity(settings), {}
        for name in settings.classical:
            if item == name:
                denoiser, strengths = tune_classical(name, self.folder.data, validation, settings)
                by_dose = {str(dose): strength for dose, strength in strengths.items()}
                return denoiser, {"strength_hu": by_dose if len(by_dose) > 1 else by_dose["None"]}
        return load_denoiser(self.cells[item][1], self.folder.cell(item), settings), {}


def _version_of(stage: Stage, item: str) -> int:
    """Return the version by which an item was done; 0 if it was not."""
    marker = stage.markers.read(item)
    return int(marker.parts["version"]) if marker and marker.state == "done" else 0


def _kind(stage: Stage) -> type[Stage]:
    return CellStage if isinstance(stage, CellStage) else type(stage)
