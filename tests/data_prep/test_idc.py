"""Selection and resumption against IDC's real index; only the library's network call has a stand-in."""

import inspect
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import idc_index_data
import pytest

from data_prep.errors import UserError
from data_prep.sources.idc import CollectionName, IdcSeries, describe, fetch, select
from tests.command_line import quarterdose_within

LIDC = "SELECT * FROM series WHERE collection_id = 'lidc_idri' AND Modality = 'CT'"
DOSE = "SELECT * FROM series WHERE collection_id = 'ldct_and_projection_data' AND SeriesDescription = '{} Dose Images'"
FULL, LOW = DOSE.format("Full"), DOSE.format("Low")
MAYO = f"{FULL} AND PatientID IN (SELECT PatientID FROM ({LOW})) UNION ALL {LOW}"


def by_sql(query: str) -> list[tuple[Any, ...]]:
    columns = "PatientID, StudyInstanceUID, SeriesInstanceUID, instanceCount, series_size_MB, license_short_name"
    with duckdb.connect() as connection:
        connection.read_parquet(str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)).create_view("series")
        return connection.sql(f"SELECT {columns} FROM ({query}) ORDER BY 1, 2, 3").fetchall()


class Stand:
    """Stands in for ``idc_index.IDCClient``, which needs the network: notes its call, writes the series given."""

    def __init__(self, *arriving: IdcSeries) -> None:
        self.arriving = arriving
        self.calls: list[dict[str, Any]] = []

    def download_from_selection(self, **options: Any) -> None:
        self.calls.append(options)
        for idc_series in self.arriving:
            write(idc_series, Path(options["downloadDir"]))


def series(uid: str, images: int = 3, megabytes: float = 0.0003, patient: str = "P1") -> IdcSeries:
    return IdcSeries(patient, "1.2", uid, "", images, megabytes, "CC BY 3.0", "10.1/x")


def write(idc_series: IdcSeries, root: Path) -> Path:
    """Files of the right number and total size, without content."""
    folder = root / idc_series.patient / idc_series.study / idc_series.uid
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(idc_series.images):
        (folder / f"{number}.dcm").touch()
    os.truncate(folder / "0.dcm", round(idc_series.megabytes * 1e6))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "query", "patients", "count", "images"),
    [("lidc", LIDC, 1010, 1018, 243_958), ("mayo", MAYO, 100, 200, 50_944)],
)
def test_selection_is_what_sql_finds(name: CollectionName, query: str, patients: int, count: int, images: int) -> None:
    chosen = select(name, None)
    expected = by_sql(query)
    assert [(s.patient, s.study, s.uid, s.images, s.megabytes, s.licence) for s in chosen] == expected
    assert len({s.patient for s in chosen}) == patients
    assert (len(chosen), sum(s.images for s in chosen)) == (count, images)


def test_mayo_patients_have_one_series_of_each_dose_and_no_projections() -> None:
    chosen = select("mayo", None)
    assert set(Counter((s.patient, s.description) for s in chosen).values()) == {1}
    assert Counter(s.description for s in chosen) == {"Full Dose Images": 100, "Low Dose Images": 100}
    assert Counter(s.patient[0] for s in chosen) == {"C": 100, "L": 100}


@pytest.mark.slow
def test_the_first_patients_are_the_start_of_all() -> None:
    chosen, everyone = select("lidc", 200), select("lidc", None)
    assert chosen == everyone[: len(chosen)]
    assert (chosen[0].patient, chosen[-1].patient) == ("LIDC-IDRI-0001", "LIDC-IDRI-0200")
    assert len({s.patient for s in chosen}) == 200
    assert select("lidc", 1010) == everyone


@pytest.mark.parametrize(("name", "patients", "maximum"), [("lidc", 0, 1010), ("lidc", 1011, 1010), ("mayo", 101, 100)])
def test_a_wrong_number_of_patients_names_the_range(name: CollectionName, patients: int, maximum: int) -> None:
    with pytest.raises(UserError, match=f"--patients of {name} must be from 1 to {maximum}, not {patients}"):
        select(name, patients)


