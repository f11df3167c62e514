"""Which voxels of a scan go through a network: slices that make a volume, the centre of their plane, its symmetries.

``strided`` and ``grouped`` are the samplings of the 3D-DDnet paper: every k-th slice of the whole scan, or the slices
around its middle. ``window`` takes neighbouring slices from a random place, drawn anew at each visit.

Settings name the samplings, so that numpy is imported where it is needed: the command line answers sooner without.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from data_prep.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sampling = Literal["strided", "grouped", "window"]
Indices: TypeAlias = "NDArray[np.int64]"
Voxel = TypeVar("Voxel", bound="np.generic")


def choose(sampling: Sampling, available: int, slices: int, generator: "np.random.Generator") -> Indices:
    """Choose the slices of one training volume out of ``available``; only ``window`` draws from the generator.

    Raises:
        UserError: fewer than ``slices`` are available.
    """
    import numpy as np

    check_enough(available, slices)
    if sampling == "strided":
        return np.arange(slices) * (available // slices)
    start = (available - slices) // 2 if sampling == "grouped" else int(generator.integers(available - slices + 1))
    return start + np.arange(slices)


def cover(sampling: Sampling, available: int, slices: int) -> list[Indices]:
    """Choose volumes like those of training that together hold every slice at least once.

    Raises:
        UserError: fewer than ``slices`` are available.
    """
    import numpy as np

    check_enough(available, slices)
    if sampling == "strided":
        step, remainder = divmod(available, slices)
        offsets = [*range(step), *(range(remainder, remainder + step) if remainder else ())]
        return [offset + np.arange(slices) * step for offset in offsets]
    starts = [*range(0, available - slices + 1, slices)]
    if starts[-1] + slices < available:
        starts.append(available - slices)
    return [start + np.arange(slices) for start in starts]


def check_enough(available: int, slices: int) -> None:
    """Raise UserError if a volume needs more slices than are available."""
    if available < slices:
        raise UserError(f"{slices} slices a volume were asked for, but a scan or slab has only {available}")


def crop_centre(image: "NDArray[Voxel]", side: int | None) -> "NDArray[Voxel]":
    """View the centre of each plane, (..., rows, columns), ``side`` pixels a side; all of it with None.

    No plane is smaller than ``side``.
    """
    if side is None:
        return image
    assert side <= min(image.shape[-2:]), f"a plane of {image.shape[-2:]} has no centre of {side}"
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def mirror(image: "NDArray[Voxel]", symmetry: int) -> "NDArray[Voxel]":
    """View each plane, (..., rows, columns), in one of the square's eight symmetries, 0 being itself.

    The numbers below 4 mirror rows (bit 0) and columns (bit 1); from 4 on rows and columns are swapped too.
    """
    top, left = (-1 if symmetry & bit else 1 for bit in (1, 2))
    mirrored = image[..., ::top, ::left]
    return mirrored.swapaxes(-1, -2) if symmetry & 4 else mirrored
