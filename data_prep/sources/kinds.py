"""The kinds of source: one record each, by the name that the settings give as ``kind``.

Functions are named as ``module:function`` and imported when they are needed, so that settings can be read without
any library for images.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What settings and discovery must know of a kind of source.

    ``finder``: the function that lists the source's series, from its settings and a progress callback.
    ``has_path``: it lies where the settings say, not in the cache.
    ``has_public_ids``: its patients' ids are public, so they are shown unless the settings hide them.
    ``has_dicom_series``: a kernel and a slice thickness can choose among its series.
    ``has_measured_low_dose``: its scans come with a low dose that was measured.
    """

    finder: str
    has_path: bool = True
    has_public_ids: bool = False
    has_dicom_series: bool = False
    has_measured_low_dose: bool = False


KINDS = {
    "sample": Kind("data_prep.sources.sample:find_sample", has_path=False, has_public_ids=True),
    "dicom": Kind("data_prep.sources.folders:find_dicom", has_dicom_series=True),
    "nifti": Kind("data_prep.sources.nifti_files:find_nifti"),
    "lidc": Kind("data_prep.sources.lidc:find_lidc", has_public_ids=True, has_dicom_series=True),
    "mayo": Kind(
        "data_prep.sources.mayo:find_mayo", has_public_ids=True, has_dicom_series=True, has_measured_low_dose=True
    ),
    "bimcv": Kind("data_prep.sources.bimcv:find_bimcv", has_public_ids=True),
}

OPENERS = {
    "dicom": "data_prep.readers.dicom:open_dicom",
    "first": "data_prep.readers.nifti:open_first",
    "with sidecar": "data_prep.sources.bimcv:open_with_sidecar",
}
"""Functions that open the files of a series, by the names by which series refer to them."""
