"""A row of ``make bench`` is there as soon as it is measured."""

from pathlib import Path

import pandas as pd
import pytest

from tests.bench import __main__ as bench


def test_what_is_stopped_half_way_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> tuple[float, float]:
        assert "1/3 quick ... ours 2, baseline 3, ratio 1.5 (0 s)\n2/3 absent ..." in capsys.readouterr().out
        assert pd.read_csv(tmp_path / "bench.csv")["ours"].tolist() == ["2", "data missing"]
        raise KeyboardInterrupt

    def absent() -> tuple[float, float]:
        raise FileNotFoundError

    benches = {"quick": (lambda: (2, 3), "it", 1.0), "absent": (absent, "it", 1.0), "slow": (stop, "it", 1.0)}
    monkeypatch.setattr(bench, "BENCHES", benches)
    with pytest.raises(KeyboardInterrupt):
        bench.measure_all(list(benches), tmp_path / "bench.csv")
    rows = pd.read_csv(tmp_path / "bench.csv")
    assert rows["name"].tolist() == ["quick", "absent"]
    assert rows["ratio"].iloc[0] == 1.5
