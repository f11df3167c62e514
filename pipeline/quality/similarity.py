"""How near an image is to the full dose: error in HU and in [0, 1], PSNR, SSIM, MS-SSIM."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.intensity import HU_HIGH, HU_LOW, scaling
from pipeline.quality.ssim import ms_ssim, ssim

SLAB = 32  # slices
METRICS = ("mse", "rmse_hu", "psnr", "ssim", "ms_ssim")


def judge_slices(image: NDArray[np.generic], full: NDArray[np.generic]) -> list[dict[str, float]]:
    """Per slice: ``mse``, ``psnr`` (dB), ``ssim``, ``ms_ssim`` on -1024..3072 HU as [0, 1], ``rmse_hu``.

    Both (slices, rows, columns) in HU, sides at least 161 (five scales of MS-SSIM). Squares are
    summed in float64.
    """
    x, y = (_unit(a).unsqueeze(1) for a in (image, full))
    structure = zip(ssim(x, y, 1.0).tolist(), ms_ssim(x, y, 1.0).tolist(), strict=True)
    errors = [float(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(image, full, strict=True)]
    return [_slice(error, *values) for error, values in zip(errors, structure, strict=True)]


def mean_of_slices(judged: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The same of a whole scan: error and PSNR of all its voxels, mean similarity of its slices."""
    means = {metric: float(np.mean([one[metric] for one in judged])) for metric in ("mse", "ssim", "ms_ssim")}
    return _slice(means["mse"] * (HU_HIGH - HU_LOW) ** 2, means["ssim"], means["ms_ssim"])


def judge_volume(image: NDArray[np.generic], full: NDArray[np.generic]) -> dict[str, float]:
    """``ssim_3d`` and ``ms_ssim_3d``, in the units of :func:`judge_slices`: with neighbours along z too.

    Means over slabs of at most ``SLAB`` slices, as memory holds no whole scan's.
    """
    count = math.ceil(len(full) / SLAB)
    slabs = list(zip(np.array_split(image, count), np.array_split(full, count), strict=True))
    return {
        name: _mean_of_slabs(similarity, slabs) for name, similarity in (("ssim_3d", ssim), ("ms_ssim_3d", ms_ssim))
    }


def _mean_of_slabs(similarity: Callable[..., torch.Tensor], slabs: Sequence[tuple[NDArray[np.generic], ...]]) -> float:
    found = [float(similarity(*(_unit(a)[None, None] for a in slab), 1.0)) for slab in slabs]
    return float(np.average(found, weights=[len(full) for _, full in slabs]))


def _unit(hu: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(scaling("unit", hu).to_network(np.clip(hu, HU_LOW, HU_HIGH)))


def _slice(squared_hu: float, ssim_value: float, ms_ssim_value: float) -> dict[str, float]:
    mse = squared_hu / (HU_HIGH - HU_LOW) ** 2
    psnr = -10 * math.log10(mse) if mse else math.inf
    return {"mse": mse, "rmse_hu": math.sqrt(squared_hu), "psnr": psnr, "ssim": ssim_value, "ms_ssim": ms_ssim_value}
