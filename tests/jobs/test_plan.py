"""``quarterdose plan``: a row a training, before any scan is looked for."""

import re
from pathlib import Path

import pytest

from data_prep.errors import UserError
from jobs.commands.forecast import Forecast, forecast, items_ahead
from jobs.commands.forecast_search import forecast_search
from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.stages.graph import graph_of, search_of
from pipeline.settings.cells import cells_of
from slurm.profile import Profile
from tests.command_line import CONFIG, quarterdose_within
from tests.data_prep.dicom_series import write_series
from tests.markers import mark_done, mark_split
from tests.pipeline.runs import fill, settings_of
from tests.scans import chest, write_nifti

SOURCE = "{kind: nifti, path: absent}"


def plan(folder: Path, *words: str) -> list[list[str]]:
    (folder / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    completed = quarterdose_within(folder, "plan", "x.yaml", "--set", "study.ranks=[1]", *words)
    assert completed.returncode == 0, completed.stderr
    return [line.split() for line in completed.stdout.splitlines()]


@pytest.mark.slow
def test_cpu(tmp_path: Path) -> None:
    header, flat, thin, thick, note, store = plan(tmp_path)
    assert header[:7] == ["cell", "ranks", "slices", "crop", "batch", "precision", "checkpointing"]
    assert flat[:8] == ["2d", "1", "1", "64", "1", "float32", "no", "566,451"]
    assert thin[:8] == ["3d-s16-r1", "1", "16", "64", "1", "float32", "no", "2,619,155"]
    assert header[8:11] == ["GFLOP", "a", "step"]
    assert 1.9 < float(thick[8]) / float(thin[8]) < 2.1
    assert 1.5 < float(thick[-1]) / float(thin[-1]) < 2  # twice the slices, the same weights
    assert " ".join(note).startswith("All tensors of a rank on CPUs")
    assert " ".join(store).startswith("Pairs on disk: about 0.56 MB a slice (full dose and 1 low dose); the slices are")


@pytest.mark.slow
def test_gpu_says_what_fits_and_what_to_try(tmp_path: Path) -> None:
    deep_settings = "{model: ddnet, dims: 3, training: {crop: null, precision: float32}}"
    _, flat, deep, *notes = plan(
        tmp_path, "--gpu", "T4-16GB", "--set", "study.slices=[64]",
        "--set", f"networks={{2d: {{model: ddnet, dims: 2}}, 3d: {deep_settings}}}",
    )  # fmt: skip
    assert flat[5] == "bfloat16"
    assert flat[-2] == "yes"
    assert int(flat[-1]) > 1000
    assert [deep[5], *deep[-2:]] == ["float32", "no", "0"]
    assert " ".join(notes[-2]) == (
        "3d-s64-r1 does not fit with any batch: try activation_checkpointing or a smaller crop."
    )


@pytest.mark.parametrize("gpu", ["A100", ""])
def test_unknown_gpu_is_told_the_known(tmp_path: Path, gpu: str) -> None:
    (tmp_path / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    completed = quarterdose_within(tmp_path, "plan", "x.yaml", "--gpu", gpu)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert re.match(rf"quarterdose: --gpu {gpu} ?is unknown; known: ", completed.stderr)
    assert "A100-80GB" in completed.stderr


PROFILE = "executor: slurm\ngpus_a_task: 1\n{}"
STEPS = ("--set", "study.training.samples=120")


@pytest.mark.slow
def test_hours_are_those_of_the_arithmetic_at_the_profile_s_rate(tmp_path: Path) -> None:
    """16 x 128 x 128: 356 GFLOP a step were counted for the authors' network; judging is a third, without gradients."""
    (tmp_path / "p.yaml").write_text(PROFILE.format("teraflops: 0.001"))
    words = ("--on", "p.yaml", *STEPS, "--set", "study.training.crop=128", "--set", "study.slices=[16]",
             "--set", "budget.gpu_hour_price=2", "--set", "budget.currency=CHF",
             "--set", "study.training.patience=9")  # fmt: skip
    header, flat, deep, *notes = plan(tmp_path, *words)
    assert header[-2:] == ["hours", "GPU-hours"]
    steps, validations = 120 * 50, 51 * 8
    assert float(deep[-1]) == pytest.approx((steps + validations / 3) * 356e9 / 1e9 / 3600, rel=0.02)
    assert deep[-2] == deep[-1]
    remarks = " ".join(" ".join(note) for note in notes)
    bill = float(remarks.partition(" GPU-hours, ")[2].partition(" CHF, from")[0].replace(",", ""))
    assert bill == pytest.approx(2 * (float(flat[-1]) + float(deep[-1])), abs=0.03)
    assert "Trainings still to be run: at most " in remarks  # they may stop early
    assert "budget.gpu_hours: no limit." in remarks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "words", "message"),
    [
        (
            "teraflops: 1",
            ("--set", "budget.gpu_hours=0.001"),
            "budget.gpu_hours is 0.001, but trainings still",
        ),
        ("", ("--set", "budget.gpu_hours=9"), "set teraflops in the profile"),
        ("teraflops: 1", ("--set", "study.training.samples=null"), "not known before the scans are split"),
        ("teraflops: 1", ("--set", "study.training.validation=scans"), "and training.validation: crops"),
    ],
)
def test_a_budget_that_is_too_small_or_cannot_be_kept_is_refused(
    tmp_path: Path, profile: str, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE.format(profile))
    (tmp_path / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    common = ("x.yaml", "--on", "p.yaml", "--set", "study.ranks=[1]", *STEPS, *words)
    for command in ("plan", "run"):
        if command == "plan" or "budget" in words[1]:
            completed = quarterdose_within(tmp_path, command, *common)
            assert completed.returncode == 2
            assert message in completed.stderr
    assert not (tmp_path / "runs" / "x" / "queue.jsonl").exists()


@pytest.mark.slow
def test_the_store_grows_with_doses_and_realisations(tmp_path: Path) -> None:
    several = ("--set", "data.low_dose.doses=[0.05, 0.1]", "--set", "data.low_dose.realisations=2")
    store = " ".join(plan(tmp_path, *several)[-1])
    assert store.startswith("Pairs on disk: about 1.4 MB a slice (full dose and 4 low doses)")


@pytest.mark.slow
def test_the_slices_of_known_scans_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "absent" / "a", chest(20, 64), (2.5, 0.7, 0.7), patient="a")
    write_nifti(tmp_path / "b" / "b.nii", chest(20, 64))
    sources = "data.sources=[{kind: dicom, path: absent}, {kind: nifti, path: b}]"
    assert "the slices are counted once" in " ".join(plan(tmp_path, "--set", sources)[-1])
    completed = quarterdose_within(tmp_path, "run", "x.yaml", "--dry-run", "--set", sources)
    assert completed.returncode == 0, completed.stderr
    store = " ".join(plan(tmp_path, "--set", sources)[-1])
    assert store == (
        "Pairs on disk: about 0.011 GB for 1 scan of 20 slices (full dose and 1 low dose); the slices of 1 more are "
        "not known."
    )


