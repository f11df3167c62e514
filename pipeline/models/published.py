"""DDnet weights as its authors published them: under their own key names, the same in 2D and 3D."""

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
    """The 2D network with the authors' weights: an ``.npz`` or a state dict of ``torch.save``, maybe in a checkpoint.

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
    """Nothing in the file is executed."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise UserError(f"it is no readable file of torch.save: {str(error).splitlines()[0]}") from error
    places = [found, *found.values()] if isinstance(found, dict) else []
    state = next((place for place in places if _is_state(place)), None)
    if state is None:
        raise UserError("it holds no state dict, neither alone nor under a key such as model_state_dict")
    return {name.removeprefix(_WRAPPER): value.numpy() for name, value in state.items()}


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def load_published(model: DDnet, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Load weights under the key names of the authors' code.

    Raises:
        UserError: a key is missing or unknown, or an array has another shape.
    """
    state: dict[str, Tensor] = {}
    unknown = set(arrays)
    for own, published in _published_names().items():
        for name in model.get_submodule(own).state_dict():
            key = f"{published}.{name}"
            if key not in arrays:
                raise UserError(f"published weights lack {key}")
            unknown.discard(key)
            value = torch.from_numpy(np.array(arrays[key]))
            state[f"{own}.{name}"] = _as_convolution(value) if _is_transposed(published, name) else value
    if unknown:
        raise UserError(f"published weights hold {len(unknown)} unknown arrays, first {min(unknown)}")
    for name, value in model.state_dict().items():
        if state[name].shape != value.shape:
            raise UserError(
                f"published weights for {name} have shape {tuple(state[name].shape)}, wanted {tuple(value.shape)}"
            )
    model.load_state_dict(state)


def _is_transposed(published: str, name: str) -> bool:
    return published.startswith("convT") and name == "weight"


def _as_convolution(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).flip(tuple(range(2, weight.dim()))).contiguous()


def _published_names() -> dict[str, str]:
    """Own submodule to the authors' name for it."""
    names = {"norm": "batch1", "stem": "conv1"}
    for i in range(LEVELS):
        for j in range(DENSE_LAYERS):
            for step, number in (("squeeze", 1), ("grow", 2)):
                own = f"down.{i}.dense.{j}.{step}"
                names[f"{own}.norm"] = f"dnet{i + 1}.batch_norm{number}_{j}"
                names[f"{own}.conv"] = f"dnet{i + 1}.conv{number}_{j}"
        names[f"down.{i}.transition.norm"] = f"batch{i + 2}"
        names[f"down.{i}.transition.conv"] = f"conv{i + 2}"
        for step, number in (("mix", 2 * i + 1), ("reduce", 2 * i + 2)):
            names[f"up.{i}.{step}.norm"] = f"batch{number + LEVELS + 1}"
            names[f"up.{i}.{step}.conv"] = f"convT{number}"
    return names
