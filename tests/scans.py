"""Small synthetic scans."""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Hu = NDArray[np.int16]


def chest(slices: int, side: int = 64, seed: int = 0) -> Hu:
    """A toy chest in HU: an ellipse of tissue with two lungs, vessels that wander with z."""
    generator = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, side)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    plane = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40.0, -1000.0)
    for centre in (-0.4, 0.4):
        plane[((x - centre) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = -850
    volume = np.repeat(plane[None], slices, axis=0)
    for z in range(slices):
        for cx, cy in generator.uniform(-0.4, 0.4, (6, 2)):
            volume[z][(x - cx) ** 2 + (y - cy) ** 2 < 0.004] = 50
    return volume.round().astype(np.int16)


def write_nifti(path: Path, hu: Hu) -> None:
    """Write a canonical volume as NIfTI with axes L, A, S, as the sample has them."""
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(hu[:, ::-1].transpose(2, 1, 0), np.diag([-0.7, 0.7, 2.5, 1.0]))
    nib.save(image, path)
