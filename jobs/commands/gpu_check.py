"""Command that shows how this machine computes convolutions: ``gpu-check``."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from jobs.commands.options import Overrides, file_of
from pipeline.settings.cells import CellSettings, cells_of
from pipeline.settings.run import RunSettings
from pipeline.settings.training import TrainingSettings

if TYPE_CHECKING:
    import torch

    from pipeline.convolutions.shape import ConvolutionShape, Pass
    from pipeline.convolutions.trial import Trial

Trials = dict[tuple["ConvolutionShape", "Pass"], list["Trial"]]
_COLUMNS = ("convolution", "batch", "type", "pass", "algorithm", "ms", "TFLOP/s", "error", "")
_LEAST_WIDTH = 160  # characters

Settings = Annotated[
    Path | None,
    typer.Argument(parser=file_of, metavar="CONFIG", help="Settings file; else a 3D training's defaults."),
]


def gpu_check(config: Settings = None, overrides: Overrides = None) -> None:
    """Time each algorithm for each convolution of the trainings on this GPU, or CPU, and hold it against float32.

    Exit code 1 if no algorithm computes a convolution right.
    """
    import torch

    from pipeline.convolutions.machine import describe_machine

    if overrides and not config:
        raise UserError("--set replaces settings of a file; name it, as in `quarterdose gpu-check configs/demo.yaml`")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    cells = cells_of(load_settings(config, RunSettings, overrides)) if config else [_default_cell(gpu=gpu)]
    typer.echo(", ".join(f"{name} {value}" for name, value in describe_machine(device).items()))
    trials = _try_all(_needs_of(cells, gpu=gpu), device)
    _print(trials)
    wrong = sum(not any(trial.is_right for trial in tried) for tried in trials.values())
    if wrong:
        typer.echo(f"{wrong} passes have no algorithm that is right: no training takes them")
        raise typer.Exit(1)


def _needs_of(cells: Iterable[CellSettings], *, gpu: bool) -> list[tuple["ConvolutionShape", "Pass"]]:
    """List each pass of each convolution of the cells once."""
    from pipeline.training.convolutions import convolutions_of

    needs = [convolutions_of(cell, gpu=gpu) for cell in cells]
    return list(dict.fromkeys((shape, name) for shapes in needs for shape, names in shapes.items() for name in names))


def _try_all(needs: Sequence[tuple["ConvolutionShape", "Pass"]], device: "torch.device") -> Trials:
    from jobs.engine.display import looking
    from pipeline.convolutions.trial import try_algorithms

    trials: Trials = {}
    with looking("measuring") as progress:
        for number, (shape, name) in enumerate(needs):
            progress(number, len(needs), f"{name} of {shape}")
            trials[shape, name] = try_algorithms(shape, name, device)
    return trials


def _print(trials: Trials) -> None:
    from rich.console import Console
    from rich.table import Table

    from pipeline.convolutions.trial import quickest

    table, console = Table(*_COLUMNS, box=None, header_style="bold"), Console()
    for (shape, name), tried in trials.items():
        for trial in tried:
            table.add_row(*_row(shape, name, trial, quickest(tried)))
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)


def _default_cell(*, gpu: bool) -> CellSettings:
    """Return a 3D training as the settings' defaults have it, on GPUs of the full plane."""
    return CellSettings(
        id="default", dims=3, ranks=1, slices=16, sampling="window", validated=16, validated_sampling="window",
        transfer="none", training=TrainingSettings(crop=None if gpu else 64),
    )  # fmt: skip


def _row(shape: "ConvolutionShape", name: "Pass", trial: "Trial", best: "Trial | None") -> list[str]:
    sizes = [str(shape), str(shape.batch), shape.precision, name, trial.algorithm]
    if trial.failure:
        return [*sizes, "", "", "", trial.failure]
    verdict = "chosen" if trial is best else "" if trial.is_right else "wrong" if trial.repeats else "wrong, differs"
    rate = shape.operations / trial.seconds / 1e12
    return [*sizes, f"{1e3 * trial.seconds:.3g}", f"{rate:.3g}", f"{trial.size_error:.0e}", verdict]
