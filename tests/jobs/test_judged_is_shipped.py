"""What evaluation judges of a network is to the voxel what ``quarterdose denoise`` writes with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from data_prep.files import write_json
from data_prep.originals import dicom_original, nifti_original
from data_prep.progress import ignore_progress
from data_prep.readers.dicom import open_series
from data_prep.store import Pair
from jobs.stages.denoise import ARRAY, denoise_scan
from jobs.stages.denoise_outputs import Format, OutputOptions
from pipeline.evaluate.denoisers import load_denoiser
from pipeline.inference.model_file import load_model, save_model
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings
from pipeline.settings.run import EvaluateSettings
from pipeline.training.checkpoints import Checkpoints, load_trained
from tests.pipeline.cells import cell
from tests.scans import Hu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("residual", "scaling"), [(True, "hu"), (False, "minmax")])
@pytest.mark.parametrize("dims", [2, 3])
def test_judged_is_shipped(
    dims: int, residual: bool, scaling: str, make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    """In float32 on CPUs and float16 on GPUs; the plane of 50 pixels is padded, the scan longer than a volume."""
    settings = cell(dims, residual=residual, scaling=scaling, norm="group")
    write_training(settings, tmp_path / "cell")
    pair = make_pair(slices=20, side=50) / "toy" / "a.zarr"
    low = Pair(pair).read("low_dose")
    judged = load_denoiser(settings, tmp_path / "cell", EvaluateSettings(threads=1))(low)
    assert judged.dtype == np.int16
    assert np.abs(judged.astype(int) - low).mean() > 1
    for kind in ("zarr", "nifti", "dicom"):
        np.testing.assert_array_equal(judged, ship(pair, kind, settings, tmp_path))


def write_training(settings: CellSettings, folder: Path) -> None:
    """Write the checkpoint of a network that changes something: its last layer does not start at zero."""
    torch.manual_seed(0)
    lively = build_network(settings)
    nn.init.normal_(lively.get_parameter("up.3.reduce.conv.weight"), std=0.1)
    Checkpoints(folder / "checkpoints").save(1, {"model": lively.state_dict()}, 1)
    write_json(folder / "result.json", {"steps": 1, "checkpoint": Checkpoints(folder / "checkpoints").digest(1)})


def ship(pair: Path, kind: Format, settings: CellSettings, folder: Path) -> Hu:
    """Denoise the pair's low dose as a user does, and read the file again."""
    model = folder / "model.safetensors"
    save_model(model, load_trained(settings, folder / "cell"), settings, {})
    denoise_scan(pair, load_model(model), OutputOptions(folder / kind, kind), DEVICE, ignore_progress)
    (target,) = (path for path in (folder / kind).iterdir() if path.suffix != ".json")
    if kind == "zarr":
        return np.asarray(zarr.open_array(target / ARRAY)[:])
    original = nifti_original(target) if kind == "nifti" else dicom_original(open_series(sorted(target.iterdir())))
    return np.stack([original.read(z)[0] for z in range(original.slices)]).astype(np.int16)
