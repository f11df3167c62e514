"""LIDC-IDRI (Armato et al. 2011, doi:10.7937/K9/TCIA.2015.LO9QL9SX): one CT series of each patient.

Headers alone decide: folders may be named by UID or by the retriever. Of a patient's CT series the one with the most
slices is taken; among equals the one with the thinnest slices, then the first by its pseudonym. Series that tell no
patient are all taken, as they may be of several.
"""

import math

from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.folders import choose_stacks, dicom_series, exclude, existing_path, subject_rule
from data_prep.sources.series import Discovery
from data_prep.sources.stacks import Stack, unknown_subject

PUBLIC_ID = r"LIDC-IDRI-\d{4}"


def find_lidc(settings: SourceSettings, progress: Progress) -> Discovery:
    """List one CT series of each patient; the patient's other series and X-rays are set aside."""
    stacks, discovery = choose_stacks(settings, subject_rule(settings, PUBLIC_ID), progress)
    stacks.sort(key=_order)
    unknown = unknown_subject(existing_path(settings))
    best = {stack.subject: stack for stack in reversed(stacks) if stack.subject != unknown}
    surplus = [stack for stack in stacks if stack is not best.get(stack.subject, stack)]
    discovery.exclusions.extend(
        exclude(settings.name, s, f"the patient's {best[s.subject].scan} was taken") for s in surplus
    )
    chosen = [*best.values(), *(stack for stack in stacks if stack.subject == unknown)]
    discovery.series.extend(dicom_series(settings.name, stack) for stack in chosen)
    return discovery


def _order(stack: Stack) -> tuple[int, float, str]:
    return -stack.slices, stack.thickness or math.inf, stack.scan  # a thickness of 0 is unknown
