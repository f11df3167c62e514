"""``quarterdose gpu-check``: each algorithm for each convolution, timed and held against float32."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from pipeline.convolutions.algorithms import ALGORITHMS, WIDE, Algorithm
from pipeline.settings.cells import cells_of
from tests.command_line import CONFIG, quarterdose_within

SMALL = [
    word for setting in ("study.training.crop=16", "study.slices=[16]", "study.ranks=[1]")
    for word in ("--set", setting)
]  # fmt: skip


def check(folder: Path, dims: int) -> tuple[int, list[str]]:
    """Check the run's cells of so many dimensions."""
    (folder / "run.yaml").write_text(CONFIG.format(source="{kind: sample}"))
    with patch("jobs.commands.gpu_check.cells_of", lambda run: [cell for cell in cells_of(run) if cell.dims == dims]):
        completed = quarterdose_within(folder, "gpu-check", "run.yaml", *SMALL)
    assert not completed.stderr
    return completed.returncode, completed.stdout.splitlines()


@pytest.mark.slow
def test_every_pass_has_its_algorithms_and_a_chosen_one(tmp_path: Path) -> None:
    code, (machine, header, *rows) = check(tmp_path, 3)
    assert code == 0
    assert f"torch {torch.__version__}" in machine
    assert header.split() == ["convolution", "batch", "type", "pass", "algorithm", "ms", "TFLOP/s", "error"]
    stems = [row for row in rows if row.startswith(" 2 to 16 channels, kernel 7 x 7 x 7, at 16 x 16 x 16")]
    assert [row.split()[-4 - ("chosen" in row)] for row in stems] == [
        *(name for computed in ("output", "weight gradient") for name in ALGORITHMS[computed] if name != WIDE)
    ]  # fmt: skip
    assert sum("chosen" in row for row in stems) == 2
    assert not any("wrong" in row for row in rows)


@pytest.mark.slow
def test_a_pass_that_is_wrong_by_all_algorithms_is_shown_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = Algorithm(lambda shape, gradient, x, weight: torch.zeros_like(x))
    monkeypatch.setitem(ALGORITHMS, "input gradient", {"zeros": zeros})
    code, rows = check(tmp_path, 2)
    assert code == 1
    wrong = [row for row in rows if "input gradient" in row]
    assert all(row.rstrip().endswith("1e+00  wrong") for row in wrong)
    assert rows[-1] == f"{len(wrong)} passes have no algorithm that is right: no training takes them"


def test_settings_are_replaced_in_a_file_alone(tmp_path: Path) -> None:
    completed = quarterdose_within(tmp_path, "gpu-check", "--set", "study.training.crop=16")
    assert completed.returncode == 2
    assert completed.stderr.startswith("quarterdose: --set replaces settings of a file; name it")
