"""Settings of preparation: sources, low dose, split."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """A frozen node of the settings tree; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Settings):
    """A place where scans lie."""

    kind: Literal["sample", "dicom", "nifti"]
    path: Path | None = Field(None, description="folder or file; the sample needs none")
    dataset: str = Field("", description="name of the data set; the kind if not given")
    keep_ids: bool = Field(False, description="keep PatientID or file names: only for public data sets")

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None) -> Path | None:
        """A run folder must mean the same scans from wherever it is looked at."""
        return path and path.expanduser().absolute()

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.dataset or self.kind


class GeometrySettings(Settings):
    """Equiangular fan-beam scanner; the defaults are the Siemens Definition AS+ of Mayo L067."""

    source_isocentre_mm: float = Field(595.0, gt=0)
    source_detector_mm: float = Field(1085.6, gt=0)
    channels: int = Field(736, ge=8)
    channel_arc_mm: float = Field(1.2858, gt=0, description="width of a detector channel along the arc")
    views: int = Field(1152, ge=32, multiple_of=32, description="views of one turn")
    channel_offset: float = Field(0.25, description="shift of the detector, in channels")


class LowDoseSettings(Settings):
    """Simulated low dose: noise added to the full-dose image."""

    dose: float = Field(0.25, gt=0, lt=1, description="fraction of the full dose")
    photons: float = Field(1.8e5, gt=0, description="photons per detector channel and view at full dose, in air")
    electronic_sd: float = Field(5.0, ge=0, description="electronic noise, counts")
    water_per_mm: float = Field(0.0192, gt=0, description="attenuation of water")
    backprojection: Literal["exact", "gridded"] = Field(
        "exact", description="gridded: 1.4 times as fast, noise a tenth higher"
    )
    window: Literal["ramp", "hann", "cosine", "shepp-logan"] = "hann"
    cutoff: float = Field(1.0, gt=0, le=1, description="of the reconstruction filter, fraction of Nyquist")
    seed: int = 0
    geometry: GeometrySettings = GeometrySettings()


class SplitSettings(Settings):
    """Shares of patients (or, with fewer than three patients, of slices) held out."""

    validation: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.15, gt=0, lt=1)
    gap: int = Field(2, ge=0, description="slices left out between slabs of one scan")
    seed: int = 0

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> Self:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test must stay below 0.9, so that something is left to train on")
        return self


class DataSettings(Settings):
    """All that preparation reads."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    low_dose: LowDoseSettings = LowDoseSettings()
    split: SplitSettings = SplitSettings()
    workers: int = Field(2, ge=1, description="worker processes, each on one core")
    max_failed: float = Field(0.1, ge=0, lt=1, description="share of scans that may be turned away")
