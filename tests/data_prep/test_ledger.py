"""The record of what was written in a folder, where several processes write in it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep.ledger import FILE, Ledger

SETTINGS, MODEL = "config.yaml", "model.safetensors"


def write(folder: Path, name: str, text: str) -> None:
    with Ledger(folder).recording([name]):
        (folder / name).write_text(text)


@pytest.mark.parametrize("first_ends_last", [True, False])
def test_two_writers_at_a_time_keep_the_digests_of_each_other(tmp_path: Path, first_ends_last: bool) -> None:
    """As the settings of a submission while a job writes the model."""
    write(tmp_path, SETTINGS, "old")
    first, second = (Ledger(tmp_path).recording([name]) for name in (MODEL, SETTINGS))
    first.__enter__()
    second.__enter__()
    for name in (MODEL, SETTINGS):
        (tmp_path / name).write_text("new")
    for block in (second, first) if first_ends_last else (first, second):
        block.__exit__(None, None, None)
    assert Ledger(tmp_path).first_stranger([SETTINGS, MODEL]) is None
    content = json.loads((tmp_path / FILE).read_text())
    assert (content["files"].keys(), content["unfinished"]) == ({SETTINGS, MODEL}, [])


def test_changes_of_the_record_wait_for_each_other(tmp_path: Path) -> None:
    names = [f"{letter}{number}" for number in range(15) for letter in "abcd"]
    write(tmp_path, SETTINGS, "first")
    with ThreadPoolExecutor(4) as writers:
        for result in [writers.submit(write, tmp_path, name, name) for name in names]:
            result.result()
    content = json.loads((tmp_path / FILE).read_text())
    assert (content["files"].keys(), content["unfinished"]) == ({SETTINGS, *names}, [])
    assert Ledger(tmp_path).first_stranger([SETTINGS, *names]) is None
