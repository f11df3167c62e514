"""Names of files with characters that no terminal should get: each has its row, and is shown as escapes."""

import csv
import os
from pathlib import Path

import pytest

from data_prep.log import logger
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from jobs.engine.run_folder import RunFolder
from jobs.engine.worker import work_alone
from jobs.stages.graph import open_graph
from pipeline.settings.run import RunSettings
from tests.command_line import quarterdose_within
from tests.data_prep.dicom_series import write_series
from tests.scans import chest, write_nifti
from tests.toy_models import SPACING

ODD = ["a\nb", "a\tb", "\x1b[31mred", os.fsdecode(b"bad\xff"), "c\r", "d\n", "\u202ee"]


@pytest.mark.slow
def test_every_scan_and_file_has_a_row(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for name in ODD:
        write_nifti(scans / f"{name}.nii", chest(4, 32))
        (scans / f"{name}.mha").write_bytes(b"")
    (scans / "bro\x1bken\n.nii").write_bytes(b"no scan")
    low_dose = {"geometry": {"views": 32, "channels": 64}}
    data = {"sources": [{"kind": "nifti", "path": scans}], "low_dose": low_dose, "max_failed": 0.5}
    folder = RunFolder.of(RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": data}))
    discover(folder.settings.data.sources)
    folder.record()
    for stage in ("prepare", "split"):
        work_alone(open_graph, folder.root, stage, open_graph(folder.root).stages[stage].items())
    with (folder.data / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    assert [row["reason"][:12] for row in rows if row["kernel"] == ""][-1] == "an image of "
    assert len(rows) == len(ODD) + 2
    table = quarterdose_within(tmp_path, "status", "t").stdout
    assert table.count("prepare") == len(ODD) + 1
    assert table.replace("\n", "").isprintable()
    prepare = open_graph(folder.root).stages["prepare"]
    locations = sorted(prepare.location(item) for item in prepare.items())
    assert all(map(str.isprintable, locations))
    assert str(scans / r"bro\x1bken\n.nii") in locations


def test_a_file_that_is_named_as_dicom_has_a_row(tmp_path: Path) -> None:
    write_series(tmp_path, chest(4), SPACING)
    for name in ODD:
        (tmp_path / f"{name}.dcm").write_bytes(b"no image")
    exclusions = discover([SourceSettings(kind="dicom", path=tmp_path)]).exclusions
    assert sum(exclusion.images for exclusion in exclusions) == len(ODD)


def test_messages_show_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("scans/\x1b[31mred\r.nii: done\nsecond line")
    assert capsys.readouterr().out == "scans/\\x1b[31mred\\r.nii: done\nsecond line\n"
    refused = quarterdose_within(tmp_path, "run", "\x1b[31mred\n.yaml")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "\x1b" not in refused.stderr
