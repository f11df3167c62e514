"""Ours against ITK-RTK (Rit et al. 2014, doi:10.1088/1742-6596/489/1/012079).

Skipped where it is missing, for with ITK it takes 1.8 GB: ``pip install itk-rtk``.
"""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_prep.lowdose.apodisation import window
from data_prep.lowdose.geometry import FanGeometry
from data_prep.lowdose.projector import Backprojector, CoarseProjector
from data_prep.settings import GeometrySettings

itk = pytest.importorskip("itk", reason="itk-rtk is missing, whose projections ours are compared with")
GEOMETRY = FanGeometry(GeometrySettings(views=288), 128, 2.8)
RAMP, CPU = window("ramp", GEOMETRY.nyquist), torch.device("cpu")
Array = NDArray[np.float32]


def rtk_geometry() -> Any:
    """The same circle of sources and the same arc of channels: RTK's z is our -y."""
    scanner = GEOMETRY.scanner
    geometry = itk.RTK.ThreeDCircularProjectionGeometry.New()
    geometry.SetRadiusCylindricalDetector(scanner.source_detector_mm)
    for view in range(scanner.views):
        geometry.AddProjection(scanner.source_isocentre_mm, scanner.source_detector_mm, 360 * view / scanner.views)
    return geometry


def itk_image(values: Array, origin: list[float], spacing: list[float]) -> Any:
    image = itk.image_from_array(np.ascontiguousarray(values))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    return image


def projections(turn: Array) -> Any:
    """Three equal detector rows of a sinogram (views, channels)."""
    scanner = GEOMETRY.scanner
    first = (scanner.channel_offset - (scanner.channels - 1) / 2) * scanner.channel_arc_mm
    return itk_image(np.repeat(turn[:, None], 3, 1), [first, -1, 0], [scanner.channel_arc_mm, 1, 1])


def slab(plane: Array) -> Any:
    """Three equal slices of an image (side, side)."""
    first = -(GEOMETRY.side - 1) / 2 * GEOMETRY.pixel
    return itk_image(np.repeat(plane[::-1, None], 3, 1), [first, -1, first], [GEOMETRY.pixel, 1, GEOMETRY.pixel])


def integrals(plane: Array) -> Array:
    """RTK's line integrals of an image (side, side), (views, channels)."""
    projector = itk.RTK.JosephForwardProjectionImageFilter[(type(slab(plane)),) * 2].New()
    projector.SetInput(0, projections(np.zeros((GEOMETRY.scanner.views, GEOMETRY.scanner.channels), np.float32)))
    projector.SetInput(1, slab(plane))
    projector.SetGeometry(rtk_geometry())
    projector.Update()
    sinogram: Array = itk.array_from_image(projector.GetOutput())[:, 1].copy()
    return sinogram


@pytest.fixture(scope="module")
def patches() -> Array:
    """Patches of 8 x 8 pixels of tissue (1/mm), different everywhere, in a disc."""
    plane = np.random.default_rng(0).uniform(0.01, 0.03, (16, 16)).repeat(8, 0).repeat(8, 1)
    axis = np.arange(128) - 63.5
    return np.where(np.hypot(axis[:, None], axis) < 56, plane, 0).astype(np.float32)


def test_line_integrals_are_those_of_rtk(patches: Array) -> None:
    coarse = CoarseProjector(GEOMETRY, CPU)(torch.from_numpy(patches)[None])
    ours = Backprojector(GEOMETRY, RAMP, CPU).deviation(coarse.square())[0].numpy()
    theirs = integrals(patches)
    assert float(ours.mean() / theirs.mean()) == pytest.approx(1, rel=0.001)
    assert float((ours - theirs).std() / theirs.std()) < 0.04  # ours are interpolated between the patches' edges


def test_backprojection_of_rtks_line_integrals_gives_the_image(patches: Array) -> None:
    """RTK's own fan-beam reconstruction takes flat detectors only."""
    theirs = torch.from_numpy(integrals(patches))[None]
    image = Backprojector(GEOMETRY, RAMP, CPU)(theirs)[0].numpy()
    reconstructed, expected = (x.reshape(16, 8, 16, 8).mean((1, 3))[3:13, 3:13] for x in (image, patches))
    assert float(reconstructed.mean() / expected.mean()) == pytest.approx(1, rel=0.001)
    assert float(np.sqrt(np.square(reconstructed - expected).mean()) / expected.mean()) < 0.005
