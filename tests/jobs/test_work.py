"""The command ``work`` of plain sbatch scripts: it goes by recorded settings, and names what does not fit."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from data_prep.errors import UserError
from jobs.commands.cli import app
from tests.scans import chest, write_nifti


def work(config: Path, *words: str) -> str:
    """Run the command in this process; errors come out of it."""
    return CliRunner().invoke(app, ["work", str(config), *words], catch_exceptions=False).output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose scans were looked for."""
    write_nifti(tmp_path / "scans" / "a.nii.gz", chest(4, 32))
    path = tmp_path / "toy.yaml"
    write(path, samples=8)
    work(path, "find")
    return path


def write(config: Path, samples: int) -> None:
    data = {"sources": [{"kind": "nifti", "path": str(config.parent / "scans")}]}
    training = {"training": {"samples": samples}, "slices": [16]}
    config.write_text(yaml.safe_dump({"name": "t", "runs": str(config.parent), "data": data, "study": training}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluat",), r"there is no stage evaluat; the stages are: find, prepare, split, train, transfer, study"),
        (("study", "nosuch"), r"stage study has no training nosuch; its trainings are: 3d-s16-r1, 3d-s16-r2"),
        (("split", "split"), r"stage split has no training split; its trainings are: none"),
        (("study", "3d-s16-r1"), r"SLURM_PROCID is not set: a training's ranks are started by srun"),
    ],
)
def test_what_does_not_fit_is_named(words: tuple[str, ...], message: str, config: Path) -> None:
    with pytest.raises(UserError, match=message):
        work(config, *words)


def test_settings_that_were_changed_since_find_are_refused(config: Path) -> None:
    write(config, samples=12)
    with pytest.raises(UserError, match=rf"other settings than {config} has now: submit its stage `find` first"):
        work(config, "study", "3d-s16-r1")
    work(config, "find")
    with pytest.raises(UserError, match="SLURM_PROCID"):
        work(config, "study", "3d-s16-r1")