@pytest.mark.slow
def test_a_search_is_forecast_as_if_each_trial_were_the_costliest(tmp_path: Path) -> None:
    """4 trials of 2 networks: all to half of their epochs, 2 to the end, so 3 whole trainings each."""
    (tmp_path / "p.yaml").write_text(PROFILE.format("teraflops: 0.001"))
    space = "{study.training.epochs: {choice: [10, 40]}, study.training.learning_rate: {log: [1.0e-5, 1.0e-2]}}"
    words = ("--on", "p.yaml", *STEPS, "--set", "study.slices=[16]", "--set", "study.training.epochs=40",
             "--set", f"search={{space: {space}, trials: 4, sampler: random, halving: {{rungs: [0.5]}}}}")  # fmt: skip
    _, flat, deep, *notes = plan(tmp_path, *words)
    (note,) = (" ".join(words) for words in notes if words[0] == "Search")
    match = re.search(r"4 trials of each of 2 networks: at most (\S+) hours of its processes, (\S+) GPU-hours", note)
    assert match
    expected = 3 * (float(flat[-1]) + float(deep[-1]))
    assert [float(x) for x in match.groups()] == pytest.approx([expected, expected], rel=0.01)
    assert note.endswith("search.budget_gpu_hours: no limit.")


@pytest.mark.slow
def test_rungs_of_a_search_are_forecast_in_whole_epochs(tmp_path: Path) -> None:
    """A quarter of 10 epochs is 3: 4 trials take them, 2 of which take the other 7."""
    (tmp_path / "p.yaml").write_text(PROFILE.format("teraflops: 0.001"))
    search = "search={space: {study.training.warmup: {uniform: [0, 0.5]}}, trials: 4, networks: [2d], %s}"
    words = ("--on", "p.yaml", *STEPS, "--set", "study.slices=[16]", "--set", "study.training.epochs=10",
             "--set", search % "sampler: random, halving: {rungs: [0.25]}")  # fmt: skip
    _, flat, _, *notes = plan(tmp_path, *words)
    note = " ".join(" ".join(words) for words in notes)
    hours = float(note.partition("at most ")[2].partition(" hours of its")[0])
    assert hours == pytest.approx((4 * 0.3 + 2 * 0.7) * float(flat[-1]), rel=0.01)


