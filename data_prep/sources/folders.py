"""A folder of DICOM series, whatever its layout."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data_prep.errors import UserError
from data_prep.log import describe_count, logger
from data_prep.progress import Progress
from data_prep.pseudonym import pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.images import DENOISED, SubjectRule
from data_prep.sources.series import Discovery, Exclusion, PassedOver, Series, stamp_of
from data_prep.sources.stacks import Stack, find_stacks, unknown_subject
from data_prep.sources.tree import log_passed_over

DENOISED_REASON = "denoised by this program, not a scanner's dose"
"""Why a scan is set aside that :mod:`jobs.stages.denoise` wrote below a source."""


def find_dicom(settings: SourceSettings, progress: Progress) -> Discovery:
    """List each CT series at or below ``settings.path``; what is no CT is set aside."""
    stacks, discovery = choose_stacks(settings, shown_id if settings.has_public_ids else hidden_id, progress)
    discovery.series.extend(dicom_series(settings.name, stack) for stack in stacks)
    return discovery


def choose_stacks(
    settings: SourceSettings, subject_of: SubjectRule, progress: Progress
) -> tuple[list[Stack], Discovery]:
    """Return the stacks of a source that its settings ask for, and a discovery of no series that lists all else.

    Raises:
        UserError: the folder is missing or holds no DICOM file.
    """
    rule_name = f"{settings.kind}, ids {'kept' if settings.has_public_ids else 'hidden'}"
    stacks, no_images = find_stacks(existing_path(settings), subject_of, rule_name, progress)
    check_not_empty(stacks, settings, "DICOM images")
    _warn_of_unknown_patients(settings, stacks)
    reasons = [(stack, _exclusion_reason(settings, stack)) for stack in stacks]
    exclusions = [exclude(settings.name, stack, reason) for stack, reason in reasons if reason]
    exclusions += [_exclude_copies(settings.name, stack) for stack in stacks if stack.copies]
    discovery = Discovery([], exclusions, passed_over(settings, no_images))
    return [stack for stack, reason in reasons if not reason], discovery


def _warn_of_unknown_patients(settings: SourceSettings, stacks: Sequence[Stack]) -> None:
    unknown = unknown_subject(existing_path(settings))
    count = sum(stack.subject == unknown and not stack.first.exclusion for stack in stacks)
    if count:
        logger.warning(
            f"{settings.name}: {describe_count(count, 'scan')} with neither PatientID nor StudyInstanceUID, taken "
            f"for one patient, {unknown}"
        )


def _exclude_copies(dataset: str, stack: Stack) -> Exclusion:
    reason, files = f"identical copies of images of {stack.scan}", tuple(stack.root / i.path for i in stack.copies)
    return Exclusion(dataset, stack.subject, f"{stack.scan}-copies", len(files), reason, files)


def _exclusion_reason(settings: SourceSettings, stack: Stack) -> str:
    """Why the settings do not ask for a stack, or an empty text if they do."""
    kernel, thickness = settings.kernel, settings.thickness_mm
    if stack.first.exclusion:
        return stack.first.exclusion
    if stack.first.dose == DENOISED:
        return DENOISED_REASON
    if stack.slices < 2:
        return "a single slice"
    if kernel and stack.kernel != kernel:
        return f"kernel {stack.kernel or 'unknown'}, wanted {kernel}"
    if thickness and abs(stack.thickness - thickness) > 0.01:
        actual = f"{stack.thickness:g} mm" if stack.thickness else "unknown"
        return f"thickness {actual}, wanted {thickness:g} mm"
    return ""


def exclude(dataset: str, stack: Stack, reason: str) -> Exclusion:
    """Return the exclusion of a stack for this reason."""
    return Exclusion(dataset, stack.subject, stack.scan, stack.slices, reason, stack.paths)


def dicom_series(dataset: str, stack: Stack, low: Stack | None = None) -> Series:
    """Return a stack as a series to prepare, with its measured low-dose partner if it has one."""
    images = [*stack.images, *(low.images if low else ())]
    fault = stack.fault or (low.fault if low else None)
    stamp = stamp_of((image.path, image.size, image.time) for image in images)
    paths, low_paths = (tuple(map(str, part.paths)) if part else () for part in (stack, low))
    studies = tuple(sorted({*stack.studies, *(low.studies if low else ())}))
    return Series(dataset, stack.subject, stack.scan, paths, "dicom", stamp, low_paths, fault, studies, stack.lacks_uid)


def hidden_id(patient: str, path: Path) -> str:
    """Return a pseudonym of PatientID, or an empty text where there is none: a folder is no patient."""
    return f"p-{pseudonym(patient)}" if patient else ""


def shown_id(patient: str, path: Path) -> str:
    """Return PatientID itself, or an empty text where there is none."""
    return patient


def public_id(pattern: str, patient: str, path: Path) -> str:
    """Return PatientID or a folder's name if it matches the pattern of the data set's public ids; else a pseudonym."""
    public = next((name for name in (patient, *path.parts) if re.fullmatch(pattern, name)), "")
    return public or hidden_id(patient, path)


def subject_rule(settings: SourceSettings, pattern: str) -> SubjectRule:
    """Return the rule that shows ids which match ``pattern``, or that hides all if the settings say so."""
    return partial(public_id, pattern) if settings.has_public_ids else hidden_id


def existing_path(settings: SourceSettings) -> Path:
    """Return the source's folder or file.

    Raises:
        UserError: it does not exist.
    """
    assert settings.path is not None  # the settings refuse a source of files without one
    if not settings.path.exists():
        raise UserError(f"data.sources: path {settings.path} of the {settings.kind} source does not exist")
    return settings.path


def passed_over(settings: SourceSettings, counts: Mapping[str, int]) -> list[PassedOver]:
    """Return the files of a source that are no images, if there are any; ``counts``: their number by the reason."""
    counts = {reason: count for reason, count in counts.items() if count}
    log_passed_over(existing_path(settings), counts)
    return [PassedOver(settings.name, counts)] if counts else []


def check_not_empty(matches: Sequence[object], settings: SourceSettings, content: str) -> None:
    """Refuse a source that holds none of the ``content`` that it was searched for.

    Raises:
        UserError: there are no matches.
    """
    if not matches:
        raise UserError(f"data.sources: {settings.path} holds no {content}")
