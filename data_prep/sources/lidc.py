"""LIDC-IDRI (Armato et al. 2011, doi:10.7937/K9/TCIA.2015.LO9QL9SX): one CT series of each patient.

Headers alone decide: folders may be named by UID or by the retriever. Of a patient's CT series the one with the most
slices is taken; among equals the one with the thinnest slices, then the first by its pseudonym.
"""

from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.folders import choose_stacks, dicom_series, exclude, subject_rule
from data_prep.sources.series import Discovery
from data_prep.sources.stacks import Stack

PUBLIC_ID = r"LIDC-IDRI-\d{4}"


def find_lidc(settings: SourceSettings, progress: Progress) -> Discovery:
    """List one CT series of each patient; the patient's other series and X-rays are set aside."""
    stacks, exclusions = choose_stacks(settings, subject_rule(settings, PUBLIC_ID), progress)
    stacks.sort(key=_order)
    best = {stack.subject: stack for stack in reversed(stacks)}
    surplus = [stack for stack in stacks if stack is not best[stack.subject]]
    exclusions += [exclude(settings.name, s, f"the patient's {best[s.subject].scan} was taken") for s in surplus]
    return Discovery([dicom_series(settings.name, stack) for stack in best.values()], exclusions)


def _order(stack: Stack) -> tuple[int, float, str]:
    return -stack.slices, stack.first.thickness, stack.scan
