"""What evaluation judges of a network is to the voxel what ``quarterdose denoise`` writes with it."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.store import Pair
from jobs.stages.denoise_outputs import Format
from pipeline.evaluate.denoisers import load_denoiser
from pipeline.models import build_network
from pipeline.settings.run import EvaluateSettings
from tests.pipeline.cells import cell
from tests.shipping import ship, write_training


@pytest.mark.slow
@pytest.mark.parametrize(("residual", "scaling"), [(True, "hu"), (False, "minmax")])
@pytest.mark.parametrize("dims", [2, 3])
def test_judged_is_shipped(
    dims: int, residual: bool, scaling: str, make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    """In float32 on CPUs and float16 on GPUs; the plane of 50 pixels is padded, the scan longer than a volume."""
    settings = cell(dims, residual=residual, scaling=scaling, norm="group")
    torch.manual_seed(0)
    network = build_network(settings)
    nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.1)  # else it returns its input
    write_training(network, tmp_path / "cell")
    pair = make_pair(slices=20, side=50) / "toy" / "a.zarr"
    low = Pair(pair).read("low_dose")
    judged = load_denoiser(settings, tmp_path / "cell", EvaluateSettings(threads=1))(low, None)
    assert judged.dtype == np.int16
    assert np.abs(judged.astype(int) - low).mean() > 1
    for kind in get_args(Format):
        np.testing.assert_array_equal(judged, ship(pair, kind, settings, tmp_path))
