"""Benchmark of denoising a real scan to DICOM, against its network alone."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import pydicom
import torch
from torch import nn

from data_prep.progress import ignore_progress
from jobs.stages.denoise import denoise_scan
from jobs.stages.denoise_outputs import OutputOptions
from pipeline.convolutions.memory_format import lay_out
from pipeline.inference.model_file import Model
from pipeline.inference.windows import plan_windows
from pipeline.models import build_network
from pipeline.training.distributed import device_of
from pipeline.training.world import World
from tests.bench.timing import medians
from tests.beside import SHARED
from tests.pipeline.cells import cell

_SLICES = slice(50, 78)  # two windows of sixteen


def denoise_throughput() -> tuple[float, float]:
    """28 slices of 512 x 512 from DICOM to DICOM, against as many windows of noise through 3D-DDnet, whole."""
    torch.set_num_threads(2)
    settings, device = cell(3, residual=True, norm="group"), device_of(World())
    network = lay_out(build_network(settings).eval().to(device), 3)
    model = Model(network, settings, {}, "digest")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for path in _neighbours():
            (source / path.name).symlink_to(path)

        def ours() -> None:
            with tempfile.TemporaryDirectory() as out:
                denoise_scan(source, model, OutputOptions(Path(out), "dicom"), device, ignore_progress)

        return medians(ours, lambda: _bare(network, len(plan_windows(settings, 28)), device), 3)


def _neighbours() -> list[Path]:
    paths = sorted((SHARED / "ct/LIDC-IDRI-0003").rglob("*.dcm"))
    if not paths:
        raise FileNotFoundError("ct/LIDC-IDRI-0003")
    return sorted(paths, key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).SliceLocation))[_SLICES]


@patch("pipeline.models.stripes.ROWS", 512)
@torch.inference_mode()
def _bare(network: nn.Module, count: int, device: torch.device) -> None:
    x = torch.randn(1, 1, 16, 512, 512, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for _ in range(count):
            network(x).cpu()
