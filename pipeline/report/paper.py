"""Table 2 of the 3D-DDnet paper (ICCABS 2023), as printed there."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """A training on A100-80GB, batch 1 a GPU; mean and SD of MSE and MS-SSIM, on volumes scaled by their own range."""

    architecture: str
    epochs: int
    slices: int
    ranks: int
    seconds: int
    mse_mean: float
    mse_sd: float
    ms_ssim_mean: float
    ms_ssim_sd: float


def _row(
    architecture: str, epochs: int, slices: int, ranks: int, time: str,
    mse: float, mse_sd: float, ms_ssim: float, ms_ssim_sd: float,
) -> PaperRow:  # fmt: skip
    hours, minutes, seconds = map(int, time.split(":"))
    total = 3600 * hours + 60 * minutes + seconds
    return PaperRow(architecture, epochs, slices, ranks, total, mse, mse_sd, ms_ssim, ms_ssim_sd)


TABLE_2 = (
    _row("2D-DDnet", 50, 1, 1, "8:44:32", 0.0039, 0.0015, 0.7888, 0.0857),
    _row("3D-DDnet SDL", 50, 32, 2, "21:47:50", 0.0022, 0.0014, 0.9165, 0.0455),
    _row("3D-DDnet GDL", 50, 32, 2, "21:42:09", 0.0012, 0.0009, 0.9233, 0.0779),
    _row("3D-DDnet TL", 15, 32, 2, "1:56:13", 0.0014, 0.0008, 0.9201, 0.0596),
    _row("3D-DDnet TL+GDL", 50, 16, 1, "10:31:03", 0.0010, 0.0006, 0.9339, 0.0572),
    _row("3D-DDnet TL+GDL", 50, 16, 2, "5:24:07", 0.0011, 0.0006, 0.9258, 0.0603),
    _row("3D-DDnet TL+GDL", 50, 16, 4, "3:08:17", 0.0010, 0.0006, 0.9303, 0.0667),
    _row("3D-DDnet TL+GDL", 50, 32, 2, "21:43:28", 0.0021, 0.0080, 0.9246, 0.0634),
    _row("3D-DDnet TL+GDL", 50, 32, 4, "11:19:36", 0.0011, 0.0009, 0.9257, 0.0713),
    _row("3D-DDnet TL+GDL", 25, 32, 2, "10:52:32", 0.0016, 0.0017, 0.9247, 0.0866),
    _row("3D-DDnet TL+GDL", 25, 32, 4, "5:40:45", 0.0015, 0.0013, 0.9076, 0.0807),
)
"""Its rows in order. ``slices`` 1: a 2D network."""
