"""A trained network as one file of safetensors: its weights, its settings and its provenance.

Nothing in the file is executed. The header's key ``quarterdose`` holds a description in JSON: the number of the
format, the cell (architecture, intensity scaling, slices and their sampling), the provenance, and a SHA-256 of all of
these and the weights.
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
from safetensors.torch import save
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.files import digest_json, write_atomic
from pipeline.models import build_network
from pipeline.settings.cells import CellSettings

FORMAT = 2
"""1 was the same, of networks whose group norm took its first layer's statistics from the sample."""
_KEY = "quarterdose"


@dataclass(frozen=True)
class Model:
    """A network in eval mode on the CPU, as a model file holds it.

    ``digest``: SHA-256 of the weights and the description, hexadecimal.
    """

    network: nn.Module
    cell: CellSettings
    provenance: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """The cell's id and the first digits of the digest, which tell models of the same cell apart."""
        return f"{self.cell.id} {self.digest[:12]}"


def save_model(path: Path, network: nn.Module, cell: CellSettings, provenance: Mapping[str, Any]) -> str:
    """Write the file, whole or not at all; return its digest. ``provenance``: must be JSON."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    description = {
        "format": FORMAT, "cell": cell.model_dump(mode="json"),
        "provenance": {**provenance, "quarterdose": version("quarterdose")},
    }  # fmt: skip
    digest = _digest(state, description)
    metadata = {_KEY: json.dumps({**description, "sha256": digest}, sort_keys=True)}
    write_atomic(path, save(state, metadata))  # save_file has no OSError of a full disk, and no mode by the umask
    return digest


def load_model(path: Path) -> Model:
    """Read a file that :func:`save_model` wrote.

    Raises:
        UserError: it is no model file, is damaged, or is of a version that this one cannot read.
    """
    state, description = _read(path)
    if description.get("format") != FORMAT:
        raise UserError(f"{path} is a model file of format {description.get('format')}, {_other_format(description)}")
    digest = _verify(path, state, description)
    try:
        return _build(state, description, digest)
    except (ValidationError, RuntimeError) as error:
        writer = description["provenance"]["quarterdose"]
        raise UserError(
            f"{path} holds a network of quarterdose {writer} that this one, {version('quarterdose')}, cannot build: "
            "train it again"
        ) from error


def check_model_file(path: Path) -> None:
    """Check that :func:`save_model` wrote the file, in this format or an earlier one, and nobody changed it.

    Raises:
        UserError: it is no model file, or is damaged.
    """
    _verify(path, *_read(path))


def _verify(path: Path, state: Mapping[str, Tensor], description: dict[str, Any]) -> str:
    """Take the digest out of the description and return it; raise UserError if it is another."""
    digest = str(description.pop("sha256", ""))
    if digest != _digest(state, description):
        raise UserError(f"{path} does not hold what was written: its SHA-256 differs")
    return digest


def _other_format(description: Mapping[str, Any]) -> str:
    """Say what to do with a file of another format."""
    if description.get("format") == 1:
        return (
            f"and since format {FORMAT} group norm's first layer is another: train the network again, or import its "
            "weights again (import-model --overwrite)"
        )
    writer = description.get("provenance", {}).get("quarterdose", "that wrote it")
    return f"this quarterdose reads format {FORMAT}: take quarterdose {writer}"


def _build(state: Mapping[str, Tensor], description: Mapping[str, Any], digest: str) -> Model:
    cell = CellSettings.model_validate(description["cell"])
    network = build_network(cell)
    network.load_state_dict(state)
    return Model(network.eval(), cell, description["provenance"], digest)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file")
    path.open("rb").close()  # safetensors says of each file that it may not read that it does not exist
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {}).get(_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no readable file of safetensors: {error}") from error
    if not isinstance(description, dict):
        raise UserError(f"{path} is no model file of quarterdose: its header lacks the key {_KEY}")
    return state, description


def _digest(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    total = hashlib.sha256(digest_json(description).encode())
    for name in sorted(state):
        is_short = state[name].is_floating_point() and state[name].itemsize < 4
        weights = (state[name].float() if is_short else state[name]).numpy()  # which has no bfloat16
        total.update(f"{name} {weights.dtype.str} {weights.shape}".encode())
        total.update(weights.tobytes())
    return total.hexdigest()
