from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.manifest import read_manifest


@pytest.mark.parametrize("name", ["NA", "None", "NULL", "nan", "007", "1e5", ""])
def test_texts_stay_as_they_are_and_numbers_may_be_missing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    ids = dict.fromkeys(("dataset", "subject", "patient", "scan", "kernel", "sha256_full_dose", "reason"), name)
    pd.DataFrame([{**ids, "slices": 9, "dose": 0.1}, {**ids, "slices": 10, "dose": None}]).to_csv(path, index=False)
    table = read_manifest(path)
    assert table[[*ids]].to_dict("records") == [ids, ids]
    assert table["slices"].tolist() == [9, 10]
    np.testing.assert_array_equal(table["dose"], [0.1, np.nan])


def test_what_a_cut_line_lacks_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("scan,slices,reason\na,9,tilted\nb\n")
    assert read_manifest(path)["reason"].tolist() == ["tilted", ""]
    path.write_text("scan,slices\na,9\nb,x\n")
    with pytest.raises(ValueError, match="x"):
        read_manifest(path)
