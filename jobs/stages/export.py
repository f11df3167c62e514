"""The run's best network as a model file, with its card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from data_prep.errors import UserError
from data_prep.progress import Progress
from data_prep.split import Split
from jobs.engine.stage import Ref, Stage
from jobs.stages.evaluate import Evaluate
from jobs.stages.prepare import read_split
from pipeline.settings.names import LOW_DOSE_INPUT
from pipeline.training.world import World

MODEL = "model"


class Export(Stage):
    """One item: of the judged networks the one with the least error in validation, relative to the low-dose input."""

    name: ClassVar[str] = "export"
    accepts_failed_inputs: ClassVar[bool] = True

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate.folder)
        self.evaluate = evaluate

    def items(self) -> list[str]:
        """The model."""
        return [MODEL]

    def inputs(self, item: str) -> list[Ref]:
        """All judgements."""
        return [(self.evaluate.name, judged) for judged in self.evaluate.items()]

    def outputs(self, item: str) -> list[Path]:
        """The model file and its card."""
        return [self.folder.model, self.folder.model.with_name("model-card.md")]

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Choose and write.

        Raises:
            UserError: no network was judged.
        """
        from pipeline.inference.model_card import write_model
        from pipeline.training.trainer import load_trained

        judged = self.evaluate.judged()
        results = {
            name: json.loads((self.folder.cell(name) / "result.json").read_text())
            for name in judged if name in self.evaluate.cells
        }  # fmt: skip
        if not results or LOW_DOSE_INPUT not in judged:
            raise UserError("no network was trained and judged, so there is no model to write")
        best = min(results, key=lambda name: _relative_error(results[name]))
        cell = self.evaluate.cells[best][1]
        provenance = self._provenance(best, results[best], read_split(self))
        network = load_trained(cell, self.folder.cell(best))
        return {"cell": best, "sha256": write_model(self.folder.model, network, cell, provenance)}

    def _provenance(self, best: str, result: Mapping[str, Any], split: Split) -> dict[str, Any]:
        """Ids of data sets alone, never of patients."""
        parts = {
            name: f"{sum(map(len, segments))} slices of {len({one.scan for one in segments})} scans"
            for name, segments in split.parts.items()
        }
        return {
            "run": self.settings.name,
            "data sets": sorted({one.dataset for segments in split.parts.values() for one in segments}),
            "low dose": self.settings.data.low_dose.model_dump(mode="json"),
            "split": {"by": split.by, **parts, "digest": result["data"]},
            "training": {key: result[key] for key in ("steps", "samples", "precision", "device", "torch", "version")},
            "validation": {key: round(result["validation"][key], 3) for key in ("rmse_hu", "low_dose_rmse_hu")},
            "metrics": {name: _means(self.folder.evaluation(name)) for name in (LOW_DOSE_INPUT, best)},
        }


def _relative_error(result: Mapping[str, Any]) -> float:
    judged = result["validation"]
    return float(judged["rmse_hu"] / judged["low_dose_rmse_hu"])


def _means(judgement: Path) -> dict[str, float]:
    from pipeline.quality.similarity import METRICS

    rows = json.loads(judgement.with_name(f"{judgement.name}.json").read_text())
    return {metric: sum(row[metric] for row in rows) / len(rows) for metric in METRICS}
