"""A toy pair of several low doses, and samples of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.group_writer import writing_group
from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.partners import FULL_DOSE
from data_prep.settings import LowDoseSettings
from data_prep.split import Segment
from data_prep.store import Pair
from pipeline.dataset import PairSamples
from pipeline.settings.run import EvaluateSettings
from tests.pipeline.cells import cell
from tests.scans import chest

SETTINGS = LowDoseSettings.model_validate({
    "doses": [0.05, 0.25], "realisations": 2, "photons": 2e5, "z_correlation": [0.3, 0.1],
    "geometry": {"views": 288, "channels": 368, "channel_arc_mm": 2.5716},
})  # fmt: skip
EVALUATE = EvaluateSettings(device="cpu", threads=1)
SIDE, PIXEL = 64, 5.0  # a body as large as a real one absorbs as much


def write_doses(
    data: Path, settings: LowDoseSettings = SETTINGS, slices: int = 48, side: int = SIDE, pixel: float = PIXEL
) -> Path:
    """Write a toy pair with the low doses of these settings; return its path."""
    path, full = data / "toy" / "a.zarr", chest(slices, side)
    lows, models = dict[str, Any](), dict[float | None, Any]()
    for partner in settings.partners:
        assert partner.dose
        simulator = LowDoseSimulator(settings.at(partner.dose), side, pixel)
        lows[partner.array] = simulator.low_dose(full, "a", 0, partner.draw)
        models[partner.dose] = simulator.model.as_record()
    several = [{**asdict(partner), "noise_model": models[partner.dose]} for partner in settings.partners]
    listed = {"partners": several} if len(several) > 1 else {"noise_model": several[0]["noise_model"]}
    with writing_group(path, [FULL_DOSE, *lows], full.shape, (2.5, pixel, pixel)) as writer:
        writer.write(full, *lows.values())
        writer.close({"low_dose": settings.as_record(), **listed})
    return path


def samples(data: Path, dims: int = 2, per_epoch: int = 8, *, validating: bool = False, **training: Any) -> PairSamples:
    segments = [Segment("toy", "a", 0, 24), Segment("toy", "a", 24, 48)]
    return PairSamples(data, segments, cell(dims, crop=None, **training), 3, per_epoch, validating=validating)


def origin_of(pair: Pair, sample: tuple[torch.Tensor, ...]) -> tuple[str, int]:
    """The array and the first slice that a sample's low dose is from."""
    low, full = ((100 * x.squeeze()).round().numpy().astype(np.int16) for x in sample[:2])
    low, full = (x if x.ndim == 3 else x[None] for x in (low, full))
    (first,) = [z for z in range(49 - len(full)) if np.array_equal(pair.read(FULL_DOSE, z, z + len(full)), full)]
    matches = [p.array for p in pair.partners if np.array_equal(pair.read(p.array, first, first + len(low)), low)]
    return (matches or [""])[0], first
