"""Settings of the preparation of scans: sources, low dose, split."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from data_prep.partners import Partner, partners_of
from data_prep.paths import TAKEN_NAMES
from data_prep.setting_types import Doses, InputPath, Photons, ZCorrelation, check_switches
from data_prep.sources.kinds import KINDS
from data_prep.sources.series import NAME_RULE, is_name

ALL_DATASETS = "all"
"""Name that stands for all data sets in tables."""


class Settings(BaseModel):
    """Base of all groups of settings: frozen; unknown keys and numbers that are not finite are refused.

    So are true and false for numbers, which pydantic takes for 1 and 0, and numbers for true and false.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_switches(cls, setting: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        checked = handler(setting)
        check_switches(setting, checked)
        return checked


class SourceSettings(Settings):
    """A source of scans."""

    kind: str = Field(description=f"what lies there: {', '.join(KINDS)}")
    path: InputPath | None = Field(None, description="folder or file; of the sample none")
    dataset: str = Field("", description="name of the data set; the kind if not given")
    keep_ids: bool | None = Field(
        None, description="keep PatientID or file names; if not given, only ids that look like a public data set's"
    )
    kernel: str | None = Field(None, description="DICOM series of this convolution kernel alone")
    thickness_mm: float | None = Field(None, gt=0, description="DICOM series of this slice thickness alone")
    low_dose: Literal["measured", "simulated"] | None = Field(
        None, description="mayo: measured if not given; the others have none and simulate it"
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _check_kind(cls, kind: object) -> object:
        if kind not in list(KINDS):
            *names, last = map(repr, KINDS)
            raise ValueError(f"Input should be {', '.join(names)} or {last}")
        return kind

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, dataset: str) -> str:
        if dataset == ALL_DATASETS:
            raise ValueError("a table's row of that name is of all data sets: choose another name")
        if dataset in TAKEN_NAMES:
            raise ValueError("a data folder has something else of that name: choose another name")
        if dataset and not is_name(dataset):
            raise ValueError(f"Input should be {NAME_RULE}")
        return dataset

    @model_validator(mode="after")
    def _check_path(self) -> Self:
        if KINDS[self.kind].has_path and self.path is None:
            raise ValueError(f"path is missing: the folder or file of the {self.kind} source")
        if self.path and not KINDS[self.kind].has_path:
            raise ValueError(
                "path has no effect on the sample, which quarterdose fetch gets: leave it out, or take another kind"
            )
        return self

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        kind = KINDS[self.kind]
        if not kind.has_dicom_series and (self.kernel or self.thickness_mm):
            raise ValueError(f"kernel and thickness_mm choose among DICOM series; a {self.kind} source has none")
        if self.low_dose == "measured" and not kind.has_measured_low_dose:
            measured = " or ".join(name for name, kind in KINDS.items() if kind.has_measured_low_dose)
            raise ValueError(f"low_dose can be measured with kind {measured} alone; a {self.kind} source simulates it")
        return self

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset or self.kind

    @property
    def uses_simulation(self) -> bool:
        """Whether the low dose is simulated."""
        return self.low_dose == "simulated" or not KINDS[self.kind].has_measured_low_dose

    @property
    def has_public_ids(self) -> bool:
        """Whether patients' ids that look public may be shown; hidden unless the settings or the kind say so."""
        return KINDS[self.kind].has_public_ids if self.keep_ids is None else self.keep_ids


class GeometrySettings(Settings):
    """Equiangular fan-beam scanner; the defaults are the Siemens Definition AS+ of Mayo L067."""

    source_isocentre_mm: float = Field(595.0, gt=0, description="from the source to the isocentre")
    source_detector_mm: float = Field(1085.6, gt=0, description="from the source to the detector, more than that")
    channels: int = Field(736, ge=8, multiple_of=4, description="of the detector, all of them a fan below 150 degrees")
    channel_arc_mm: float = Field(1.2858, gt=0, description="width of a detector channel along the arc")
    views: int = Field(1152, ge=32, multiple_of=32, description="views of one turn")
    channel_offset: float = Field(0.25, ge=-2, le=2, description="shift of the detector, in channels")

    @model_validator(mode="after")
    def _check_fan(self) -> Self:
        """Refuse a fan too wide for the reconstructions, and a source behind its detector."""
        degrees = math.degrees(self.channels * self.channel_arc_mm / self.source_detector_mm)
        if degrees >= 150:
            raise ValueError(f"channels x channel_arc_mm make a fan of {degrees:.0f} degrees, wanted below 150")
        if self.source_detector_mm <= self.source_isocentre_mm:
            raise ValueError("source_detector_mm must be more than source_isocentre_mm")
        return self


class LowDoseSettings(Settings):
    """Settings of the simulated low dose: noise added to the full-dose image."""

    doses: Doses = Field((0.25,), min_length=1, description="fractions of the full dose: one, or a list")
    realisations: int = Field(1, ge=1, description="low doses of each dose, which differ in their noise alone")
    photons: Photons = Field(
        "scan",
        description="photons per detector channel and view at full dose, in air: a number; scan: as many as give the "
        "scan's own noise; mas: by the scan's mAs, kV and slice thickness",
    )
    bowtie: tuple[PositiveFloat, ...] = Field(
        (), description="photons relative to `photons` from the first channel to the last, interpolated; none: 1"
    )
    tube_current: tuple[PositiveFloat, ...] = Field(
        (), description="relative tube current over one turn, interpolated, periodic; none: 1"
    )
    electronic_sd: float = Field(5.0, ge=0, description="electronic noise, counts")
    domain: Literal["log", "counts"] = Field(
        "log", description="log: normal noise in the log sinogram; counts: photons thinned out, for very low doses"
    )
    water_per_mm: float = Field(0.0192, gt=0, description="attenuation of water")
    backprojection: Literal["exact", "gridded"] = Field(
        "gridded", description="exact: fan beam as it is, six times as slow, less noise of high frequencies"
    )
    window: Literal["scan", "ramp", "hann", "cosine", "shepp-logan"] = Field(
        "scan", description="apodisation of the reconstruction filter; scan: the one that gives the scan's own spectrum"
    )
    cutoff: float = Field(1.0, gt=0, le=1, description="of a named window, fraction of Nyquist")
    z_correlation: ZCorrelation = Field(
        "scan",
        description="correlation of the noise of slices 1, 2 ... apart; none: 0; scan: that of the scan's own noise",
    )
    seed: int = Field(0, description="another seed, other noise")
    geometry: GeometrySettings = Field(GeometrySettings(), description="the scanner")

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_key(cls, values: Any) -> Any:
        if isinstance(values, dict) and "dose" in values:
            raise ValueError("dose is called doses now: write doses: 0.1, or doses: [0.05, 0.1] for several")
        return values

    @field_validator("doses")
    @classmethod
    def _sort_doses(cls, doses: Doses) -> Doses:
        return tuple(sorted(doses))

    @property
    def dose(self) -> float:
        """The dose, of settings that have a single one."""
        (dose,) = self.doses
        return dose

    @property
    def partners(self) -> tuple[Partner, ...]:
        """The low doses that a pair gets, those of the lowest dose first."""
        return partners_of(self.doses, self.realisations)

    def at(self, dose: float) -> Self:
        """Return the same settings for one dose."""
        return self.model_copy(update={"doses": (dose,), "realisations": 1})

    def as_record(self) -> dict[str, Any]:
        """Return what is recorded with a pair; of a single partner as versions recorded it that had one ``dose``."""
        record = self.model_dump(mode="json")
        if len(self.partners) > 1:
            return record
        del record["doses"], record["realisations"]
        return {"dose": self.dose, **record}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the settings that :meth:`as_record` recorded."""
        values = dict(record)
        if "dose" in values:
            values["doses"] = values.pop("dose")
        return cls.model_validate(values)

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.domain == "counts" and (self.z_correlation != () or self.backprojection != "exact"):
            raise ValueError("domain: counts draws each ray by itself: set z_correlation: [] and backprojection: exact")
        return self


class SplitSettings(Settings):
    """Shares of patients (or, with fewer than three patients, of slices) held out."""

    validation: float = Field(0.15, gt=0, lt=1, description="share on which trainings are validated")
    test: float = Field(0.15, gt=0, lt=1, description="share on which networks are judged; both together below 0.9")
    gap: int = Field(2, ge=0, description="slices left out between slabs of one scan")
    seed: int = Field(0, description="another seed, other patients held out")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test must stay below 0.9, so that something is left to train on")
        return self


class DataSettings(Settings):
    """All settings of preparation."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1, description="where the scans lie")
    low_dose: LowDoseSettings = Field(LowDoseSettings(), description="how the low dose is simulated")
    fit: Literal["crop", "resample"] = Field(
        "crop", description="sides other than 512: pad or crop, or resample the whole plane"
    )
    split: SplitSettings = Field(SplitSettings(), description="who is trained on and who is held out")
    workers: int = Field(2, ge=1, description="worker processes, each on one core")
    max_failed: float = Field(
        0.1, ge=0, lt=1, description="share of scans whose preparation may fail; with more the run ends"
    )
