"""LIDC-IDRI and the Mayo scans from the NCI Imaging Data Commons (IDC), by the index that ``idc-index`` carries."""

import logging
import os
import re
import shutil
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import build_opener

import pandas as pd

from data_prep.errors import UserError
from data_prep.files import claimed

CollectionName = Literal["lidc", "mayo"]

_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_UNFINISHED = ".quarterdose-fetch"  # folder below the root; series leave it when they are complete
_LOCK = ".quarterdose-fetch.lock"
_ARCHIVE = "https://s3.amazonaws.com/idc-open-data?list-type=2&max-keys=1"
_ANSWER_SECONDS = 20
_HALF_WRITTEN = "*.dcm[0-9]*"  # so s5cmd names files until they are whole
_FOLDERS = "%PatientID/%StudyInstanceUID/%SeriesInstanceUID"
_COLUMNS = {
    "PatientID": "patient",
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "uid",
    "SeriesDescription": "description",
    "instanceCount": "images",
    "series_size_MB": "megabytes",
    "license_short_name": "licence",
    "source_DOI": "doi",
}


@dataclass(frozen=True)
class IdcSeries:
    """A series in IDC's index; a megabyte is 10⁶ bytes."""

    patient: str
    study: str
    uid: str
    description: str
    images: int
    megabytes: float
    licence: str
    doi: str

    def __post_init__(self) -> None:
        for name in (self.patient, self.study, self.uid):
            if not _SAFE.fullmatch(name):
                raise UserError(f"IDC's index has the id {name!r}: letters, digits, '.', '_' and '-' are allowed")

    def folder(self, root: Path) -> Path:
        """Return the folder of its images below ``root``."""
        return root / self.patient / self.study / self.uid

    def is_complete(self, root: Path) -> bool:
        """Whether the folder below ``root`` has as many images, and as many bytes, as the index says."""
        sizes = [path.stat().st_size for path in self.folder(root).glob("*.dcm")]
        return len(sizes) == self.images and sum(sizes) == round(self.megabytes * 1e6)


@dataclass(frozen=True)
class _Collection:
    """A collection of IDC, of which CT series are fetched.

    ``descriptions``: those of the series to fetch, from patients who have each of them; empty: all series.
    """

    id: str
    citation: str
    descriptions: frozenset[str] = frozenset()


_COLLECTIONS: dict[CollectionName, _Collection] = {
    "lidc": _Collection("lidc_idri", "Armato et al. 2015, Data From LIDC-IDRI"),
    # The projections, 825 GB, are other series of the same patients.
    "mayo": _Collection(
        "ldct_and_projection_data",
        "McCollough et al. 2020, Low Dose CT Image and Projection Data",
        frozenset({"Full Dose Images", "Low Dose Images"}),
    ),
}


class Client(Protocol):
    """The part of ``idc_index.IDCClient`` that is used."""

    def download_from_selection(
        self,
        *,
        downloadDir: str,
        seriesInstanceUID: list[str],
        dirTemplate: str,
        use_s5cmd_sync: bool,
        show_progress_bar: bool,
    ) -> None:
        """Download the series into folders named by the template."""


def select(name: CollectionName, patients: int | None) -> list[IdcSeries]:
    """Return the series of the first ``patients`` by PatientID, or of all if None, by patient, study and series.

    Raises:
        UserError: there are not that many patients, or ``idc-index`` is not installed.
    """
    index = _read_index(_COLLECTIONS[name])
    ids = sorted({series.patient for series in index})
    if patients is not None and not 1 <= patients <= len(ids):
        raise UserError(f"--patients of {name} must be from 1 to {len(ids)}, not {patients}")
    first = set(ids[:patients])
    return [series for series in index if series.patient in first]


def _read_index(collection: _Collection) -> list[IdcSeries]:
    # Not through IDCClient, which takes 5 s and 1.7 GB to read the whole index.
    try:
        from idc_index_data import IDC_INDEX_PARQUET_FILEPATH
    except ImportError as error:
        raise UserError("the index of IDC is not installed: run `pip install quarterdose[idc]`") from error
    rows: list[tuple[str, str, object]] = [("collection_id", "==", collection.id), ("Modality", "==", "CT")]
    if collection.descriptions:
        rows.append(("SeriesDescription", "in", collection.descriptions))
    index = pd.read_parquet(str(IDC_INDEX_PARQUET_FILEPATH), columns=list(_COLUMNS), filters=rows)
    index = index.rename(columns=_COLUMNS).fillna({"description": ""}).astype({"images": int})
    index = index.groupby("patient").filter(lambda patient: collection.descriptions <= set(patient.description))
    index = index.sort_values(["patient", "study", "uid"])
    return [IdcSeries(*row) for row in index.itertuples(index=False, name=None)]