@pytest.mark.slow
def test_description_names_figures_licence_and_doi() -> None:
    assert describe("lidc", select("lidc", None)) == (
        "patients: 1,010, series: 1,018, images: 243,958, 128.4 GB\n"
        "Armato et al. 2015, Data From LIDC-IDRI, The Cancer Imaging Archive, "
        "doi:10.7937/k9/tcia.2015.lo9ql9sx; CC BY 3.0"
    )
    said = describe("mayo", select("mayo", 1))
    assert said.startswith("patients: 1, series: 2, images: 560, 0.3 GB")
    assert said.endswith("doi:10.7937/9npb-2637; CC BY 4.0")


def test_without_idc_index_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idc_index_data", None)
    with pytest.raises(UserError, match=r"pip install quarterdose\[idc\]"):
        select("lidc", 1)


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "a/b", "a b", "x\n", "$(rm)"])
def test_ids_that_are_no_safe_folders_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="IDC's index has the id"):
        series(name)
    with pytest.raises(UserError, match="IDC's index has the id"):
        series("1.3", patient=name)


def test_only_incomplete_series_are_fetched(tmp_path: Path) -> None:
    complete, short, truncated, absent = chosen = [series(f"1.{number}") for number in range(4)]
    write(complete, tmp_path)
    unfinished = tmp_path / ".quarterdose-fetch"
    (write(short, unfinished) / "2.dcm").unlink()
    os.truncate(write(truncated, unfinished) / "0.dcm", 299)
    client = Stand(short, truncated, absent)
    assert fetch(chosen, tmp_path, client) == 3
    assert client.calls == [
        {
            "downloadDir": str(unfinished),
            "seriesInstanceUID": ["1.1", "1.2", "1.3"],
            "dirTemplate": "%PatientID/%StudyInstanceUID/%SeriesInstanceUID",
            "use_s5cmd_sync": True,
            "show_progress_bar": sys.stderr.isatty(),
        }
    ]
    assert fetch(chosen, tmp_path, client) == 0
    assert len(client.calls) == 1
    assert not unfinished.exists()


def test_what_did_not_arrive_waits_apart_and_what_did_is_in_its_place(tmp_path: Path) -> None:
    complete, short = chosen = [series("1.1"), series("1.2")]
    (write(short, tmp_path / ".quarterdose-fetch") / "2.dcm").unlink()
    with pytest.raises(UserError, match="1 of 2 series are incomplete"):
        fetch(chosen, tmp_path, Stand(complete))
    assert complete.is_complete(tmp_path)
    assert not short.folder(tmp_path).exists()
    assert len(list(short.folder(tmp_path / ".quarterdose-fetch").iterdir())) == 2


def test_half_written_files_of_a_killed_download_do_not_come_along(tmp_path: Path) -> None:
    """A source would take one for a slice, and turn its scan away."""
    (tmp_path / ".quarterdose-fetch" / "P1" / "1.2" / "1.1").mkdir(parents=True)
    (series("1.1").folder(tmp_path / ".quarterdose-fetch") / "2.dcm1556473843").write_bytes(b"half")
    assert fetch([series("1.1")], tmp_path, Stand(series("1.1"))) == 1
    assert sorted(path.name for path in series("1.1").folder(tmp_path).iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]


def test_two_downloads_into_one_folder_do_not_write_over_each_other(tmp_path: Path) -> None:
    class Busy(Stand):
        def download_from_selection(self, **options: Any) -> None:
            with pytest.raises(
                UserError, match=f"^another `quarterdose fetch` downloads into {tmp_path}: run the same"
            ):
                fetch([series("1.1"), series("1.2")], tmp_path, second)
            super().download_from_selection(**options)

    second = Stand(series("1.2"))
    assert fetch([series("1.1")], tmp_path, Busy(series("1.1"))) == 1
    assert second.calls == []
    assert fetch([series("1.1"), series("1.2")], tmp_path, second) == 1
    assert os.listdir(tmp_path) == ["P1"]


