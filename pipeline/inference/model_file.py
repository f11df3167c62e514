"""A trained network as one file of safetensors: weights, how to build it, and where it comes from.

Nothing in it is executed. The header's key ``quarterdose`` holds the description as JSON: the format's
number, the cell (architecture, intensity scaling, slices and how they are chosen), provenance, and a SHA-256
over all of that and the weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.files import digest_json, replacing
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings

FORMAT = 1
_KEY = "quarterdose"


@dataclass(frozen=True)
class Model:
    """A network in eval mode on the CPU; ``digest``: of the file's weights and description, hexadecimal."""

    network: nn.Module
    cell: CellSettings
    provenance: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The cell's id and enough of the digest to tell models apart."""
        return f"{self.cell.id} {self.digest[:12]}"


def save_model(path: Path, network: nn.Module, cell: CellSettings, provenance: Mapping[str, Any]) -> str:
    """Write the file, whole or not at all; return its digest. ``provenance``: plain values of JSON."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    described = {
        "format": FORMAT, "cell": cell.model_dump(mode="json"),
        "provenance": {**provenance, "quarterdose": version("quarterdose")},
    }  # fmt: skip
    digest = _digest(state, described)
    with replacing(path) as temporary:
        save_file(state, temporary, {_KEY: json.dumps({**described, "sha256": digest}, sort_keys=True)})
    return digest


def load_model(path: Path) -> Model:
    """Read a file of :func:`save_model`.

    Raises:
        UserError: it is none, is damaged, or is of a version that this one cannot read.
    """
    state, described = _read(path)
    if described.get("format") != FORMAT:
        raise UserError(
            f"{path} is a model file of format {described.get('format')}, this quarterdose reads format {FORMAT}: "
            f"take quarterdose {described.get('provenance', {}).get('quarterdose', 'that wrote it')}"
        )
    digest = described.pop("sha256", "")
    if digest != _digest(state, described):
        raise UserError(f"{path} does not hold what was written: its SHA-256 differs")
    try:
        cell = CellSettings.model_validate(described["cell"])
        network = build_network(cell)
        network.load_state_dict(state)
    except (ValidationError, RuntimeError) as error:
        wrote = described["provenance"]["quarterdose"]
        raise UserError(
            f"{path} holds a network of quarterdose {wrote} that this one, {version('quarterdose')}, cannot build"
        ) from error
    return Model(network.eval(), cell, described["provenance"], digest)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file")
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no readable file of safetensors: {error}") from error
    if not isinstance(described, dict):
        raise UserError(f"{path} is no model file of quarterdose: its header lacks the key {_KEY}")
    return state, described


def _digest(state: Mapping[str, Tensor], described: Mapping[str, Any]) -> str:
    total = hashlib.sha256(digest_json(described).encode())
    for name in sorted(state):
        value = state[name].numpy()
        total.update(f"{name} {value.dtype.str} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()
