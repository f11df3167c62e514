"""What was found in sources is remembered in the user's own cache, and nowhere else."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.cache import write_cache
from data_prep.errors import MachineError, ScanError, UserError
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.discovery_cache import recall, remember
from data_prep.sources.series import Discovery, Exclusion, Series
from tests.data_prep.dicom_series import change, write_series
from tests.scans import chest, write_nifti

SPACING = (2.5, 0.7, 0.7)


def make_dicom(root: Path) -> None:
    write_series(root / os.fsdecode(b"Doe_J\xfcrgen"), chest(4), SPACING)  # as an old archive may spell it
    write_series(root / "broken", chest(4), SPACING)[0].write_bytes(bytes(128) + b"DICM" + b"broken" * 9)
    write_series(root / "single", chest(1), SPACING)


def make_nifti(root: Path) -> None:
    write_nifti(root / "Doe_Jane.nii", chest(4))


def make_lidc(root: Path) -> None:
    for slices in (4, 6):
        write_series(root / str(slices), chest(slices), SPACING, patient="LIDC-IDRI-0001")


def make_mayo(root: Path) -> None:
    for name in ("Full Dose Images", "Low Dose Images"):
        for path in write_series(root / name, chest(4), SPACING, patient="C121"):
            change(path, SeriesDescription=name)


def make_bimcv(root: Path) -> None:
    for run in (1, 2):
        write_nifti(root / f"sub-S1_run-{run}_ct.nii.gz", chest(10))
    (root / "sub-S1_run-2_ct.json").write_text("{}")
    (root / "sub-S1_run-3_dx.png").write_bytes(b"png")


MADE: list[tuple[str, Callable[[Path], None], int, int]] = [  # kind, how it is made, its series, what it sets aside
    ("dicom", make_dicom, 2, 2),
    ("nifti", make_nifti, 1, 0),
    ("lidc", make_lidc, 1, 1),
    ("mayo", make_mayo, 1, 0),
    ("bimcv", make_bimcv, 2, 1),
]


def source(kind: str, path: Path | None = None, **settings: Any) -> SourceSettings:
    return SourceSettings.model_validate({"kind": kind, "path": path, **settings})


def plain(discovery: Discovery | None) -> tuple[list[Series], list[str], list[Exclusion]]:
    """With faults in words, as an exception is equal to itself alone."""
    assert discovery is not None
    return (
        [replace(series, fault=None) for series in discovery.series],
        [repr(s.fault) for s in discovery.series],
        discovery.exclusions,
    )


def memories() -> list[Path]:
    return list((Path(os.environ["XDG_CACHE_HOME"]) / "quarterdose" / "found").iterdir())


@pytest.mark.parametrize(("kind", "write_scans", "series", "aside"), MADE)
def test_what_a_source_held_is_told_without_it(
    kind: str, write_scans: Callable[[Path], None], series: int, aside: int, tmp_path: Path
) -> None:
    write_scans(tmp_path / "scans")
    sources = [source(kind, tmp_path / "scans")]
    assert recall(sources) is None
    discovery = discover(sources)
    assert (len(discovery.series), len(discovery.exclusions)) == (series, aside)
    shutil.rmtree(tmp_path / "scans")
    assert plain(recall(sources)) == plain(discovery)
    assert recall([source(kind, tmp_path / "scans", dataset="other")]) is None


def test_the_sample_and_several_sources_are_told_in_their_order(sample_path: Path, tmp_path: Path) -> None:
    make_nifti(tmp_path / "nifti")
    make_dicom(tmp_path / "dicom")
    sources = [source("nifti", tmp_path / "nifti"), source("sample"), source("dicom", tmp_path / "dicom")]
    discovery = discover(sources)
    assert [series.dataset for series in discovery.series] == ["nifti", "sample", "dicom", "dicom"]
    assert plain(recall(sources)) == plain(discovery)
    assert recall(sources[::-1]) is None


def test_faults_keep_kind_and_text(tmp_path: Path) -> None:
    """They decide whether a scan is tried again."""
    sources = [source("dicom", tmp_path)]
    faults = [ScanError("a file of its folder is broken"), MachineError("cannot be opened"), None]
    scan = Series("d", "s", "x", (str(tmp_path),), "dicom", "")
    remember(sources, Discovery([replace(scan, fault=fault) for fault in faults]))
    recalled = recall(sources)
    assert recalled is not None
    assert [repr(series.fault) for series in recalled.series] == [
        "ScanError('a file of its folder is broken')",
        "MachineError('cannot be opened')",
        "None",
    ]


def test_only_the_user_may_read_it_and_another_key_has_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_nifti(tmp_path / "scans")
    sources = [source("nifti", tmp_path / "scans")]
    discover(sources)
    (memory,) = memories()
    assert memory.stat().st_mode & 0o777 == 0o600
    assert memory.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert recall(sources) is None


def change_series(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda memory: memory["content"]["series"][0].update(values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda memory: memory.update(version=0),
        lambda memory: memory.update(content=None),
        lambda memory: memory["content"].pop("aside"),
        lambda memory: memory["content"]["series"][0].pop("stamp"),
        change_series(opener="system"),
        change_series(fault=["SystemExit", ""]),
        change_series(paths=[3]),
        change_series(scan="../x"),
        change_series(more=1),
    ],
)
def test_a_file_of_another_form_counts_as_none(damage: Callable[[Any], object], tmp_path: Path) -> None:
    make_nifti(tmp_path / "scans")
    sources = [source("nifti", tmp_path / "scans")]
    discovery = discover(sources)
    (path,) = memories()
    memory = json.loads(path.read_text().splitlines()[1])
    damage(memory)
    write_cache(path, memory["version"], memory["content"])  # with a checksum that fits
    assert recall(sources) is None
    assert discover(sources) == discovery == recall(sources)


@pytest.mark.parametrize("folder", ["found", "headers"])
def test_a_changed_digit_is_noticed(folder: str, tmp_path: Path) -> None:
    files = write_series(tmp_path / "scans", chest(4), SPACING)
    sources = [source("dicom", tmp_path / "scans")]
    discovery = discover(sources)
    (path,) = (Path(os.environ["XDG_CACHE_HOME"]) / "quarterdose" / folder).iterdir()
    content, number = path.read_text(), str(files[0].stat().st_mtime_ns) if folder == "headers" else "-001.dcm"
    changed = content.replace(number, number[::-1], 1)
    assert changed != content
    path.write_text(changed)
    if folder == "found":
        assert recall(sources) is None
    assert discover(sources) == discovery == recall(sources)
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["", "[[1,", "[]", "3", "{}"])
def test_a_broken_file_counts_as_none(content: str, tmp_path: Path) -> None:
    make_nifti(tmp_path / "scans")
    sources = [source("nifti", tmp_path / "scans")]
    discover(sources)
    memories()[0].write_text(content)
    assert recall(sources) is None


def test_what_failed_is_not_remembered(tmp_path: Path) -> None:
    make_nifti(tmp_path / "scans")
    sources = [source("nifti", tmp_path / "scans"), source("nifti", tmp_path / "scans", dataset="twice")]
    with pytest.raises(UserError, match="two series have the id"):
        discover(sources)
    assert recall(sources) is None
