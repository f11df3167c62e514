"""Where a command may write: never onto, into or around an input, and over nothing that the program did not write."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import Declare, digest_plain_file, write_json

_FILES, _REPLACED = "files", "replaced_files"


def check_apart(target: Path, inputs: Iterable[Path]) -> None:
    """Check that writing ``target``, a file or a folder, leaves the inputs as they are; links are followed.

    Raises:
        UserError: the target is an input, lies inside one, or holds one.
    """
    above = _identities(target)
    for path in filter(_can_be_looked_at, inputs):
        relation = _relation(target, path, above)
        if relation:
            raise UserError(f"nothing is written: the output {target} {relation} the input {path}")


def _can_be_looked_at(path: Path) -> bool:
    """Whether a path exists, in a folder that may be searched: else nothing can be written there either."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _relation(target: Path, path: Path, above: Iterable[tuple[int, int]]) -> str:
    if target.exists() and _identity(target) in _identities(path):
        return "is" if target.samefile(path) else "holds"
    return "lies inside" if _identity(path) in above else ""


def _identities(path: Path) -> set[tuple[int, int]]:
    """Return device and inode of a path and of the folders above it, as far as they exist."""
    real = Path(os.path.realpath(path))  # Path.resolve raises where links lead in a circle
    return {_identity(folder) for folder in (real, *real.parents) if folder.exists()}


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def input_folders(scan: Path) -> list[Path]:
    """List a path and the linked folders below it: writing into one of them writes into the input."""
    walk = os.walk(scan) if os.path.isdir(scan) else ()  # Path.is_dir raises where the folder above is closed
    folders = (Path(parent, name) for parent, names, _ in walk for name in names)
    return [scan, *(folder for folder in folders if folder.is_symlink())]


@dataclass(frozen=True)
class Output:
    """A file or folder at ``path`` with its record ``NAME.json`` beside it, by which the program knows what it wrote.

    The record is a recipe (plain values that say how the output was computed) and the SHA-256 of each file.
    """

    path: Path

    @property
    def record_file(self) -> Path:
        """File of the record."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def lock_file(self) -> Path:
        """File that is locked while the output is written."""
        return self.path.with_name(f".{self.path.name}.lock")

    def record(self) -> dict[str, Any]:
        """Read the record; it is empty where there is none.

        Raises:
            UserError: the file of this name is no record, or the output has none: the program did not write it.
        """
        if not os.path.lexists(self.record_file):
            if os.path.lexists(self.path):
                raise _foreign(self.path)
            return {}
        try:
            content = json.loads(self.record_file.read_bytes())
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict) or not {"quarterdose", "source_sha256"} <= content.keys():
            raise _foreign(self.record_file)
        return content

    def is_complete(self, recipe: Mapping[str, Any]) -> bool:
        """Return whether the output was computed by this recipe, and each file is there as it was written."""
        record = self.record()
        if {**record, **recipe} != record or not self.path.exists():
            return False
        files: dict[str, str] = record.get(_FILES, {})
        return files.items() <= digests_below(self.path).items()

    def check_replaceable(self) -> None:
        """Check that the output is absent, or holds nothing but files that the program wrote.

        Raises:
            UserError: a file was added or changed, or is a link.
        """
        record = self.record()
        if not os.path.lexists(self.path):
            return
        recorded = [{*record.get(key, {}).items()} for key in (_FILES, _REPLACED)]
        if self.path.is_symlink():
            raise _foreign(self.path)
        for name, digest in digests_below(self.path).items():
            if not any((name, digest) in files for files in recorded):
                raise UserError(
                    f"{self.path / name if name else self.path} was added or changed after {self.path} was written, "
                    "and nothing of yours is replaced: move it, or choose another folder"
                )

    @contextmanager
    def recording(self, recipe: Mapping[str, Any]) -> Iterator[Declare]:
        """Yield what declares the files that were written; the record names them just before they appear.

        A record also names the files that are being replaced, until they are: whenever the program is killed, it
        knows both.
        """
        replaced = self.record().get(_FILES, {}) if self.path.exists() else {}
        files = dict[str, str]()

        def declare(temporary: Path) -> None:
            files.update(digests_below(temporary))
            write_json(self.record_file, {**recipe, _FILES: files, **({_REPLACED: replaced} if replaced else {})})

        yield declare
        if replaced:
            write_json(self.record_file, {**recipe, _FILES: files})


def digests_below(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder by its path in it, or of a file under an empty name.

    Links and empty folders, which the program does not write, have an empty digest.
    """
    if not path.is_dir():
        return {"": digest_plain_file(path)}
    entries = sorted(path.rglob("*"))
    parents = {entry.parent for entry in entries}
    return {entry.relative_to(path).as_posix(): digest_plain_file(entry) for entry in entries if entry not in parents}


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path} was not written by this command, and nothing of yours is replaced: move it, or choose another folder"
    )
