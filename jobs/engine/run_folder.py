"""The folder of a run, which holds everything that the run reads and writes but the scans."""

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
        """Return the folder that the settings name, whether it exists or not."""
        return cls((settings.runs / settings.name).absolute(), settings)

    @classmethod
    def opened(cls, root: Path) -> "RunFolder":
        """Open an existing run folder, with the settings of its last run.

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
        """Folder of the Zarr pairs, ``manifest.csv`` and ``split.json``."""
        return self.root / "data"

    @property
    def report(self) -> Path:
        """Folder of the report: CSV files, figures and ``index.html``."""
        return self.root / "report"

    @property
    def model(self) -> Path:
        """File of the run's best network; its card lies in the same folder."""
        return self.root / "model.safetensors"

    def cell(self, cell: str) -> Path:
        """Return the folder of one training."""
        return self.root / "cells" / cell

    def evaluation(self, cell: str) -> Path:
        """Return the path of the judged slices of one network, without file ending."""
        return self.root / "evaluation" / cell

    def donor(self, fill: str) -> Path:
        """Return the file of 3D weights that were transferred from a 2D network."""
        return self.root / "transfer" / f"{fill}.pt"


def resolved_yaml(settings: RunSettings) -> str:
    """Write the whole settings tree as YAML text."""
    values: dict[str, Any] = settings.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False)
