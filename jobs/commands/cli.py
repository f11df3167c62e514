"""The command line ``quarterdose``: its commands, in the order of its help, and what errors end it with."""

import io
import logging
import os
import platform
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from data_prep.errors import UserError, describe_lack_of_memory, describe_os_error
from data_prep.log import logger, printable
from jobs.commands import devcluster, scans
from jobs.commands.denoise import denoise, import_model
from jobs.commands.gpu_check import gpu_check
from jobs.commands.plan import plan, show_config
from jobs.commands.run import evaluate, prepare, report, run
from jobs.commands.scans import calibrate, verify, whose
from jobs.commands.search import search
from jobs.commands.status import cancel, logs, status
from jobs.commands.work import work
from jobs.engine.outcome import RunFailed
from slurm.commands import SlurmError

_USER_ERROR, _RUN_ERROR = 2, 1  # exit codes

app = typer.Typer(
    help="Low-dose CT denoisers, trained at cluster scale.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip
app.command()(denoise)
app.command()(import_model)
app.command()(run)
app.command("study", help="The same as run: the study is what the rest is for.")(run)
app.command()(search)
app.command()(prepare)
app.command()(evaluate)
app.command()(report)
app.command()(status)
app.command(hidden=True)(work)
app.command()(logs)
app.command()(cancel)
app.command()(verify)
app.command()(calibrate)
app.command()(whose)
app.command()(plan)
app.command("config")(show_config)
app.command("gpu-check")(gpu_check)
app.add_typer(scans.fetch, name="fetch")
app.add_typer(devcluster.app, name="devcluster")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        packages = ", ".join(f"{name} {version(name)}" for name in ("quarterdose", "torch"))
        typer.echo(f"{packages}, Python {platform.python_version()}")
        raise typer.Exit


_SHOWS_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")


@app.callback()
def set_level(
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more, such as why an item is left as it is.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but results, warnings and errors.")] = False,
    _shows_version: Annotated[bool, _SHOWS_VERSION] = False,
) -> None:
    """Set the level of the program's logger for the command line."""
    _print_all_characters()
    if verbose and quiet:
        raise UserError("--verbose and --quiet exclude each other")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run the command line; errors that have one sentence end it with that sentence and an exit code."""
    _print_all_characters()
    os.environ.setdefault(
        "PYTHONSAFEPATH", "1"
    )  # processes take no modules from a working folder that others may write
    try:
        _check_working_folder()
        app()
    except UserError as error:
        sys.exit(_print_error(str(error), _USER_ERROR))
    except OSError as error:
        sys.exit(_print_error(describe_os_error(error), _USER_ERROR))
    except (RunFailed, SlurmError) as error:
        sys.exit(_print_error(str(error), _RUN_ERROR))
    except (MemoryError, RuntimeError) as error:
        if not (lack := describe_lack_of_memory(error)):
            raise
        sys.exit(_print_error(lack, _USER_ERROR))


def _check_working_folder() -> None:
    """Check that the working folder exists: libraries end the process without it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the working folder was removed: change to another one") from error


def _print_all_characters() -> None:
    """Let output show characters that the terminal does not have, and bytes of paths that are none, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_error(sentence: str, exit_code: int) -> int:
    typer.echo(f"quarterdose: {printable(' '.join(sentence.split()))}", err=True)
    return exit_code
