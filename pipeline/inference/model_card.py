"""The model card: a page of Markdown beside the model file that a person reads before using the model."""

import hashlib
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from data_prep.errors import UserError
from data_prep.files import is_plain_file, write_atomic
from pipeline.inference.model_file import check_model_file, save_model
from pipeline.inference.trained_noise import as_text
from pipeline.quality.measures import slice_measures
from pipeline.settings.architectures import architecture_of
from pipeline.settings.cells import CellSettings
from pipeline.settings.names import LOW_DOSE_INPUT

_SEAL = "\n<!-- SHA-256 of the text above: "
_NO_DIAGNOSIS = "Research only: **not for diagnosis**."
_JUDGED = """\
It was judged by errors against the full dose, not by what a reader finds in the
images; a network that lowers the error can smooth small structures away or invent them. Scanners, kernels, slice
thicknesses, doses and bodies other than those above are untried."""
_NOT_JUDGED = """\
This program neither trained nor judged it: on which scanners, kernels, slice
thicknesses, doses and bodies it does well is not known here. Any such network can smooth small structures away or
invent them."""
_SAME_PATIENTS = """\
Fewer than three patients: the held-out slices are other slices of the patients that it was trained on. How it does on
other patients is not known.
"""
_RANGE = "Values outside of -1024 to 3072 HU (metal, padding) pass through untouched."


def write_model(path: Path, network: nn.Module, cell: CellSettings, provenance: Mapping[str, Any]) -> str:
    """Write the model file and its card (``model-card.md`` for ``model.safetensors``); return the digest.

    ``provenance``: plain values. ``metrics`` in it holds mean errors by the denoiser's name: of the low-dose input, of
    total variation and of the network; ``verdict``: sentences on which of them wins; ``noise``: that of the training's
    low dose. All else is listed as it is.
    """
    digest = save_model(path, network, cell, provenance)
    write_atomic(card_of(path), seal(_card(network, cell, provenance, digest)))
    return digest


def card_of(path: Path) -> Path:
    """Return the path of a model file's card."""
    return path.with_name(f"{path.stem}-card.md")


def seal(card: str) -> str:
    """End a card with its own SHA-256, by which it is known that nobody changed it."""
    return f"{card}{_SEAL}{hashlib.sha256(card.encode()).hexdigest()} -->\n"


def check_model_replaceable(path: Path) -> None:
    """Check that model file and card are absent, or as this program wrote them.

    Raises:
        UserError: they are not, or are of another kind.
    """
    if os.path.lexists(path):
        _check_model(path)
    card = card_of(path)
    if not os.path.lexists(card):
        return
    content = card.read_bytes().decode(errors="replace") if is_plain_file(card) else ""
    if not content or seal(content.rpartition(_SEAL)[0]) != content:
        raise _foreign(card)


def _check_model(path: Path) -> None:
    try:
        check_model_file(path)
    except UserError as error:
        raise _foreign(path) from error
    if path.is_symlink():
        raise _foreign(path)


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} was not written by quarterdose, or was changed later: move it, or choose another --to")


def _card(network: nn.Module, cell: CellSettings, provenance: Mapping[str, Any], digest: str) -> str:
    facts = {
        **_architecture(network, cell),
        "SHA-256": f"`{digest}`",
        **{key: value for key, value in provenance.items() if key not in ("metrics", "verdict", "convolutions")},
        **({"noise": as_text(provenance["noise"])} if "noise" in provenance else {}),
    }
    parts = [f"# Model card: {cell.id}", *(f"* **{key}**: {_text(value)}" for key, value in facts.items())]
    parts += ["", "## Held-out error", "", *_judgement(provenance)]
    return "\n".join([*parts, "", "## Limits", "", _limits(provenance), ""])


def _judgement(provenance: Mapping[str, Any]) -> list[str]:
    """Say who wins, then show the errors of all that were compared."""
    metrics = provenance.get("metrics")
    if not metrics:
        return ["Not judged: weights of others."]
    is_known = provenance.get("split", {}).get("by") == "slabs"
    sentences = [*([_SAME_PATIENTS] if is_known else []), *(f"{_text(x)}\n" for x in provenance.get("verdict", ()))]
    return [*sentences, *_table(metrics)]


def _limits(provenance: Mapping[str, Any]) -> str:
    return f"{_NO_DIAGNOSIS} {_JUDGED if provenance.get('metrics') else _NOT_JUDGED}\n{_RANGE}"


def _architecture(network: nn.Module, cell: CellSettings) -> dict[str, str]:
    training, architecture = cell.training, architecture_of(cell.model)
    description = [
        architecture.title_in(cell.dims),
        *(f"{option} {_text(size)}" for option, size in cell.options.items()),
        f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters",
        *([f"norm {training.norm}"] if architecture.has_norms else []),
        "predicts the correction" if training.residual else "predicts the image",
    ]
    takes = "one slice" if cell.dims == 2 else f"{cell.slices} slices, {cell.sampling}"
    return {
        "network": ", ".join(description),
        "takes": f"{takes}; intensities scaled by `{training.scaling}`{'; the dose' if training.tell_dose else ''}",
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return html.escape(str(value), quote=False)


def _table(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Show the low-dose input first, and no measure that is newer than the judgement."""
    rows = {LOW_DOSE_INPUT: metrics[LOW_DOSE_INPUT], **metrics}
    measures = [measure for measure in slice_measures("card") if measure.name in metrics[LOW_DOSE_INPUT]]
    head = [f"| {' | '.join(['model', *(measure.title for measure in measures)])} |",
            f"| --- |{' ---: |' * len(measures)}"]  # fmt: skip
    return head + [
        f"| {' | '.join([name, *(f'{row[measure.name]:.{measure.digits}}' for measure in measures)])} |"
        for name, row in rows.items()
    ]
