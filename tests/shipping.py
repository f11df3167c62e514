"""A trained network as users get it: its checkpoint, and a scan that it has denoised."""

from pathlib import Path

import numpy as np
import torch
import zarr
from torch import nn

from data_prep.files import write_json
from data_prep.originals import dicom_original, nifti_original
from data_prep.progress import ignore_progress
from data_prep.readers.dicom import open_series
from jobs.stages.denoise import ARRAY, denoise_scan
from jobs.stages.denoise_outputs import Format, OutputOptions
from pipeline.inference.model_file import load_model, save_model
from pipeline.settings.cells import CellSettings
from pipeline.training.checkpoints import Checkpoints, load_trained
from tests.scans import Hu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_training(network: nn.Module, folder: Path) -> None:
    """Write the checkpoint with which a training of the network ended."""
    Checkpoints(folder / "checkpoints").save(1, {"model": network.state_dict()}, 1)
    write_json(
        folder / "result.json", {"checkpoint_step": 1, "checkpoint": Checkpoints(folder / "checkpoints").digest(1)}
    )


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
