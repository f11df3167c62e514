"""Random images below a folder: each scan equals SimpleITK's reading, and all others have a reason."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from data_prep.sources.series import Series
from tests.data_prep.dicom_series import slice_image
from tests.data_prep.scan_checks import (
    check_scan,
    find,
    itk_voxels,
    rotated,
    set_position,
)

SPACING = (2.5, 0.7, 0.7)


class Tree:
    """Random images below a folder, with what must come of them: files by the scan that they are."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, np.random.default_rng(seed)
        self.scans: list[list[Path]] = []
        self.copies: list[Path] = []

    def add_series(self, layout: str, jitter: float) -> None:
        """Add a series of one or two scans whose headers and positions are noisy below the tolerance."""
        uid, slices, number = generate_uid(), int(self.random.integers(6, 9)), len(self.scans)
        base, patient = self.random.uniform(-0.008, 0.008), self.random.choice(["", f"P{number}"])
        kernels = self.random.choice(["", "B30f"], slices)
        offsets = {"one": [0.0], "interleaved": [0.0, 1.25], "same": [0.0, 0.0], "overlapping": [0.0, 5.0]}[layout]
        for acquisition, offset in enumerate(offsets, start=1):
            files = []
            for z in range(slices):
                plane = self.random.integers(-1000, 1000, (8, 8)).astype(np.int16)
                image = slice_image(plane, SPACING, z, uid, patient)
                rotated(image, base + jitter * self.random.uniform(-4e-5, 4e-5))
                image.PixelSpacing = [f"{0.7 + jitter * self.random.uniform(-4e-4, 4e-4):.7f}"] * 2
                image.StudyInstanceUID, image.AcquisitionNumber = f"1.2.{number}", acquisition
                image.ConvolutionKernel = str(kernels[z])
                set_position(image, z * 2.5 + offset)
                files.append(self._save(image))
            self.scans.append(files)

    def add_copy(self) -> None:
        path = self.random.choice(np.array(self.scans[0], dtype=object))
        copy = path.with_name(f"{self._name()}.dcm")
        copy.write_bytes(path.read_bytes())
        self.copies.append(copy)

    def add_report(self) -> None:
        image = slice_image(np.zeros((8, 8), np.int16), SPACING, 0, generate_uid(), "Doe")
        image.Modality = "SR"
        self._save(image)

    def _save(self, image: FileDataset) -> Path:
        path = self.root / f"folder{self.random.integers(3)}" / f"{self._name()}.dcm"
        path.parent.mkdir(exist_ok=True)
        image.save_as(path, enforce_file_format=True)
        return path

    def _name(self) -> str:
        return f"{self.random.integers(10**12):012d}"


LAYOUTS = st.lists(st.sampled_from(["one", "interleaved", "same", "overlapping"]), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=12)
@given(layouts=LAYOUTS, jitter=st.sampled_from([0.0, 0.01, 1.0]), extras=st.integers(0, 2), seed=st.integers(0, 2**20))
def test_each_scan_equals_itks_and_every_other_image_has_a_reason(
    layouts: list[str], jitter: float, extras: int, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        tree = Tree(Path(folder), seed)
        for layout in layouts:
            tree.add_series(layout, jitter)
        for _ in range(extras):
            tree.add_copy()
            tree.add_report()
        discovery = find(tree.root)
        assert len(discovery.series) == len(tree.scans)
        for series in discovery.series:
            (files,) = [scan for scan in tree.scans if {*scan} & {*series.files} or _is_copy_of(series, scan, tree)]
            assert len(series.files) == len(files)
            assert {*series.files} <= {*files, *tree.copies}
            check_scan(series, series.files)
            np.testing.assert_array_equal(itk_voxels(series.files), itk_voxels(files))
        listed = [path for series in discovery.series for path in series.files]
        listed += [path for exclusion in discovery.exclusions for path in exclusion.files]
        assert sorted(listed) == sorted(tree.root.rglob("*.dcm"))
        assert all(exclusion.reason for exclusion in discovery.exclusions)


def _is_copy_of(series: Series, scan: Sequence[Path], tree: Tree) -> bool:
    return scan is tree.scans[0] and bool({*series.files} & {*tree.copies})
