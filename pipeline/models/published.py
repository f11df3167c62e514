"""Weights of others' 2D networks, under the names of their code, which also tell whose they are."""

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.errors import UserError
from pipeline.intensity import ScalingName
from pipeline.models.ddnet import DENSE_LAYERS, LEVELS, DDnet
from pipeline.models.redcnn import LAYERS, REDCNN

_WRAPPER = "module."  # before each name, where DataParallel held the network
_UNREADABLE = (
    "it is no file of weights that can be read, wanted .npz, or .pt, .pth or .tar of torch.save with tensors, numbers "
    "and text alone"
)
_NO_NUMBERS = "is no array of whole or real numbers, as weights are"
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MOST_PACKING = 100  # random weights hardly become smaller; zeros do so a thousand times

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Code:
    """A code that trains a network of ours.

    ``model``: the architecture. ``build``: returns the untrained network. ``names``: their name of each of our modules.
    ``scaling``: the intensities that their networks take. ``mirrored``: how their names begin where they have a
    transposed convolution and we the convolution that computes the same.
    """

    model: str
    build: Callable[[], nn.Module]
    names: Mapping[str, str]
    scaling: ScalingName
    mirrored: str | None = None

    def keys(self, network: nn.Module) -> dict[str, str]:
        """Return their name of each of the network's arrays."""
        return {
            f"{module}.{name}": f"{published}.{name}"
            for module, published in self.names.items()
            for name in network.get_submodule(module).state_dict()
        }


def read_published(path: Path) -> tuple[Code, nn.Module]:
    """Recognise whose weights a file holds, and build their 2D network.

    ``path``: an ``.npz``, or a state dict of ``torch.save``, which may lie in a checkpoint.

    Raises:
        UserError: the file cannot be read, or holds other weights.
    """
    path.open("rb").close()  # of a file that may not be read the machine says so
    try:
        entries = _packed_entries(path)
        _check_packing(entries, path.stat().st_size)
        is_npz = entries and all(entry.filename.endswith(".npy") for entry in entries)
        states = {path.name: _read_npz(path)} if is_npz else _read_states(path)
        code, state = _recognise({key: _unwrapped(state) for key, state in states.items()})
        network = code.build()
        load_published(network, state, code)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return code, network


def _packed_entries(path: Path) -> list[zipfile.ZipInfo]:
    """Return what is packed in a file of NumPy or of torch, whatever its name; nothing of a file of another kind."""
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception as error:  # zipfile raises many kinds for a broken file
        raise UserError(_UNREADABLE) from error


