"""Several doses and realisations of a scan: what is simulated, written, listed, checked and done again."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
import zarr
from PIL import Image

from data_prep.errors import UserError
from data_prep.lowdose.matching import match
from data_prep.lowdose.recorded import model_at
from data_prep.lowdose.scan_noise import Slab, block_noise, slab_ranges
from data_prep.originals import pair_original
from data_prep.paths import contact_path
from data_prep.prepare import prepare
from data_prep.settings import LowDoseSettings
from data_prep.sources.discovery import discover
from data_prep.store import Pair
from data_prep.verify import verify
from data_prep.volume import Acquisition
from tests.command_line import QUARTERDOSE
from tests.data_prep.dicom_series import write_series
from tests.data_prep.test_prepare import SMALL, SPACING, TINY, data_settings, noisy_abdomen
from tests.scans import chest
from tests.toy_runs import any_file, wait_for

DOSES = {"doses": [0.25, 0.05], "realisations": 2}
ARRAYS = [f"low_dose_{dose}_{number}" for dose in (0.05, 0.25) for number in (1, 2)]


@pytest.mark.slow
def test_each_partner_has_the_noise_of_its_dose_and_draws_its_own(tmp_path: Path) -> None:
    write_series(tmp_path / "a", noisy_abdomen(40), SPACING)
    settings = data_settings({"kind": "dicom", "path": tmp_path / "a"}, low_dose={**DOSES, "geometry": SMALL})
    (series,) = discover(settings.sources).series
    row = prepare(series, settings, tmp_path / "data")
    path = tmp_path / "data" / "dicom" / f"{series.scan}.zarr"
    pair = Pair(path)
    assert [partner.array for partner in pair.partners] == [line["array"] for line in row["partners"]] == ARRAYS
    assert {name.removeprefix("sha256_") for name in row if name.startswith("sha256")} == {
        "source", "full_dose", *ARRAYS
    }  # fmt: skip
    full = pair.read("full_dose")[:, 200:312, 200:312].astype(float)
    noise = [pair.read(array)[:, 200:312, 200:312] - full for array in ARRAYS]
    sd = [part.std() for part in noise]
    assert sd[0] / sd[2] == pytest.approx(np.sqrt(19 / 3), rel=0.02)  # (1 - dose) / dose
    assert sd[1] / sd[0] == pytest.approx(1, rel=0.01)
    assert np.abs(np.corrcoef([part.ravel() for part in noise]) - np.eye(4)).max() < 0.03
    for line in row["partners"]:
        assert line["noise_ratio"] == pytest.approx(1, abs=0.1)
        assert line["noise_expected_hu"] == pytest.approx(
            row["noise_full_hu"] * np.sqrt((1 - line["dose"]) / line["dose"]), rel=1e-3
        )
    assert {name: row[name] for name in row["partners"][0] if name in row} == {
        name: value for name, value in row["partners"][0].items() if name in row
    }
    with Image.open(contact_path(tmp_path / "data", "dicom", series.scan)) as sheet:
        assert sheet.height == 44 + 640 + 320 + (320 + 320)  # a second dose has two rows of slices and its own strip
    recorded = pair.provenance["partners"][2]["noise_model"]
    assert recorded["gain"] != pair.provenance["partners"][0]["noise_model"]["gain"]
    with pytest.raises(UserError, match=r"holds several low doses, wanted a pair of one: low_dose_0\.05_1"):
        pair_original(path)


def test_a_single_partner_is_recorded_as_before() -> None:
    single = LowDoseSettings(doses=(0.1,))
    assert [*single.as_record()][:2] == ["dose", "photons"]
    assert single.as_record()["dose"] == 0.1
    assert [partner.array for partner in single.partners] == ["low_dose"]
    assert [partner.draw for partner in single.partners] == [""]
    twice = LowDoseSettings(doses=(0.1,), realisations=2)
    assert [partner.array for partner in twice.partners] == ["low_dose_0.1_1", "low_dose_0.1_2"]


def start(folder: Path) -> "subprocess.Popen[str]":
    """Begin the preparation of two scans, of four partners each."""
    settings = {
        "name": "p", "study": {"slices": [16]},
        "data": {"sources": [{"kind": "dicom", "path": "scans", "keep_ids": True}],
                 "low_dose": {**DOSES, "geometry": TINY}, "split": {"gap": 0, "validation": 0.33, "test": 0.33}},
    }  # fmt: skip
    (folder / "p.yaml").write_text(yaml.safe_dump(settings))
    return subprocess.Popen([str(QUARTERDOSE), "prepare", "p.yaml"], cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


@pytest.mark.whole
def test_a_killed_preparation_ends_as_any_other_and_verify_finds_a_changed_partner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_series(tmp_path / "scans" / name, chest(60), SPACING, patient=name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, killed = tmp_path / "runs" / "p" / "data", start(tmp_path)
    wait_for(lambda: any_file(data, f"dicom/.*.tmp/{ARRAYS[-1]}/c/0/0/0") or killed.poll() is not None)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    rerun = start(tmp_path)
    assert rerun.wait() == 0, rerun.communicate()[0]
    manifest, noise = pd.read_csv(data / "manifest.csv"), pd.read_csv(data / "manifest_noise.csv")
    assert manifest["state"].tolist() == ["kept"] * 2
    assert noise.groupby("scan")["array"].agg(list).tolist() == [ARRAYS] * 2
    assert noise[["dose", "realisation"]].drop_duplicates().to_numpy().tolist() == [
        [0.05, 1], [0.05, 2], [0.25, 1], [0.25, 2]
    ]  # fmt: skip
    assert (
        noise.groupby("scan", sort=False)["rmse_low_hu"].first().to_numpy() == manifest["rmse_low_hu"].to_numpy()
    ).all()
    digests = manifest.set_index("scan")[[f"sha256_{array}" for array in ARRAYS]]
    shutil.rmtree(tmp_path / "runs")
    undisturbed = start(tmp_path)
    assert undisturbed.wait() == 0, undisturbed.communicate()[0]
    pd.testing.assert_frame_equal(digests, pd.read_csv(data / "manifest.csv").set_index("scan")[digests.columns])
    assert verify(data) == (2, [])
    scan = str(manifest["scan"][0])
    group = zarr.open_group(data / "dicom" / f"{scan}.zarr", mode="r+")
    group[ARRAYS[2]][7, 3, 3] += 1  # type: ignore[index,operator]
    (fault,) = verify(data)[1]
    assert (fault.scan, fault.is_damaged) == (scan, True)
    assert fault.message.endswith(
        f"{ARRAYS[2]} does not hold what was written: prepare the scan again (`quarterdose verify DATA --mend`)"
    )


def test_the_noise_model_at_a_dose_between_the_stored_ones_is_nearly_the_one_that_is_matched_there() -> None:
    """With so much electronic noise that a model of another dose is wrong by a tenth."""
    hu = noisy_abdomen(40)
    slabs = [Slab(start, hu[start:stop]) for start, stop in slab_ranges(len(hu))]
    settings = LowDoseSettings.model_validate({"doses": 0.1, "electronic_sd": 150, "geometry": SMALL})
    noise = block_noise(slabs)
    models = {dose: match(slabs, noise, settings.at(dose), SPACING[2], Acquisition()) for dose in (0.05, 0.1, 0.25)}
    gain, between = models[0.1].gain, model_at({dose: models[dose] for dose in (0.05, 0.25)}, 0.1).gain
    assert between == pytest.approx(gain, rel=0.01)
    assert model_at({0.05: models[0.05]}, 0.1) == models[0.05]  # the only one
    assert models[0.05].gain != pytest.approx(gain, rel=0.02)
    assert model_at(models, 0.1) == models[0.1]
