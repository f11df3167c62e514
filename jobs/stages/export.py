"""Export of the run's best network as a model file, with its card."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data_prep.errors import UserError
from data_prep.ledger import FILE as LEDGER
from data_prep.log import describe_count
from data_prep.manifest import read_manifest
from data_prep.progress import Progress
from data_prep.split import Segment, Split
from jobs.engine.stage import Ref, Stage
from jobs.stages.evaluate import Evaluate
from jobs.stages.split import read_split
from pipeline.settings.names import LOW_DOSE_INPUT
from pipeline.settings.training import TrainingSettings
from pipeline.training.world import World

if TYPE_CHECKING:
    import pandas as pd

MODEL = "model"


class Export(Stage):
    """Write the model file: of the judged networks that of the least error in validation, relative to its input.

    Of networks that were validated at different doses, or on different voxels, it is that of the judged validation
    part, at all stored doses.
    """

    name: str = "export"
    version: ClassVar[int] = 6
    accepts_failed_inputs: ClassVar[bool] = True

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate.folder)
        self.evaluate = evaluate

    def items(self) -> list[str]:
        return [MODEL]

    def find_items(self, progress: Progress) -> str:
        """Check, hours before, that networks which were not validated alike will be judged on the validation part."""
        stored = self.settings.data.low_dose.doses
        validated = {cell.validated_on(stored) for _, cell in self.evaluate.cells.values()}
        if len(validated) > 1 and "validation" not in self.settings.evaluate.also:
            raise UserError(
                "evaluate.also must name validation: the networks are validated at different doses or on different "
                "voxels, so that only a judgement of that part can say which of them is the run's model"
            )
        return ""

    def inputs(self, item: str) -> list[Ref]:
        trainings = [(stage.name, cell) for cell, (stage, _) in self.evaluate.cells.items()]
        return [("split", "split"), *trainings, *((self.evaluate.name, judged) for judged in self.evaluate.items())]

    def outputs(self, item: str) -> list[Path]:
        return [self.folder.model, self.folder.model.with_name("model-card.md")]

    def partly_written(self, item: str) -> Mapping[Path, str]:
        return {self.folder.root: rf"model.*|{re.escape(LEDGER)}"}

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        from pipeline.inference.model_card import write_model
        from pipeline.training.checkpoints import load_trained

        judged = self.evaluate.judged_items()
        trainings = {name: self._read_training(name) for name in judged if name in self.evaluate.cells}
        if not trainings or LOW_DOSE_INPUT not in judged:
            raise UserError("no network was trained and judged, so there is no model to write")
        best = self.choose(trainings)
        cell = self.evaluate.cells[best][1]
        provenance = self._provenance(best, trainings[best], read_split(self))
        network = load_trained(cell, self.folder.cell(best))
        with self.folder.recording_model():
            return {"cell": best, "sha256": write_model(self.folder.model, network, cell, provenance)}

    def choose(self, trainings: Mapping[str, Mapping[str, Any]]) -> str:
        """Choose a network by the results of trainings; raise UserError if their errors do not compare."""
        from pipeline.evaluate.choice import choose_network

        stored = self.settings.data.low_dose.doses
        validated = {name: self.evaluate.cells[name][1].validated_on(stored) for name in trainings}
        return choose_network(trainings, validated, self.folder.root / "evaluation")

    def _read_training(self, cell: str) -> dict[str, Any]:
        training: dict[str, Any] = json.loads((self.folder.cell(cell) / "result.json").read_text())
        return training

    def _provenance(self, best: str, training: Mapping[str, Any], split: Split) -> dict[str, Any]:
        """Collect what the model file says of its origin; of its scans the ids of data sets, never of patients."""
        parts = {
            name: f"{describe_count(sum(map(len, segments)), 'slice')} of "
            + describe_count(len({segment.scan for segment in segments}), "scan")
            for name, segments in split.parts.items()
        }
        datasets = {segment.dataset for segments in split.parts.values() for segment in segments}
        judged = self.evaluate.judged_items()
        compared = [name for name in (LOW_DOSE_INPUT, *self.settings.evaluate.classical) if name in judged]
        keys = ("steps", "samples", "precision", "device", "torch", "version")
        return {
            "run": self.settings.name,
            "data sets": sorted(datasets),
            "low dose": self.settings.data.low_dose.as_record(),
            "noise": self._noise(split.parts["train"], self.evaluate.cells[best][1].training.doses),
            "split": {"by": split.by, **parts, "digest": training["data"]},
            "training": {key: training[key] for key in keys},
            "weights": describe_weights(self.evaluate.cells[best][1].training, training["checkpoint_step"]),
            "convolutions": training.get("convolutions"),
            "validation": {key: round(training["validation"][key], 3) for key in ("rmse_hu", "low_dose_rmse_hu")},
            **self._metrics([*compared, best]),
            "verdict": self._verdicts([*compared, best]),
        }

    def _metrics(self, models: Sequence[str]) -> dict[str, Any]:
        """Return the mean errors of models on the held-out slices; of several doses at the lowest, which is named."""
        from pipeline.quality.measures import SLICE_MEASURES, names
        from pipeline.report.doses import at_lowest, shown_dose
        from pipeline.report.quality_tables import judged_table

        judged = judged_table(self.folder.root, models)
        means = at_lowest(judged).groupby("model", sort=False)[names(SLICE_MEASURES)].mean().dropna(axis="columns")
        dose = {"errors at dose": shown_dose(judged)} if shown_dose(judged) else {}
        return {**dose, "metrics": {str(name): row.to_dict() for name, row in means.iterrows()}}

    def _noise(self, segments: Sequence[Segment], doses: Sequence[float] | None) -> dict[str, Any]:
        """Describe the noise of the training's scans, at the doses that it was trained on."""
        from data_prep.noise_table import read_noise
        from pipeline.inference.trained_noise import describe_training, rows_at
        from pipeline.report.tables import records

        scans = {(segment.dataset, segment.scan) for segment in segments}
        rows = [row for row in records(read_noise(self.folder.data)) if (row["dataset"], row["scan"]) in scans]
        return describe_training(rows_at(rows, doses) if doses else rows, self.settings.data.low_dose.doses[0])

    def _manifest(self) -> "pd.DataFrame":
        """Read the manifest's rows of scans that were kept."""
        manifest = read_manifest(self.folder.data / "manifest.csv")
        return manifest[manifest["state"] == "kept"]

    def _verdicts(self, models: Sequence[str]) -> list[str]:
        """Say who wins on the test part: the network, a classical denoiser, or the input left alone."""
        from pipeline.report.quality_tables import judged_table
        from pipeline.report.verdicts import verdicts_table

        return list(verdicts_table(judged_table(self.folder.root, models), self._manifest())["verdict"])


def describe_weights(training: TrainingSettings, step: int) -> str:
    """Say which weights of a training its model file has: those of a checkpoint's ``step``."""
    source = f"after step {step}, the {'best validation' if training.keep == 'best' else 'last'}"
    if training.average is None:
        return source
    return f"{source}, averaged over the steps before with a mean age of {training.average:.3g} of them"
