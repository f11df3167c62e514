"""DDnet weights as its authors published them: under their own key names, the same in 2D and 3D."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import UserError
from pipeline.models.ddnet import DENSE_LAYERS, LEVELS, DDnet


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
