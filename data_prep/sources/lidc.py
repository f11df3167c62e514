"""LIDC-IDRI (Armato et al. 2011, doi:10.7937/K9/TCIA.2015.LO9QL9SX): CT series, one a patient.

Folders may be named by UID or by the retriever: headers alone decide. Of a patient's CT series the one with the
most slices is taken; among equals the one with the thinnest slices, then the first by its pseudonym.
"""

from data_prep.progress import Progress
from data_prep.settings import SourceSettings
from data_prep.sources.archive import Stack
from data_prep.sources.folders import aside, dicom_series, public_or_hidden, sorted_stacks
from data_prep.sources.series import Discovery

PUBLIC_ID = r"LIDC-IDRI-\d{4}"


def find_lidc(settings: SourceSettings, progress: Progress) -> Discovery:
    """One CT series a patient; other series of the patient and X-rays are set aside."""
    scans, others = sorted_stacks(settings, public_or_hidden(settings, PUBLIC_ID), progress)
    scans.sort(key=_rank)
    best = {stack.subject: stack for stack in reversed(scans)}
    more = [stack for stack in scans if stack is not best[stack.subject]]
    others += [aside(settings.name, stack, f"the patient's {best[stack.subject].scan} was taken") for stack in more]
    return Discovery([dicom_series(settings.name, stack) for stack in best.values()], others)


def _rank(stack: Stack) -> tuple[int, float, str]:
    return -stack.slices, stack.first.thickness, stack.scan
