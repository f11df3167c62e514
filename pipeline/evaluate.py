"""Trained networks, and the low-dose input itself, judged on the held-out slices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.files import replacing, write_json
from data_prep.layout import pair_path
from data_prep.progress import Progress
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.config import CellSettings, EvaluateSettings
from pipeline.denoise import centre, denoise
from pipeline.metrics import judge_slices
from pipeline.training.distributed import device_of
from pipeline.training.trainer import load_trained
from pipeline.training.world import World

_EXAMPLE_SLICES = 16


def evaluate(
    cell: CellSettings | None, cell_folder: Path, data: Path, test: Sequence[Segment],
    settings: EvaluateSettings, target: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Judge a cell's network, or with None the low-dose input; write ``target`` .json and .npz.

    The JSON has a row a slice, the npz up to 16 slices from the middle of the first held-out scan (HU).
    """
    torch.set_num_threads(settings.threads)
    model = load_trained(cell, cell_folder).to(device_of(World(), settings.device)) if cell else None
    rows: list[dict[str, Any]] = []
    for number, segment in enumerate(test):
        low, full = (_read(data, segment, name) for name in ("low_dose", "full_dose"))
        full = centre(full, settings.crop)
        image = denoise(model, cell, low, settings.crop) if model and cell else centre(low, settings.crop)
        places = (
            {"dataset": segment.dataset, "scan": segment.scan, "slice": segment.start + i} for i in range(len(full))
        )
        rows += [{**place, **judged} for place, judged in zip(places, judge_slices(image, full), strict=True)]
        if number == 0:
            _write_example(target.with_suffix(".npz"), image, full)
        progress(number + 1, len(test), segment.scan)
    write_json(target.with_suffix(".json"), rows)
    return {"slices": len(rows), "rmse_hu": float(np.mean([row["rmse_hu"] for row in rows]))}


def _read(data: Path, segment: Segment, name: str) -> NDArray[np.int16]:
    return Pair(pair_path(data, segment.dataset, segment.scan)).read(name, segment.start, segment.stop)


def _write_example(path: Path, image: NDArray[np.generic], full: NDArray[np.int16]) -> None:
    first = max(0, (len(full) - _EXAMPLE_SLICES) // 2)
    shown = slice(first, first + _EXAMPLE_SLICES)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, image=np.rint(image[shown]).astype(np.int16), full_dose=full[shown])