def test_what_a_killed_download_left_needs_no_room_again(tmp_path: Path) -> None:
    megabytes = round(0.6 * shutil.disk_usage(tmp_path).free / 1e6)  # files without content take none
    first, second = series("1.1", megabytes=megabytes), series("1.2", megabytes=megabytes)
    write(first, tmp_path / ".quarterdose-fetch")
    client = Stand(second)
    assert fetch([first, second], tmp_path, client) == 2
    assert client.calls[0]["seriesInstanceUID"] == ["1.2"]
    assert not (tmp_path / ".quarterdose-fetch").exists()


@pytest.mark.parametrize("name", ["notes.txt", "0.dcm"])
def test_a_folder_with_other_files_is_not_written_to(name: str, tmp_path: Path) -> None:
    folder = series("1.1").folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    client = Stand(series("1.1"))
    with pytest.raises(UserError, match=r"1\.1 holds something else than the whole series"):
        fetch([series("1.1")], tmp_path, client)
    assert client.calls == []
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


def test_the_library_takes_what_it_is_given(tmp_path: Path) -> None:
    from idc_index.index import IDCClient

    client = Stand(series("1.1"))
    fetch([series("1.1")], tmp_path / "new", client)
    inspect.signature(IDCClient.download_from_selection).bind(None, **client.calls[0])


def test_series_that_did_not_arrive_are_counted(tmp_path: Path) -> None:
    chosen = [series("1.1"), series("1.2"), series("1.3", patient="P2")]
    said = r"2 of 3 series are incomplete, first 1\.2 of P1; run the same command to go on"
    with pytest.raises(UserError, match=said):
        fetch(chosen, tmp_path, Stand(chosen[0]))


def test_a_full_disk_is_refused_with_both_figures(tmp_path: Path) -> None:
    client = Stand()
    with pytest.raises(UserError, match=r"1 series to fetch take 1,000,000\.0 GB, but .* has [\d,]+\.\d GB free"):
        fetch([series("1.1", megabytes=1e9)], tmp_path, client)
    assert client.calls == []


def test_a_file_is_no_folder_to_fetch_to(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="taken cannot be made a folder: File exists"):
        fetch([series("1.1")], tmp_path / "taken", Stand())


def test_a_failure_of_the_library_is_one_sentence(tmp_path: Path) -> None:
    class Broken(Stand):
        def download_from_selection(self, **options: Any) -> None:
            raise FileNotFoundError("s5cmd executable not found")

    with pytest.raises(UserError, match=r"download from IDC failed, .* to go on: .*s5cmd executable not found"):
        fetch([series("1.1")], tmp_path, Broken())


def test_a_machine_without_a_way_to_the_archive_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(UserError, match=r"s3\.amazonaws\.com cannot be reached from here \(Connection refused\): set"):
        fetch([series("1.1")], tmp_path)
    assert os.listdir(tmp_path) == []


def test_command_line_says_what_is_fetched_and_keeps_what_is_there(tmp_path: Path) -> None:
    for idc_series in select("lidc", 2):
        write(idc_series, tmp_path)
    completed = quarterdose_within(tmp_path, "fetch", "lidc", "--patients", "2", "--to", str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("patients: 2, series: 2, images: ")
    assert completed.stdout.endswith(f"{tmp_path}: 2 series complete, 0 of them fetched now\n")


def test_command_line_refuses_in_one_line_with_code_2(tmp_path: Path) -> None:
    completed = quarterdose_within(tmp_path, "fetch", "mayo", "--patients", "0", "--to", str(tmp_path))
    assert (completed.returncode, completed.stderr) == (
        2,
        "quarterdose: --patients of mayo must be from 1 to 100, not 0\n",
    )
