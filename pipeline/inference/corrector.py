"""A trained network on a device: what it changes of a volume, and what that makes of a slice."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.errors import ScanError
from data_prep.volume import AIR_HU, Numbers
from pipeline.convolutions.choice import OutputAlgorithms
from pipeline.convolutions.layers import use_algorithms
from pipeline.convolutions.memory_format import lay_out
from pipeline.intensity import HU_HIGH, HU_LOW, scaling
from pipeline.sampling import crop_centre
from pipeline.settings.cells import CellSettings
from pipeline.settings.told_dose import told_dose
from pipeline.settings.training import SIDE_MULTIPLE

MIN_SIDE = 32
INT16 = np.iinfo(np.int16)


class Corrector:
    """A trained network on a device, which predicts how volumes of any size in the plane change.

    On GPUs it computes in float16, except a network whose output is the image itself: with 11 significant bits that
    would come in steps of 2 HU. Volumes whose features exceed the range of float16 are computed in float32.

    Args:
        network: in eval mode; it moves to ``device``, and drops the algorithms of its training, which are for other
            shapes and another precision.
        cell: what the network was trained as.
        device: where it computes.
        crop: side of the centre that goes through the network, a multiple of 16; None: the whole plane.
        dose: of the volumes, for networks that are told it; it may be set anew.
    """

    def __init__(
        self, network: nn.Module, cell: CellSettings, device: torch.device, crop: int | None = None,
        dose: float | None = None,
    ) -> None:  # fmt: skip
        self.cell, self.device, self.crop, self.dose = cell, device, crop, dose
        self.uses_float16 = device.type == "cuda" and cell.training.residual
        self.network = lay_out(network.to(device), cell.dims)
        use_algorithms(self.network, OutputAlgorithms(device) if device.type == "cuda" else None)

    def __call__(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the change, HU, of the centre of (slices, rows, columns) from -1024 to 3072 HU.

        Raises:
            ScanError: it is not finite, which integers of HU would not show.
        """
        change = self.predict(hu)
        if not np.isfinite(change).all():
            raise ScanError(f"the output of network {self.cell.id} is not finite: take another model")
        return change

    @torch.inference_mode()
    def predict(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the change, whether it is finite or not.

        Intensities are scaled as those of the whole plane. A plane that does not fit the network is padded with air,
        never resampled.
        """
        training = self.cell.training
        scale = scaling(training.scaling, hu, told_dose(training, self.dose))
        centre = crop_centre(hu, self.crop)
        rows, columns = centre.shape[1:]
        padding = ((0, 0), (0, _missing(rows)), (0, _missing(columns)))
        padded = np.pad(centre, padding, constant_values=AIR_HU)
        x = torch.from_numpy(scale.to_network(padded)).to(self.device)
        change = self._change_of(x, float16=self.uses_float16)
        if self.uses_float16 and not change.isfinite().all():
            change = self._change_of(x, float16=False)
        hu_change: NDArray[np.float32] = (change[:, :rows, :columns] * scale.width).cpu().numpy()
        return hu_change

    def _change_of(self, x: Tensor, *, float16: bool) -> Tensor:
        """Predict the change of (slices, rows, columns) in network units."""
        with torch.autocast(self.device.type, torch.float16, enabled=float16):
            y = self.network(x[:, None])[:, 0] if self.cell.dims == 2 else self.network(x[None, None])[0, 0]
        change: Tensor = y.float() - x
        return change


def _missing(side: int) -> int:
    """Pixels from ``side`` to the next side that every network takes."""
    return max(MIN_SIDE, -(-side // SIDE_MULTIPLE) * SIDE_MULTIPLE) - side


def add_change(source: Numbers, padding: NDArray[np.bool_], change: NDArray[np.float32]) -> NDArray[np.int16]:
    """Add the change to a slice's HU and round to int16; the sum is clipped to -1024 to 3072 HU.

    Voxels of the source outside of these limits, and padding, stay as they are; padding above int16 becomes air.
    """
    source = np.where(padding & (source > INT16.max), AIR_HU, source)
    inside = (source >= HU_LOW) & (source <= HU_HIGH) & ~padding
    hu = np.where(inside, np.clip(source + change, HU_LOW, HU_HIGH), source)
    return np.clip(np.rint(hu), INT16.min, INT16.max).astype(np.int16)
