"""``quarterdose plan``: a row a training, before any scan is looked for."""

from pathlib import Path

from tests.jobs.test_cli import CONFIG, quarterdose

SOURCE = "{kind: nifti, path: absent}"


def plan(folder: Path, *words: str) -> list[list[str]]:
    (folder / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    done = quarterdose(folder, "plan", "x.yaml", "--set", "study.ranks=[1]", *words)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_cpu(tmp_path: Path) -> None:
    header, flat, thin, thick, note = plan(tmp_path)
    assert header[:7] == ["cell", "ranks", "slices", "crop", "batch", "precision", "checkpointing"]
    assert flat[:8] == ["2d", "1", "1", "64", "1", "float32", "no", "566,451"]
    assert thin[:8] == ["3d-s16-r1", "1", "16", "64", "1", "float32", "no", "2,619,155"]
    assert 1.5 < float(thick[-1]) / float(thin[-1]) < 2  # twice the slices, the same weights
    assert " ".join(note).startswith("All tensors of a rank on CPUs")


def test_gpu_says_what_fits_and_what_to_try(tmp_path: Path) -> None:
    _, flat, deep, *notes = plan(
        tmp_path, "--gpu", "T4-16GB", "--set", "study.training.crop=null", "--set", "study.training.precision=float32",
        "--set", "study.slices=[64]",
    )  # fmt: skip
    assert flat[5] == "bfloat16"
    assert flat[-2] == "yes"
    assert int(flat[-1]) > 1000
    assert [deep[5], *deep[-2:]] == ["float32", "no", "0"]
    assert " ".join(notes[-1]) == (
        "3d-s64-r1 does not fit with any batch: try activation_checkpointing or a smaller crop."
    )


def test_unknown_gpu_is_told_the_known(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    done = quarterdose(tmp_path, "plan", "x.yaml", "--gpu", "A100")
    assert done.returncode == 2
    assert done.stderr.startswith("quarterdose: --gpu A100 is unknown; known: ")
    assert "A100-80GB" in done.stderr
