"""The report of a large study."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from pipeline.report.write import write_report
from pipeline.settings.cells import cells_of
from tests.bench.timing import seconds_of
from tests.pipeline.runs import WITH_RED_CNN, fill, judge, settings_of
from tests.scans import chest

LIMIT_SECONDS = 60.0


def report_200() -> tuple[float, float]:
    """Seconds for the whole report of 200 3D trainings and two 2D ones, with 500 lines each and 16 slices of 512²."""
    study = {"slices": [16, 32, 48, 64, 80], "ranks": [1, 2, 4, 8, 16, 32, 64, 128],
             "transfer": ["none", "zero", "repeat", "mean", "noise"], "training": {"samples": 1280}}  # fmt: skip
    settings = settings_of(networks=WITH_RED_CNN, study=study)
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    noise = np.random.default_rng(0).normal(0, 20, (16, 512, 512))
    full = (chest(16, 512) + noise).clip(-1024, 3071).round().astype(np.int16)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root, cells, ids, lines=500)
        for model in ("low-dose", "2d", "redcnn", "3d-s16-r1"):
            judge(root, model, full)
        states, judged = dict.fromkeys(ids, ("done", "")), ["low-dose", *ids]
        return seconds_of(lambda: write_report(root, settings, cells, states, judged, pd.DataFrame())), LIMIT_SECONDS
