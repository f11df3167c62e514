"""DDnet weights as its authors published them: under the names of their code, the same in 2D and 3D."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import UserError
from pipeline.models.ddnet import DENSE_LAYERS, LEVELS, DDnet

_WRAPPER = "module."  # before each name, where DataParallel held the network


def published_network(path: Path) -> DDnet:
    """Build the 2D network with the authors' weights.

    ``path``: an ``.npz``, or a state dict of ``torch.save``, which may lie in a checkpoint.

    Raises:
        UserError: the file cannot be read, or holds other weights.
    """
    model = DDnet(2)
    try:
        load_published(model, _read_npz(path) if path.suffix == ".npz" else _read_state(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a broken file
        raise UserError(f"it is no readable .npz: {error}") from error


def _read_state(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the state dict of a file of ``torch.save``; nothing in the file is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise UserError(f"it is no readable file of torch.save: {str(error).splitlines()[0]}") from error
    candidates = [content, *content.values()] if isinstance(content, dict) else []
    state = next((candidate for candidate in candidates if _is_state(candidate)), None)
    if state is None:
        raise UserError("it holds no state dict, neither alone nor under a key such as model_state_dict")
    return {name.removeprefix(_WRAPPER): tensor.numpy() for name, tensor in state.items()}


def _is_state(content: object) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(x, Tensor) for x in content.values())


def load_published(model: DDnet, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Load weights that carry the names of the authors' code into the network.

    Raises:
        UserError: a name is missing or unknown, or an array has another shape.
    """
    state: dict[str, Tensor] = {}
    unknown = set(arrays)
    for module, published in _published_names().items():
        for name in model.get_submodule(module).state_dict():
            key = f"{published}.{name}"
            if key not in arrays:
                raise UserError(f"published weights lack {key}")
            unknown.discard(key)
            tensor = torch.from_numpy(np.array(arrays[key]))
            state[f"{module}.{name}"] = _to_convolution(tensor) if _is_transposed(published, name) else tensor
    if unknown:
        raise UserError(f"published weights hold {len(unknown)} unknown arrays, first {min(unknown)}")
    _check_shapes(state, model.state_dict())
    model.load_state_dict(state)


def _check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"published weights for {name} have shape {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}"
            )


def _is_transposed(published: str, name: str) -> bool:
    return published.startswith("convT") and name == "weight"


def _to_convolution(weight: Tensor) -> Tensor:
    """Turn a transposed convolution of stride 1 into the plain one that computes the same."""
    return weight.transpose(0, 1).flip(tuple(range(2, weight.dim()))).contiguous()


def _published_names() -> dict[str, str]:
    """Map our submodules to the authors' names for them."""
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