def _check_packing(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse a file that would fill the memory: weights hardly become smaller when they are packed."""
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MOST_PACKING * size:
        raise UserError(f"it unpacks to {unpacked:,} bytes, more than {_MOST_PACKING} times its size: no weights do so")


def _read_npz(path: Path) -> State:
    try:
        with np.load(path) as archive:
            arrays = {name: np.asarray(array) for name, array in archive.items()}
    except Exception as error:  # so do numpy and zlib
        raise UserError(_UNREADABLE) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf":
            raise UserError(f"{name} {_NO_NUMBERS}")
    return {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}


def _read_states(path: Path) -> dict[str, State]:
    """Read the state dicts of a file of ``torch.save``, by their keys in it; nothing in the file is executed."""
    try:
        with warnings.catch_warnings(action="ignore"):  # which tell how to load it by executing it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise UserError(_UNREADABLE) from error
    candidates = {"": content, **content} if isinstance(content, dict) else {}
    states = {str(key): candidate for key, candidate in candidates.items() if _is_state(candidate)}
    if not states:
        raise UserError("it holds no state dict, neither alone nor under a key such as model_state_dict")
    return states


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(x, Tensor) for name, x in content.items())
    )


def _unwrapped(state: State) -> State:
    """Return a state dict under the names that it had before DataParallel held the network."""
    is_wrapped = all(name.startswith(_WRAPPER) for name in state)
    return {name.removeprefix(_WRAPPER): tensor for name, tensor in state.items()} if is_wrapped else state


def _recognise(states: Mapping[str, State]) -> tuple[Code, State]:
    """Return the state dict whose names are those of a code, or most of them, and the code."""
    expected = [({*code.keys(code.build()).values()}, code) for code in CODES]
    shares = [(_share(names, {*state}), key, code) for key, state in states.items() for names, code in expected]
    highest = max(share for share, *_ in shares)
    if highest < LEAST_SHARE:
        raise UserError(
            "its names are not those of DDnet (conv1, batch1, dnet1, convT1 ...) or RED-CNN (conv1 to conv5 and tconv1 "
            "to tconv5; conv_first, conv, conv_t and conv_t_last)"
        )
    (key, code), *others = [(key, code) for share, key, code in shares if share == highest]
    if others:
        keys = ", ".join([key, *(other for other, _ in others)])
        raise UserError(f"it holds weights of one network under {keys}: save those that are meant alone")
    return code, states[key]


def _share(expected: set[str], names: set[str]) -> float:
    return len(expected & names) / len(expected | names)


def load_published(
    network: nn.Module, arrays: Mapping[str, Tensor | NDArray[np.generic]], code: Code | None = None
) -> None:
    """Load weights that carry the names of a code, DDnet's authors' if none is named, into the network.

    Raises:
        UserError: a name is missing or unknown, or an array has another shape or numbers that are not finite.
    """
    code = code or DDNET_AUTHORS
    keys = code.keys(network)
    for key in keys.values():
        if key not in arrays:
            raise UserError(f"published weights lack {key}")
    unknown = set(arrays) - set(keys.values())
    if unknown:
        raise UserError(f"published weights hold {len(unknown)} unknown arrays, first {min(unknown)}")
    state = {name: torch.as_tensor(arrays[key]) for name, key in keys.items()}
    mirrored = {name for name in keys if code.mirrored and keys[name].startswith(code.mirrored)}
    mirrored = {name for name in mirrored if name.endswith(".weight") and state[name].dim() > 2}
    state |= {name: state[name].transpose(0, 1) for name in mirrored}
    _check_arrays(state, network.state_dict(), keys)
    state |= {name: _mirrored(state[name]) for name in mirrored}
    network.load_state_dict(state)
    for name, weights in network.state_dict().items():
        if not weights.isfinite().all():
            raise UserError(f"published weights {keys[name]} are not finite")


def _check_arrays(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    """Refuse arrays of other shapes or kinds, before any is copied: a file may claim a shape that fills the memory."""
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"published weights for {name} have shape {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}"
            )
        if not _holds_numbers(state[name]):
            raise UserError(f"{keys[name]} {_NO_NUMBERS}")


def _holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds whole or real numbers, and all of them."""
    is_number = tensor.dtype.is_floating_point or tensor.dtype in _WHOLE
    return is_number and tensor.layout == torch.strided and not tensor.is_meta


def _mirrored(weight: Tensor) -> Tensor:
    """Turn a transposed convolution of stride 1, (out, in, sides), into the plain one that computes the same."""
    return weight.flip(tuple(range(2, weight.dim()))).contiguous()


def _ddnet_names() -> dict[str, str]:
    """Map our submodules to the names of DDnet's authors."""
    names = {"norm": "batch1", "stem": "conv1"}
    for i in range(LEVELS):
        for j in range(DENSE_LAYERS):
            for step, number in (("squeeze", 1), ("grow", 2)):
                layer = f"down.{i}.dense.{j}.{step}"
                names[f"{layer}.norm"] = f"dnet{i + 1}.batch_norm{number}_{j}"
                names[f"{layer}.conv"] = f"dnet{i + 1}.conv{number}_{j}"
        names[f"down.{i}.transition.norm"] = f"batch{i + 2}"
        names[f"down.{i}.transition.conv"] = f"conv{i + 2}"
        for step, number in (("mix", 2 * i + 1), ("reduce", 2 * i + 2)):
            names[f"up.{i}.{step}.norm"] = f"batch{number + LEVELS + 1}"
            names[f"up.{i}.{step}.conv"] = f"convT{number}"
    return names


def _redcnn_names() -> dict[str, str]:
    """Map our submodules to the names of the port to PyTorch that most use (github.com/SSinyu/RED-CNN)."""
    return {
        f"{ours}.{i}": f"{theirs}{i + 1}"
        for ours, theirs in (("encoder", "conv"), ("decoder", "tconv")) for i in range(LAYERS)
    }  # fmt: skip


def _shared_redcnn_names() -> dict[str, str]:
    """Map our submodules to the names of the same port's later version, whose inner layers share their weights."""
    last = LAYERS - 1
    encoder = {f"encoder.{i}": "conv" if i else "conv_first" for i in range(LAYERS)}
    return encoder | {f"decoder.{i}": "conv_t_last" if i == last else "conv_t" for i in range(LAYERS)}


DDNET_AUTHORS = Code("ddnet", lambda: DDnet(2), _ddnet_names(), "minmax", mirrored="convT")
CODES = (
    DDNET_AUTHORS,
    Code("redcnn", lambda: REDCNN(2), _redcnn_names(), "unit"),
    Code("redcnn", lambda: REDCNN(2), _shared_redcnn_names(), "unit"),
)
LEAST_SHARE = 0.5
"""Of the names that weights must have in common with a code's, else they are another network's."""
