"""The CT series at or below a path, of which a user chooses one or all; single images beside them are no scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import ScanError, UserError
from data_prep.pseudonym import file_pseudonym, pseudonym
from data_prep.readers.dicom_header import read_header
from data_prep.sources.copies import FileLabel
from data_prep.sources.folders import hidden_id
from data_prep.sources.images import DENOISED
from data_prep.sources.stacks import Stack, find_stacks
from data_prep.sources.tree import log_passed_over

ALL = "all"
"""Chooses every series."""


@dataclass(frozen=True)
class Choice:
    """The chosen stacks of a folder; ``images_aside``: how many images are of no CT scan, or of a denoised one."""

    stacks: list[Stack]
    images_aside: int

    @property
    def copies(self) -> int:
        """Number of further files with images of the stacks."""
        return sum(len(stack.copies) for stack in self.stacks)

    @property
    def is_denoised(self) -> bool:
        """Whether this program wrote a stack; there is no other one then."""
        return any(stack.first.dose == DENOISED for stack in self.stacks)


def choose_series(folder: Path, choice: str, min_slices: int, *, shows_uids: bool = True) -> Choice:
    """Choose of the CT series at or below ``folder``.

    Args:
        folder: where DICOM files lie.
        choice: number of a series, its SeriesInstanceUID, :data:`ALL`, or an empty text for the only one.
        min_slices: smaller series are no scans, unless nothing else is there; nor are those that were denoised.
        shows_uids: whether messages may name files and SeriesInstanceUIDs.

    Raises:
        UserError: there is no series, no such one, or several of which none was chosen.
    """
    label: FileLabel = str if shows_uids else file_pseudonym
    stacks, no_images = find_stacks(folder, hidden_id, "denoise, ids hidden", label=label)
    log_passed_over(folder, no_images)
    stacks.sort(key=lambda stack: min(stack.paths))
    series = [stack for stack in stacks if not stack.first.exclusion]
    series = [stack for stack in series if stack.slices >= min_slices] or series
    series = [stack for stack in series if stack.first.dose != DENOISED] or series
    if not series:
        raise ScanError(f"holds no CT series: {', '.join(_reasons(stacks, label)) or 'no file is a DICOM image'}")
    images = sum(len(stack.images) for stack in stacks) - sum(len(stack.images) for stack in series)
    return Choice(_chosen(series, choice, shows_uids), images)


def _reasons(stacks: Sequence[Stack], label: FileLabel) -> list[str]:
    """Return why stacks are set aside, each reason once; a file that cannot be read is named."""
    firsts = {stack.first.exclusion: stack.first for stack in reversed(stacks)}
    return sorted(
        f"file {label(image.path)}: {image.fault}" if image.fault else reason for reason, image in firsts.items()
    )


def _chosen(series: Sequence[Stack], choice: str, shows_uids: bool) -> list[Stack]:
    chosen = [stack for number, stack in enumerate(series, start=1) if _fits(stack, number, choice)]
    if len(chosen) == 1 or (chosen and choice == ALL):
        return chosen
    listed = "; ".join(_describe(stack, number, shows_uids) for number, stack in enumerate(series, start=1))
    if not choice:
        raise ScanError(f"holds {len(series)} CT series, wanted one: choose by --series NUMBER, UID or all: {listed}")
    if chosen:
        raise UserError(f"--series {choice} fits {len(chosen)} of them, choose by number: {listed}")
    raise UserError(f"--series {choice} is not there, but {listed}")


def _fits(stack: Stack, number: int, choice: str) -> bool:
    """Return whether a stack is chosen: its UID is kept as a pseudonym alone."""
    return choice in ("", ALL, str(number)) or pseudonym(choice) == stack.first.series


def _describe(stack: Stack, number: int, shows_uids: bool) -> str:
    """Describe a series by its number and what cannot name a patient, and by its UID if that may be shown."""
    thickness, kernel = stack.thickness, stack.kernel
    texts = [f"{stack.slices} slices", f"{thickness:g} mm" if thickness else "", f"kernel {kernel}" if kernel else ""]
    uid = read_header(stack.paths[0]).series if shows_uids else ""
    return f"{number}: {', '.join(filter(None, [*texts, uid]))}"
