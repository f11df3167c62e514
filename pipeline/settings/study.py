"""Settings of the study: grids of trainings."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from data_prep.setting_types import as_list
from data_prep.settings import Settings
from pipeline.sampling import Sampling
from pipeline.settings.names import Transfer
from pipeline.settings.training import Seed, Side, TrainingSettings

_AXES = ("network", "ranks", "slices", "sampling", "transfer", "seeds")


class GridSettings(Settings):
    """Grid of trainings: all combinations of the listed values. A single value is a list of one.

    ``slices``, ``sampling`` and ``transfer`` are of 3D networks.
    """

    network: tuple[str, ...] | None = Field(None, min_length=1, description="ids of networks; null: all 3D networks")
    ranks: tuple[PositiveInt, ...] = Field((1, 2), min_length=1, description="processes that train together")
    slices: tuple[Side, ...] = Field((16, 32), min_length=1, description="of a volume")
    sampling: tuple[Sampling, ...] = Field(
        ("grouped",), min_length=1, description="slices of a volume: strided: every k-th of the scan; grouped: those "
        "around its middle; window: neighbours from a random place, another at each visit",
    )  # fmt: skip
    transfer: tuple[Transfer, ...] = Field(
        ("zero",), min_length=1, description="how 3D kernels are filled from 2D ones: zero: in their middle plane "
        "alone; repeat: in each; mean: in each, over their number; noise: as zero, with little noise in the others; "
        "none: they start at random",
    )  # fmt: skip
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1, description="in place of training.seed")
    epochs: PositiveInt | None = Field(None, description="in place of training.epochs")

    _listed = field_validator(*_AXES, mode="before")(as_list)


class StudySettings(GridSettings):
    """Grid of trainings, and further grids, which inherit from it the values that they do not set."""

    also: tuple[GridSettings, ...] = Field((), description="further grids; trainings that are alike are done once")
    training: TrainingSettings = Field(
        TrainingSettings(), description="of all networks of the run; networks.ID.training differs for one"
    )
    control_steps: int | None = Field(
        None,
        ge=20,
        description="of each control arm (one batch again and again, no exchange, one rank alone); null: no such arms",
    )
    allocation: Literal["each", "one"] = Field(
        "each", description="each: every training is a job; one: all share one job, and so its nodes, in turn"
    )
    data_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="samples a second that the file system gives all ranks, for the projection; null: any"
    )
    include_disturbed: bool = Field(
        False, description="speed-up, laws and projection also use trainings that other processes disturbed"
    )
    order_seed: int = Field(0, description="of the order in which trainings are begun")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "donor" in values:
            raise ValueError("donor is a setting of a network now: write networks.ID.donor_file, of each 3D network")
        if not isinstance(values.get("also"), list | tuple):
            return values
        inherited = {name: values[name] for name in GridSettings.model_fields if name in values}
        also = [{**inherited, **grid} if isinstance(grid, dict) else grid for grid in values["also"]]
        return {**values, "also": also}

    @property
    def grids(self) -> tuple[GridSettings, ...]:
        """The study's own grid and the further ones."""
        return (self, *self.also)


def shared_training(study: Any) -> dict[str, Any]:
    """Return the settings in ``study.training``; none where they are faulty, so that a fault is named once."""
    if isinstance(study, StudySettings):
        return study.training.model_dump()
    training = study.get("training") if isinstance(study, dict) else None
    if isinstance(training, TrainingSettings):
        return training.model_dump()
    try:
        TrainingSettings.model_validate(training)
    except ValidationError:
        return {}
    assert isinstance(training, dict)
    return training


def with_shared(network: Any, shared: dict[str, Any]) -> Any:
    """Add the shared settings of a training to those of a network that differ."""
    if not isinstance(network, dict) or not isinstance(network.get("training", {}), dict):
        return network
    return {**network, "training": {**shared, **network.get("training", {})}}
