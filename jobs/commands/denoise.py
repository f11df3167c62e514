"""Commands that use or import one trained network: ``denoise`` and ``import-model``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from data_prep.errors import MachineError, ScanError, UserError, describe_os_error
from data_prep.files import check_writable, digest_files, held
from data_prep.log import describe_count, printable
from data_prep.outputs import check_apart
from data_prep.ownership import create_private_folder
from data_prep.setting_types import MOST_THREADS
from jobs.commands.options import file_of, path_of
from slurm.profile import Profile, load_profile

if TYPE_CHECKING:
    from jobs.stages.denoise_outputs import OutputOptions
    from pipeline.inference.model_file import Model

Scans = Annotated[
    list[Path],
    typer.Argument(
        parser=path_of, metavar="SCANS", help="DICOM folders, NIfTI files or Zarr pairs.", show_default=False
    ),
]
ModelPath = Annotated[
    Path,
    typer.Option("--model", parser=file_of, metavar="<path>", help="Model file, such as runs/demo/model.safetensors."),
]
Out = Annotated[
    Path,
    typer.Option(
        parser=path_of, metavar="<path>", help="Folder for the denoised scans, one entry each.", show_default=False
    ),
]


def denoise(
    scans: Scans,
    model: ModelPath,
    out: Out,
    format: Annotated[Literal["dicom", "nifti", "zarr"], typer.Option(help="Of the output.")] = "dicom",  # noqa: A002
    deidentify: Annotated[bool, typer.Option("--deidentify", help="Leave the patient out of the DICOM files.")] = False,
    series: Annotated[str, typer.Option(help="Number or UID, where a folder holds several; or all.")] = "",
    dose: Annotated[
        float | None,
        typer.Option(
            help="Of the scans, as a fraction above 0, at most 1, for a network that is told it.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Denoise again what was done before.")] = False,
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="auto: a GPU where there is one.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Of the CPU.")] = 2,
    on: Annotated[str | None, typer.Option(help="Profile of a cluster: an array with a task a scan.")] = None,
) -> None:
    """Denoise scans with a trained network; HU in, HU out. For research, not for diagnosis."""
    from jobs.stages.denoise_outputs import OutputOptions, check_outputs, share_names
    from pipeline.inference.model_file import load_model
    from pipeline.settings.told_dose import check_dose

    options, network = (
        OutputOptions(out.absolute(), format, deidentify, series, overwrite, dose=dose),
        load_model(model),
    )
    check_dose(network.cell.training, dose)
    check_outputs(scans, [model], options)
    requests = {
        scan: replace(options, shares_name=shares_name) for scan, shares_name in share_names(scans, options).items()
    }
    if on:
        _enqueue(requests, model, out.absolute() / "slurm", load_profile(on), device, threads)
        return
    with held(out / ".lock", f"another `quarterdose denoise` is at work in {out}"):
        _denoise_here(requests, network, device, threads)


def _denoise_here(
    requests: Mapping[Path, "OutputOptions"], model: "Model", device: Literal["auto", "cpu"], threads: int
) -> None:
    """Denoise one scan after the other in this process.

    Raises:
        UserError: some scans were refused; the others are done.
    """
    import torch

    from jobs.engine.display import looking
    from jobs.stages.denoise import denoise_scan
    from pipeline.training.distributed import device_of
    from pipeline.training.world import World

    torch.set_num_threads(threads)
    faults = list[str]()
    for scan, options in requests.items():
        try:
            with looking(f"denoising {scan.name}") as progress:
                outcome = denoise_scan(scan, model, options, device_of(World(), device), progress)
        except (ScanError, MachineError) as error:
            faults.append(f"{scan}: {error}")
        except UserError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{scan}: {describe_os_error(error)}")
        else:
            typer.echo(printable(outcome))
    if faults and len(requests) == 1:
        raise UserError(faults[0])
    if faults:
        raise UserError(f"{len(faults)} of {len(requests)} scans were refused: {'; '.join(faults)}")


def _enqueue(
    requests: Mapping[Path, "OutputOptions"],
    model: Path,
    logs: Path,
    profile: Profile,
    device: Literal["auto", "cpu"],
    threads: int,
) -> None:
    """Put an array in Slurm's queue, with a task for each scan."""
    from jobs.stages.denoise import denoise_in_job
    from slurm.associations import check_association
    from slurm.partitions import check_partitions
    from slurm.submit import JobRequest, enqueue

    if profile.executor != "slurm":
        raise UserError("--on takes a profile whose executor is slurm; leave it out to denoise here")
    create_private_folder(logs, "choose another --out", trusts_group=True)
    check_writable(logs)
    calls = [(scan.absolute(), model.absolute(), options, device, threads) for scan, options in requests.items()]
    request = JobRequest("denoise", calls, uses_gpu=True)
    check_partitions(profile, [request])
    check_association(profile)
    jobs = enqueue(profile, logs, denoise_in_job, request)
    typer.echo(f"job {', '.join(jobs)}, {describe_count(len(calls), 'task')}; logs: {logs}")


def import_model(
    weights: Annotated[
        Path,
        typer.Argument(
            parser=file_of, metavar="WEIGHTS", help="2D weights in the names of others' code (.npz, .pt, .tar)."
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(parser=file_of, metavar="<path>", help="Model file to write (.safetensors).", show_default=False),
    ],
    scaling: Annotated[
        Literal["minmax", "unit"] | None,
        typer.Option(help="Their training's intensities: minmax for DDnet, unit for RED-CNN, if not given."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another model file of this program.")] = False,
) -> None:
    """Make a model file of published 2D weights: of DDnet's authors, or of RED-CNN's port to PyTorch."""
    from pipeline.inference.model_card import card_of, check_model_replaceable, write_model
    from pipeline.inference.model_file import load_model
    from pipeline.models import read_published
    from pipeline.settings.cells import CellSettings
    from pipeline.settings.training import TrainingSettings

    if not weights.is_file():
        raise UserError(f"{weights} does not exist or is no file")
    for path in (to, card_of(to)):
        check_apart(path, [weights])
    check_model_replaceable(to)
    code, network = read_published(weights)
    cell = CellSettings(
        id="published-2d", model=code.model, dims=2, ranks=1, slices=1, sampling="window", validated=1,
        validated_sampling="window", transfer="none",
        training=TrainingSettings(recipe="paper", norm="frozen", scaling=scaling or code.scaling),
    )  # fmt: skip
    provenance = {"weights": f"of others, from {printable(weights.name)}", "weights SHA-256": digest_files([weights])}
    if to.exists() and not overwrite:
        model = load_model(to)
        if model.cell != cell or {**model.provenance, **provenance} != model.provenance:
            raise UserError(f"{to} is a model file of something else: --overwrite replaces it")
    digest = write_model(to, network, cell, provenance)
    typer.echo(f"{to}: SHA-256 {digest}")
