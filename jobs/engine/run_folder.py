"""The folder of a run: everything that is known about it lies there."""

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from data_prep.files import write_atomic, write_json
from data_prep.settings_file import load_settings
from pipeline.settings.run import RunSettings

_RECORDED = ("quarterdose", "torch", "zarr", "numcodecs", "numpy", "submitit")


@dataclass(frozen=True)
class RunFolder:
    """Paths below ``root``, and the run's settings."""

    root: Path
    settings: RunSettings

    @classmethod
    def of(cls, settings: RunSettings) -> "RunFolder":
        """The folder that the settings name."""
        return cls((settings.runs / settings.name).absolute(), settings)

    @classmethod
    def opened(cls, root: Path) -> "RunFolder":
        """An existing run folder, with the settings it was last run with.

        Raises:
            UserError: there is no run in ``root``.
        """
        if not (root / "config.yaml").is_file():
            raise UserError(f"{root} is no run folder: it has no config.yaml")
        return cls(root.absolute(), load_settings(root / "config.yaml", RunSettings))

    def record(self) -> None:
        """Write ``config.yaml`` (the resolved settings) and ``provenance.json``."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomic(self.root / "config.yaml", resolved_yaml(self.settings))
        versions = {name: version(name) for name in _RECORDED}
        machine = {"python": sys.version.split()[0], "machine": platform.machine(), "system": platform.system()}
        write_json(self.root / "provenance.json", {"versions": versions, **machine})

    @property
    def data(self) -> Path:
        """Zarr pairs, ``manifest.csv`` and ``split.json``."""
        return self.root / "data"

    @property
    def report(self) -> Path:
        """CSV files, figures and ``index.html``."""
        return self.root / "report"

    @property
    def model(self) -> Path:
        """The run's best network, with its card beside."""
        return self.root / "model.safetensors"

    def cell(self, cell: str) -> Path:
        """One training."""
        return self.root / "cells" / cell

    def evaluation(self, cell: str) -> Path:
        """Judged slices of one network, without file ending."""
        return self.root / "evaluation" / cell

    def donor(self, fill: str) -> Path:
        """3D weights made from a 2D network's."""
        return self.root / "transfer" / f"{fill}.pt"


def resolved_yaml(settings: RunSettings) -> str:
    """The whole settings tree as YAML."""
    values: dict[str, Any] = settings.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False)