def describe(name: CollectionName, chosen: Sequence[IdcSeries]) -> str:
    """Return two lines for the user: how much is chosen, and its citation and licence."""
    patients = len({series.patient for series in chosen})
    images = sum(series.images for series in chosen)
    licences = ", ".join(sorted({series.licence for series in chosen}))
    dois = ", ".join(sorted({f"doi:{series.doi}" for series in chosen}))
    return (
        f"patients: {patients:,}, series: {len(chosen):,}, images: {images:,}, {_gigabytes(chosen):.1f} GB\n"
        f"{_COLLECTIONS[name].citation}, The Cancer Imaging Archive, {dois}; {licences}"
    )


def _gigabytes(chosen: Sequence[IdcSeries]) -> float:
    return sum(series.megabytes for series in chosen) / 1000


def fetch(chosen: Sequence[IdcSeries], root: Path, client: Client | None = None) -> int:
    """Download the series that are missing at ``root/<patient>/<study>/<series>``; return their number.

    A series gets there when it is complete. What is there already is never written to.

    Raises:
        UserError: something else is there, the folder cannot be made, another process downloads into it, its disk is
            too full, the download failed, or series stayed incomplete.
    """
    missing = _list_incomplete(chosen, root)
    if not missing:  # the folder may be read-only
        return 0
    _make_folder(root)
    otherwise = f"another `quarterdose fetch` downloads into {root}: run the same command again when it has ended"
    with claimed(root / _LOCK, otherwise):
        missing = _list_incomplete(missing, root)  # another process may have fetched some
        _fetch_missing(missing, root, client)
        incomplete = _list_incomplete(missing, root)
    if incomplete:
        first = incomplete[0]
        raise UserError(
            f"{len(incomplete)} of {len(chosen)} series are incomplete, first {first.uid} of {first.patient}; "
            "run the same command to go on"
        )
    return len(missing)


def _fetch_missing(missing: Sequence[IdcSeries], root: Path, client: Client | None) -> None:
    _check_free(missing, root)
    _move_complete(missing, root)  # what a download that was killed left
    incomplete = _list_incomplete(missing, root)
    if incomplete:
        _check_room(incomplete, root)
        try:
            _download(incomplete, root / _UNFINISHED, client)
        finally:
            _move_complete(incomplete, root)


def _list_incomplete(chosen: Sequence[IdcSeries], root: Path) -> list[IdcSeries]:
    return [series for series in chosen if not series.is_complete(root)]


def _check_free(missing: Sequence[IdcSeries], root: Path) -> None:
    for folder in (series.folder(root) for series in missing):
        if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
            raise UserError(
                f"{folder} holds something else than the whole series of IDC, and nothing of yours is replaced: "
                "move it, and run the same command again"
            )


def _move_complete(series: Sequence[IdcSeries], root: Path) -> None:
    """Move what is complete to its place, and remove the folders that this leaves empty."""
    for complete in [s for s in series if s.is_complete(root / _UNFINISHED)]:
        unfinished, folder = complete.folder(root / _UNFINISHED), complete.folder(root)
        for leftover in unfinished.glob(_HALF_WRITTEN):  # of a download that was killed: else it is taken for a slice
            leftover.unlink()
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(folder)
        with suppress(OSError):  # other series are still there
            os.removedirs(unfinished.parent)


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to {root} cannot be made a folder: {error.strerror}") from error


def _check_room(missing: Sequence[IdcSeries], root: Path) -> None:
    free, needed = shutil.disk_usage(root).free / 1e9, _gigabytes(missing)
    if needed > free:
        raise UserError(f"the {len(missing)} series to fetch take {needed:,.1f} GB, but {root} has {free:,.1f} GB free")


def _download(missing: Sequence[IdcSeries], root: Path, client: Client | None) -> None:
    try:
        (client or _idc_client()).download_from_selection(
            downloadDir=str(root),
            seriesInstanceUID=[series.uid for series in missing],
            dirTemplate=_FOLDERS,
            use_s5cmd_sync=True,  # images of a half-fetched series are kept
            show_progress_bar=sys.stderr.isatty(),
        )
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its parts do
        raise UserError(f"the download from IDC failed, run the same command to go on: {error}") from error


def _check_reachable() -> None:
    """Refuse a machine without a way to the archive: the download would try for minutes, and not say so.

    Raises:
        UserError: nothing answers, also not through the proxy that is set.
    """
    try:
        build_opener().open(_ARCHIVE, timeout=_ANSWER_SECONDS).close()
    except HTTPError:
        return  # it answered
    except (URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # another program may know the certificate
        words = getattr(reason, "strerror", "") or reason
        raise UserError(
            f"IDC's archive at s3.amazonaws.com cannot be reached from here ({words}): "
            "set HTTPS_PROXY if there is a proxy, or fetch where it can be reached, and copy the folder"
        ) from error


def _idc_client() -> Client:
    _check_reachable()
    from idc_index.index import IDCClient

    logging.getLogger("idc_index").setLevel(logging.WARNING)  # its import sets the root logger to INFO
    return IDCClient()  # type: ignore[no-untyped-call]
