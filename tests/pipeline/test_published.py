"""Weights of others, under the names of their code."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from data_prep.errors import UserError
from jobs.commands.cli import app
from pipeline.inference.model_file import load_model
from pipeline.models import REDCNN, read_published
from tests.plain_ddnet import PlainDDnet
from tests.plain_redcnn import plain_red_cnn

INNER = ("conv2", "conv3", "conv4", "conv5", "tconv1", "tconv2", "tconv3", "tconv4")
LAYERS = ("conv1", *INNER, "tconv5")


def red_cnn_weights() -> dict[str, Tensor]:
    """Random weights of the port to PyTorch, (out, in, 5, 5) of its convolutions, (in, out, 5, 5) of the transposed."""
    generator = torch.Generator().manual_seed(0)
    sizes = dict.fromkeys(INNER, (96, 96)) | {"conv1": (96, 1), "tconv5": (96, 1)}
    state = {f"{layer}.weight": torch.randn(*sizes[layer], 5, 5, generator=generator) * 0.03 for layer in LAYERS}
    channels = dict.fromkeys(LAYERS, 96) | {"tconv5": 1}
    return state | {f"{layer}.bias": torch.randn(channels[layer], generator=generator) for layer in LAYERS}


def plain_output(state: dict[str, Tensor], x: Tensor) -> Tensor:
    weights, biases = ([state[f"{layer}.{kind}"] for layer in LAYERS] for kind in ("weight", "bias"))
    return plain_red_cnn(x, weights, biases, last_relu=True)


def test_red_cnn_of_the_port_computes_what_the_plain_network_does(tmp_path: Path) -> None:
    state, x = red_cnn_weights(), torch.rand(1, 1, 32, 48)
    torch.save({"model": {f"module.{name}": weights for name, weights in state.items()}}, tmp_path / "REDCNN.ckpt")
    code, network = read_published(tmp_path / "REDCNN.ckpt")
    assert (code.model, code.scaling) == ("redcnn", "unit")
    torch.testing.assert_close(network(x), plain_output(state, x), rtol=1e-4, atol=1e-3)


def test_red_cnn_whose_inner_layers_share_their_weights(tmp_path: Path) -> None:
    state, x = red_cnn_weights(), torch.rand(1, 1, 32, 32)
    names = {"conv1": "conv_first", "conv2": "conv", "tconv1": "conv_t", "tconv5": "conv_t_last"}
    shared = {f"{names[layer]}.{kind}": state[f"{layer}.{kind}"] for layer in names for kind in ("weight", "bias")}
    arrays: dict[str, Any] = {name: weights.numpy() for name, weights in shared.items()}
    np.savez(tmp_path / "shared.npz", **arrays)
    for kind in ("weight", "bias"):
        state |= {f"{layer}.{kind}": state[f"{layer[:-1]}{2 if layer[0] == 'c' else 1}.{kind}"] for layer in INNER}
    torch.testing.assert_close(
        read_published(tmp_path / "shared.npz")[1](x), plain_output(state, x), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_of_any_precision_are_read(kind: torch.dtype, tmp_path: Path) -> None:
    """A state dict of ``named_parameters`` requires gradients."""
    state = {name: weights.to(kind) for name, weights in red_cnn_weights().items()}
    torch.save({name: torch.nn.Parameter(weights) for name, weights in state.items()}, tmp_path / "redcnn.pt")
    _, network = read_published(tmp_path / "redcnn.pt")
    assert torch.equal(network.get_parameter("encoder.1.weight"), state["conv2.weight"].float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv3.bias": torch.full((96,), torch.nan)}, r"published weights conv3\.bias are not finite"),
        (
            {"conv2.weight": torch.full((96, 96, 5, 5), 1e300, dtype=torch.float64)},
            r"published weights conv2\.weight are not finite",
        ),
        ({"tconv5.bias": None}, r"published weights lack tconv5\.bias"),
        (dict.fromkeys([*red_cnn_weights()][:8], None), r"published weights lack conv"),
        (dict.fromkeys([*red_cnn_weights()][:12], None), r"its names are not those of DDnet \("),
        ({f"head{i}": torch.ones(1) for i in range(40)}, r"its names are not those of DDnet \("),
        ({"module.a": torch.ones(1)}, r"published weights hold 1 unknown arrays, first module\.a"),
        ({"conv6.weight": torch.ones(1)}, r"published weights hold 1 unknown arrays, first conv6\.weight"),
        (
            {"conv2.weight": torch.ones(96, 96, 3, 3)},
            r".* encoder\.1\.weight have shape \(96, 96, 3, 3\)",
        ),
        (
            dict.fromkeys(red_cnn_weights(), None) | {"a.b": torch.ones(1)},
            r"its names are not those of DDnet \(",
        ),
    ],
)
def test_weights_that_are_no_red_cnn_are_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {name: weights for name, weights in (red_cnn_weights() | changes).items() if weights is not None}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=rf"other\.pt: {message}"):
        read_published(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "name",
    ["garbage.pt", "text.pt", "cut.pt", "model.pt", "pickle.pt", "broken.safetensors", "text.npz", "objects.npz"],
)
def test_files_that_cannot_be_read_say_what_is_wanted_and_advise_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes({"garbage": b"\x80\x02}q\x00(X", "broken": b"\x10" + bytes(7) + b"{"}.get(path.stem, b"weights"))
    if path.stem == "cut":
        torch.save(red_cnn_weights(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif path.stem == "model":
        torch.save(torch.nn.Linear(1, 1), path)
    elif path.stem == "pickle":
        path.write_bytes(pickle.dumps({"a": Path("b")}, 4))
    elif path.stem == "objects":
        np.savez(path, weights=np.array([{}]))
    formats = r"wanted \.npz, or \.pt, \.pth or \.tar of torch\.save with tensors, numbers and text alone"
    with (
        warnings.catch_warnings(record=True, action="always") as said,
        pytest.raises(UserError, match=rf"^\S+{name}: it is no file of weights that can be read, {formats}$"),
    ):
        read_published(path)
    assert said == []


@pytest.mark.parametrize("kind", [">f4", "<f2", np.longdouble])
def test_arrays_of_any_byte_order_and_precision_are_read(kind: Any, tmp_path: Path) -> None:
    """Names are those that DataParallel gives, which torch.save and numpy write alike."""
    arrays: dict[str, Any] = {name: weights.numpy().astype(kind) for name, weights in red_cnn_weights().items()}
    np.savez(tmp_path / "redcnn.npz", **{f"module.{name}": weights for name, weights in arrays.items()})
    _, network = read_published(tmp_path / "redcnn.npz")
    np.testing.assert_array_equal(
        network.get_parameter("encoder.1.weight").detach(), arrays["conv2.weight"].astype("f4")
    )


@pytest.mark.parametrize("name", ["WEIGHTS.NPZ", "weights", "weights.npz.1"])
def test_arrays_are_read_whatever_the_name_of_their_file(name: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {name: weights.numpy() for name, weights in red_cnn_weights().items()}
    with (tmp_path / name).open("wb") as file:
        np.savez(file, **arrays)
    code, network = read_published(tmp_path / name)
    assert code.model == "redcnn"
    np.testing.assert_array_equal(network.get_parameter("encoder.1.weight").detach(), arrays["conv2.weight"])


@pytest.mark.parametrize(
    "array",
    [np.full(96, 1j), np.full(96, "1.5"), np.zeros(96, "M8[s]"), np.zeros(96, [("a", "f4")]), np.ones(96, bool)],
)
def test_arrays_that_hold_no_numbers_are_refused(array: Any, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {name: weights.numpy() for name, weights in red_cnn_weights().items()}
    np.savez(tmp_path / "other.npz", **arrays | {"conv3.bias": array})
    with pytest.raises(UserError, match=r"other\.npz: conv3\.bias is no array of whole or real numbers"):
        read_published(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.full((96,), 1j), r"conv3\.bias is no array of whole or real numbers"),
        (torch.ones(96).to_sparse(), r"conv3\.bias is no array of whole or real numbers"),
        (torch.ones(96, device="meta"), r"conv3\.bias is no array of whole or real numbers"),
        (torch.ones(1).expand(10**6, 10**6), r".* encoder\.2\.bias have shape \(1000000, 1000000\), wanted \(96,\)"),
    ],
    ids=["complex", "sparse", "without numbers", "4 bytes that claim to be 4 TB"],
)
def test_tensors_that_are_no_weights_are_refused(bias: Tensor, message: str, tmp_path: Path) -> None:
    torch.save(red_cnn_weights() | {"conv3.bias": bias}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=rf"other\.pt: {message}"):
        read_published(tmp_path / "other.pt")


def test_what_lies_beside_the_weights_in_a_checkpoint_is_no_matter(tmp_path: Path) -> None:
    state = red_cnn_weights()
    beside = {"updates": {0: torch.ones(1)}, "discriminator": {"fc.weight": torch.ones(1)}}
    torch.save({**beside, "generator": state}, tmp_path / "wgan.pt")
    _, network = read_published(tmp_path / "wgan.pt")
    assert torch.equal(network.get_parameter("encoder.1.weight"), state["conv2.weight"])


def test_of_two_states_of_one_network_none_is_taken(tmp_path: Path) -> None:
    torch.save({"model": red_cnn_weights(), "ema": red_cnn_weights()}, tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"two\.pt: it holds weights of one network under model, ema: save"):
        read_published(tmp_path / "two.pt")


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, weights in red_cnn_weights().items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, weights[:1].numpy())
        with archive.open("zeros.npy", "w") as file:
            np.save(file, np.zeros(1 << 27, np.uint8))
    with pytest.raises(UserError, match=r"bomb\.npz: it unpacks to 134,\d+,\d+ bytes, more than 100 times its size"):
        read_published(tmp_path / "bomb.npz")


def test_a_damaged_table_of_a_packed_file_is_refused(tmp_path: Path) -> None:
    """Its entries are of a version to come, or their names are no UTF-8; it is the first of several discs."""
    torch.save({"a": torch.ones(1)}, tmp_path / "redcnn.pt")
    content = (tmp_path / "redcnn.pt").read_bytes()
    (tmp_path / "redcnn.pt").write_bytes(content.replace(b"PK\6\7\0", b"PK\6\7\1"))
    with pytest.raises(UserError, match=r"redcnn\.pt: it is no file of weights that can be read"):
        read_published(tmp_path / "redcnn.pt")
    path = tmp_path / "redcnn.npz"
    np.savez(path, a=np.ones(1))
    content = path.read_bytes()
    entry = content.index(b"PK\1\2")
    for start, number in ((6, b"\x6d"), (8, b"\0\x08" + content[entry + 10 : entry + 46] + b"\xff")):
        damaged = bytearray(content)
        damaged[entry + start : entry + start + len(number)] = number
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"redcnn\.npz: it is no file of weights that can be read"):
            read_published(path)


def test_ddnet_is_recognised_though_it_has_a_conv1_too(tmp_path: Path) -> None:
    torch.save(PlainDDnet(2).state_dict(), tmp_path / "ddnet.pt")
    code, _ = read_published(tmp_path / "ddnet.pt")
    assert (code.model, code.scaling) == ("ddnet", "minmax")


def test_the_command_makes_a_model_file_of_it(tmp_path: Path) -> None:
    weights = tmp_path / os.fsdecode(b"red\xffcnn.pt")
    torch.save(red_cnn_weights(), tmp_path / "redcnn.pt")
    (tmp_path / "redcnn.pt").rename(weights)
    words = ["import-model", str(weights), "--to", str(tmp_path / "redcnn.safetensors")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    model = load_model(tmp_path / "redcnn.safetensors")
    assert isinstance(model.network, REDCNN)
    card = (tmp_path / "redcnn-card.md").read_text()
    assert "* **network**: 2D-RED-CNN, 1,848,865 parameters, predicts the image\n" in card
    assert "* **weights**: of others, from red\\udcffcnn.pt\n" in card
    assert "neither trained nor judged it" in card
    assert "judged by errors" not in card
    assert (model.cell.model, model.cell.training.scaling, model.cell.training.residual) == ("redcnn", "unit", False)
