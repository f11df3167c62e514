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
        """List the items whose judgement is up to date, as :meth:`is_current` says."""
        return [item for item in self.items() if self.is_current((self.name, item))]

    def is_current(self, ref: Ref) -> bool:
        """Whether an item, and what it was made of from the split on, is of the settings that there are now.

        It may be of an earlier version, unless others of its kind are of a later one. A run that was interrupted has
        both, and items of other settings, and they do not compare.
        """
        stage = self.graph.stages[ref[0]]
        if isinstance(stage, SplitScans):
            return True
        # the file of a donor may be out of reach, but what was made of it is an input of the training
        is_made = isinstance(stage, Transfer) or (self.graph.is_current(ref) and self._is_newest(stage, ref[1]))
        return is_made and all(map(self.is_current, stage.inputs(ref[1])))

    def _is_newest(self, stage: Stage, item: str) -> bool:
        """Whether no item of this kind, such as any training, was done by a later version."""
        version = _version_of(stage, item)
        kind = CellStage if isinstance(stage, CellStage) else type(stage)
        peers = (peer for peer in self.graph.stages.values() if isinstance(peer, kind))
        return version == stage.version or version == max(_version_of(peer, x) for peer in peers for x in peer.items())

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
