"""The folder of a run, which holds everything that the run reads and writes but the scans."""

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from data_prep.errors import UserError
from data_prep.files import remove_leftovers, write_atomic, write_json
from data_prep.ledger import FILE as LEDGER
from data_prep.ledger import LOCK as LEDGER_LOCK
from data_prep.ledger import Ledger
from data_prep.log import logger
from data_prep.outputs import check_apart
from data_prep.ownership import apply_umask, check_unshared
from data_prep.settings_file import load_settings
from pipeline.settings.run import RunSettings

LOCK = ".lock"
"""Name of the file that the process which works in a run folder holds locked."""
_OF_A_START = re.compile(rf"{re.escape(LOCK)}|{re.escape(LEDGER_LOCK)}|\.{re.escape(LEDGER)}\.[0-9a-f]{{32}}\.tmp")
"""Files that another process, which is just starting here, may have written so far."""
_SETTINGS_FILES = ("config.yaml", "provenance.json")
_MODEL_FILES = ("model.safetensors", "model-card.md")
_UMASKS = {"none": 0o077, "group": 0o027}
"""What others may not do with files of the run, by the setting ``share``."""
_REMEDY = "choose another `runs` in the settings, or `share: group` if you trust owners and groups of the folders above"
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
            UserError: there is no run in ``root``, its settings were changed since, or users beside its owner can
                change it.
        """
        if not (root / "config.yaml").is_file():
            raise UserError(f"{root} is no run folder: it has no config.yaml")
        if Ledger(root).exists() and Ledger(root).first_stranger(["config.yaml"]):
            raise UserError(
                f"{root / 'config.yaml'} was cut or changed after the run wrote it: move it, and run your own settings "
                "file again, which writes it anew"
            )
        settings = load_settings(root / "config.yaml", RunSettings)
        _check_unshared(root, settings, owner=root.stat().st_uid)
        return cls(root.absolute(), settings)

    def secure(self) -> None:
        """Let nobody else change the folder, nor read what this process writes from here on, but as ``share`` says.

        Raises:
            UserError: someone else can change it.
        """
        _check_unshared(self.root, self.settings)
        umask = _UMASKS[self.settings.share]
        os.umask(umask)
        if apply_umask(self.root, umask):
            logger.info(f"{self.root}: its modes are now what `share: {self.settings.share}` says")

    def record(self) -> None:
        """Write ``config.yaml`` (the resolved settings) and ``provenance.json``."""
        versions = {name: version(name) for name in _RECORDED}
        machine = {"python": sys.version.split()[0], "machine": platform.machine(), "system": platform.system()}
        remove_leftovers(self.root, "|".join(map(re.escape, (*_SETTINGS_FILES, LEDGER))))
        with self.recording_settings():
            write_atomic(self.root / "config.yaml", resolved_yaml(self.settings))
            write_json(self.root / "provenance.json", {"versions": versions, **machine})

    def is_recorded(self) -> bool:
        """Return whether settings and versions of a run are here; a user may have moved them away."""
        return all((self.root / name).is_file() for name in _SETTINGS_FILES)

    def recording_settings(self) -> AbstractContextManager[None]:
        """Record that the block writes settings and versions."""
        return Ledger(self.root).recording(_SETTINGS_FILES)

    def recording_model(self) -> AbstractContextManager[None]:
        """Record that the block writes the run's network and its card."""
        return Ledger(self.root).recording(_MODEL_FILES)

    def check(self, written: Mapping[Path, Sequence[str]], *, adopts: bool = True) -> None:
        """Check that this folder may be written: it is the run's, and apart from all sources.

        ``written``: patterns of the files that are replaced in further folders of the run. ``adopts``: whether the
        files of a version that kept no ledger are recorded as the program's; else they are only taken as such.

        Raises:
            UserError: it is not, someone else can change it, or files that would be replaced were not written by the
                program.
        """
        _check_unshared(self.root, self.settings)
        check_apart(self.root, [source.path for source in self.settings.data.sources if source.path])
        folders = {self.root: (*_SETTINGS_FILES, *_MODEL_FILES), **written}
        if not Ledger(self.root).exists() and self._is_of_earlier_version():
            if not adopts:
                return
            for folder in filter(Path.is_dir, folders):
                with Ledger(folder).recording(folders[folder]):
                    pass
        if not Ledger(self.root).exists() and (strangers := self._strangers()):
            raise UserError(f"{self.root} is no run folder, and holds {strangers[0]}: move it, or choose another name")
        for folder, patterns in folders.items():
            Ledger(folder).check(patterns)

    def _is_of_earlier_version(self) -> bool:
        """Return whether a version that kept no ledger made this run folder."""
        try:
            provenance = json.loads((self.root / "provenance.json").read_bytes())
            return "quarterdose" in provenance["versions"]
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def _strangers(self) -> list[str]:
        """List what lies in a folder that the program has not yet written to, but for a lock and empty folders.

        An empty folder may be a disk that the user mounted for the data.
        """
        if os.path.lexists(self.root) and not self.root.is_dir():
            return [f"{self.root.name}, a file"]
        entries = [path for path in self.root.glob("*") if not _OF_A_START.fullmatch(path.name)]
        return sorted(path.name for path in entries if not path.is_dir() or any(path.iterdir()))

    @property
    def data(self) -> Path:
        """Folder of the Zarr pairs, ``manifest.csv`` and ``split.json``."""
        return self.root / "data"

    @property
    def report(self) -> Path:
        """Folder of the report: CSV files, figures and ``index.html``."""
        return self.root / "report"

    @property
    def quality(self) -> Path:
        """Folder of the tables and figures of quality alone, which ``evaluate`` writes."""
        return self.root / "quality"

    @property
    def search(self) -> Path:
        """Folder of a search: its trials, tables, figures and the settings that it found."""
        return self.root / "search"

    @property
    def has_search(self) -> bool:
        """Whether a search was started, and the settings still have it: those that it found do not."""
        return self.settings.search is not None and self.search.exists()

    @property
    def model(self) -> Path:
        """File of the run's best network; its card lies in the same folder."""
        return self.root / "model.safetensors"

    def cell(self, cell: str) -> Path:
        """Return the folder of one training."""
        return self.root / "cells" / cell

    def trial(self, trial: str) -> Path:
        """Return the folder of one trial of the search."""
        return self.search / "trials" / trial

    def evaluation(self, cell: str) -> Path:
        """Return the path of the judged slices of one network, without file ending."""
        return self.root / "evaluation" / cell

    def transferred(self, item: str) -> Path:
        """Return the file of 3D weights that an item of the transfer made of a 2D network's."""
        return self.root / "transfer" / f"{item}.pt"


def _check_unshared(root: Path, settings: RunSettings, owner: int | None = None) -> None:
    """Check a run folder, and the folders elsewhere to which links in it lead, such as one on a larger disk."""
    for folder in (root, *(path for path in root.glob("*") if path.is_symlink())):
        check_unshared(folder, _REMEDY, owner, trusts_group=settings.share == "group")


def resolved_yaml(settings: RunSettings) -> str:
    """Write the whole settings tree as YAML text."""
    return yaml.safe_dump(settings.to_values(), sort_keys=False)
