import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from data_prep.errors import UserError
from pipeline.inference import model_file
from pipeline.inference.model_card import check_model_replaceable, write_model
from pipeline.inference.model_file import load_model, save_model
from pipeline.models import build_network
from tests.full_disk import small_files
from tests.pipeline.cells import cell


def changed(path: Path, **values: object) -> None:
    """Write other values of the description."""
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["quarterdose"]) | values
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    save_file(state, path, {"quarterdose": json.dumps(described)})


@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_model_comes_back_as_it_was(dims: int, norm: str, tmp_path: Path) -> None:
    settings = cell(dims, norm=norm, residual=False)
    network = build_network(settings).eval()
    digest = save_model(tmp_path / "a.safetensors", network, settings, {"run": "toy"})
    loaded = load_model(tmp_path / "a.safetensors")
    x = torch.randn(1, 1, *[16] * dims, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.network(x), network(x))
    assert (loaded.cell, loaded.digest, loaded.provenance["run"]) == (settings, digest, "toy")
    assert not loaded.network.training
    assert digest == save_model(tmp_path / "b.safetensors", network, settings, {"run": "toy"})
    assert digest != save_model(tmp_path / "c.safetensors", network, settings, {"run": "other"})


def test_a_model_is_for_those_whom_the_umask_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(tmp_path / "a.safetensors", build_network(cell(2)), cell(2), {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_an_error_of_the_system_that_names_the_model(tmp_path: Path) -> None:
    with small_files(1000), pytest.raises(OSError, match="File too large") as caught:
        save_model(tmp_path / "a.safetensors", build_network(cell(2)), cell(2), {})
    assert caught.value.filename == str(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_damaged_or_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    settings = cell(2)
    path = tmp_path / "a.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            load_model(path)

    refused("does not exist")
    path.write_bytes(b"PK\3\4 a pickle, say")
    refused("no readable file of safetensors")
    save_file({"a": torch.zeros(1)}, path)
    refused("lacks the key quarterdose")
    digest = save_model(path, build_network(settings), settings, {})
    changed(path, format=3, provenance={"quarterdose": "9.9"})
    refused("format 3, this quarterdose reads format 2: take quarterdose 9.9")
    save_model(path, build_network(settings), settings, {})
    changed(path, provenance={"run": "another", "quarterdose": "0.1.0"})
    refused("SHA-256 differs")
    save_model(path, build_network(settings), settings, {})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    refused("SHA-256 differs")
    assert len(digest) == 64
    save_model(path, build_network(settings), cell(3), {})
    refused(r"of quarterdose [0-9.]+ that this one, [0-9.]+, cannot build: train it again")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_model_whose_weights_were_shortened_is_refused(kind: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, build_network(cell(2)), cell(2), {})
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name).to(kind) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        save_file(state, path, file.metadata())
    with pytest.raises(UserError, match="does not hold what was written: its SHA-256 differs"):
        load_model(path)
    with pytest.raises(UserError, match="was changed later"):
        check_model_replaceable(path)


def test_a_model_of_the_first_format_is_refused_with_what_changed_and_may_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    monkeypatch.setattr(model_file, "FORMAT", 1)
    save_model(path, build_network(cell(2)), cell(2), {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 1, and since format 2 group norm's first layer is another: train"):
        load_model(path)
    check_model_replaceable(path)
    changed(path, provenance={"run": "another"})
    with pytest.raises(UserError, match="not written by quarterdose, or was changed later"):
        check_model_replaceable(path)


def test_the_card_says_data_metrics_against_the_input_and_limits(tmp_path: Path) -> None:
    settings = cell(3)
    judged = {"rmse_hu": 20.0, "psnr": 45.0, "ssim": 0.97, "ms_ssim": 0.99}
    provenance = {
        "data sets": ["lidc", "<b>"], "verdict": ["On the test part of <b> total variation wins."],
        "low dose": {"dose": 0.1, "bowtie": []},
        "metrics": {"low-dose": {**judged, "rmse_hu": 40.0}, "tv": {**judged, "rmse_hu": 18.0}, "cell": judged},
    }  # fmt: skip
    digest = write_model(tmp_path / "model.safetensors", build_network(settings), settings, provenance)
    card = (tmp_path / "model-card.md").read_text()
    assert digest in card
    assert "lidc, &lt;b&gt;" in card
    assert "* **low dose**: dose 0.1; bowtie none\n" in card
    assert "* **network**: 3D-DDnet, 2,619,155 parameters, norm frozen, predicts the correction\n" in card
    assert "| low-dose | 40.00 | 45.00 | 0.9700 | 0.9900 |\n| tv | 18.00 |" in card  # even if there are new measures
    assert "On the test part of &lt;b&gt; total variation wins.\n\n| model |" in card
    assert "**not for diagnosis**. It was judged by errors against the full dose" in card
    assert load_model(tmp_path / "model.safetensors").digest == digest
    assert "other patients" not in card


def test_the_card_says_that_it_was_judged_on_the_patients_of_its_training(tmp_path: Path) -> None:
    """The page says so too; but the card goes with the model."""
    provenance = {"split": {"by": "slabs"}, "metrics": {"low-dose": {"rmse_hu": 40.0}, "cell": {"rmse_hu": 20.0}}}
    settings = cell(3)
    write_model(tmp_path / "model.safetensors", build_network(settings), settings, provenance)
    held_out = (tmp_path / "model-card.md").read_text().partition("## Held-out error\n\n")[2]
    assert held_out.startswith("Fewer than three patients: the held-out slices are other slices of the patients")