@pytest.mark.slow
def test_trials_of_weak_work_are_forecast_with_a_sample_a_volume_of_each_rank(tmp_path: Path) -> None:
    profile = Profile.model_validate({"executor": "slurm", "teraflops": 1, "gpus_a_task": 1})
    search = {"space": {"study.training.warmup": {"uniform": [0, 0.5]}}, "trials": 1, "networks": ["2d"]}

    def forecast_of(samples: int | None) -> Forecast:
        networks = {"2d": {"model": "ddnet", "dims": 2, "ranks": 4, "training": {"work": "weak", "samples": samples}}}
        folder = RunFolder.of(settings_of(runs=tmp_path, networks=networks, search=search))
        return forecast_search(folder, search_of(folder), profile)

    with pytest.raises(UserError, match="not known before the scans are split"):
        forecast_of(None)
    (tmp_path / "t").mkdir()
    fill(tmp_path / "t", [], [])
    mark_split(graph_of(RunFolder.of(settings_of(runs=tmp_path))).stages["split"])
    assert forecast_of(None).hours == forecast_of(1).hours > 0  # there is one volume


def test_trainings_and_trials_that_were_done_with_other_settings_are_still_to_be_run(tmp_path: Path) -> None:
    search = {"space": {"study.training.warmup": {"uniform": [0, 0.5]}}, "trials": 1, "networks": ["2d"]}

    def graphs_of(epochs: int) -> list[Graph]:
        training = {"epochs": epochs, "samples": 4}
        settings = settings_of(runs=tmp_path, study={"slices": 16, "ranks": 1, "training": training}, search=search)
        return [graph(RunFolder.of(settings)) for graph in (graph_of, search_of)]

    def ahead(epochs: int) -> list[str]:
        return sorted("/".join(ref) for graph in graphs_of(epochs) for ref in items_ahead(graph))

    run, searched = graphs_of(2)
    root = run.stages["train"].folder.root
    root.mkdir()
    fill(root, [cell for cell in cells_of(run.stages["train"].settings) if cell.id == "2d"], ["2d"])
    (root / "cells" / "2d" / "checkpoints").mkdir()
    (root / "cells" / "2d" / "checkpoints" / "step-00000004.pt").touch()
    mark_split(run.stages["split"])
    for graph, stage, item in ((run, "train", "2d"), (searched, "search-1-1", "2d-t0000")):
        mark_done(graph, stage, item)
    others = ["study/3d-s16-r1", "transfer/3d-zero"]
    assert ahead(2) == others
    assert ahead(20) == ["search-1-1/2d-t0000", *others[:1], "train/2d", *others[1:]]


@pytest.mark.slow
def test_a_search_over_the_budget_is_not_submitted(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE.format("teraflops: 1"))
    (tmp_path / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    search = "{space: {study.training.warmup: {uniform: [0, 0.5]}}, trials: 4}"
    words = ("--on", "p.yaml", *STEPS, "--set", f"search={search}", "--set", "study.transfer=none")
    completed = quarterdose_within(tmp_path, "search", "x.yaml", *words, "--set", "budget.gpu_hours=0.001")
    assert completed.returncode == 2
    assert "budget.gpu_hours is 0.001, but trainings still to be run take" in completed.stderr


@pytest.mark.slow
def test_ranks_share_the_hours_of_a_training_and_take_its_gpu_hours_together(tmp_path: Path) -> None:
    profile = Profile.model_validate({"executor": "slurm", "teraflops": 1, "gpus_a_task": 1})

    def forecast_of(ranks: int) -> Forecast:
        network = {"model": "ddnet", "dims": 2, "ranks": ranks, "training": {"samples": 120, "epochs": 2}}
        folder = RunFolder.of(settings_of(runs=tmp_path, networks={"2d": network}))
        (training,) = forecast(folder, graph_of(folder), profile)
        return training

    alone, shared = forecast_of(1), forecast_of(4)
    assert shared.hours == pytest.approx(alone.hours / 4)
    assert shared.gpu_hours == pytest.approx(alone.gpu_hours)
    assert alone.gpu_hours == alone.hours > 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_that_runs_again_under_other_settings_is_forecast_at_the_rate_that_it_had(
    tmp_path: Path, ranks: int
) -> None:
    profile = Profile.model_validate({"executor": "slurm", "gpus_a_task": 1})

    def hours(crop: int) -> dict[str, float]:
        training = {"samples": 100, "epochs": 2, "crop": crop}
        network = {"model": "ddnet", "dims": 2, "ranks": ranks, "training": training}
        folder = RunFolder.of(settings_of(runs=tmp_path, networks={"2d": network}))
        graph = graph_of(folder)
        stage = graph.stages["study"]
        if not folder.root.exists():
            folder.root.mkdir()
            fill(folder.root, [], [])
            mark_split(graph.stages["split"])
            for path in stage.outputs("2d"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            spent = {"steps": 200 // ranks, "seconds": {"training": 36.0, "validation": 0.0}}
            mark_done(graph, "study", "2d", spent, seconds=36.0)
        return {ahead.cell: ahead.hours for ahead in forecast(folder, graph, profile)}

    assert hours(crop=32) == {}
    assert hours(crop=64) == {"2d": pytest.approx(4 * 36 / 3600, rel=1e-3)}  # four times the pixels in a step
