"""Settings of a search: ranges of settings, and how many trials of each network try values from them."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator, model_validator

from data_prep.setting_types import expect
from data_prep.settings import Settings
from data_prep.settings_file import describe_faults
from pipeline.settings.training import WITHOUT_EFFECT

Kind = Literal["log", "uniform", "int", "choice"]
Setting = Annotated[bool | int | float | str | None, expect("a number, text, true, false or null")]
"""A value that a trial can have of a setting."""
Share = Annotated[float, Field(gt=0, lt=1)]
_Floats = tuple[float, float]
_Ints = tuple[int, int]

_PATH = re.compile(r"(study|networks\.(?P<network>.+))\.(?P<group>training|options)\.(?P<name>\w+)")
_NOT_BETTER = WITHOUT_EFFECT | {"recipe", "seed"}
"""Training settings of which no value is better than another."""
_JUDGES = frozenset({"validation", "validation_samples", "doses", "fresh"})
"""Training settings that change on what trials are judged."""
_MOST_TRIED = 64
_BETWEEN = 0.38  # share of an interval, at no whole number of a short one


class Range(Settings):
    """Values that a setting may have: an interval, with its ends, or a list."""

    log: _Floats | None = Field(None, description="numbers from, to; each power of ten is as likely")
    uniform: _Floats | None = Field(None, description="numbers from, to")
    int: _Ints | None = Field(None, description="whole numbers from, to")
    choice: tuple[Setting, ...] | None = Field(
        None, min_length=1, description="one of these; of the four keys a range has one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("write one of log, uniform, int and choice, such as {log: [1.0e-5, 1.0e-2]}")
        interval = self.log or self.uniform or self.int
        if interval and interval[0] >= interval[1]:
            raise ValueError(f"{self.kind} takes the lower end first, then a higher one")
        if self.log and self.log[0] <= 0:
            raise ValueError("log takes numbers above 0")
        if len(set(map(repr, self.values))) < len(self.values):
            raise ValueError("choice has a value twice")
        return self

    @property
    def kind(self) -> Kind:
        """How values are drawn."""
        return next(kind for kind in ("log", "uniform", "int", "choice") if getattr(self, kind) is not None)

    @property
    def values(self) -> tuple[Setting, ...]:
        """Both ends of an interval, or the list."""
        values: tuple[Setting, ...] = getattr(self, self.kind)
        return values

    @property
    def samples(self) -> tuple[Setting, ...]:
        """Values that show whether all are allowed: also some between the ends, of whole numbers up to 64."""
        if self.log:
            return *self.log, self.log[0] * (self.log[1] / self.log[0]) ** _BETWEEN
        if self.uniform:
            return *self.uniform, self.uniform[0] + (self.uniform[1] - self.uniform[0]) * _BETWEEN
        if self.int is None:
            return self.values
        numbers = range(self.int[0], self.int[1] + 1)
        half = _MOST_TRIED // 2
        return tuple(numbers) if len(numbers) <= _MOST_TRIED else (*numbers[:half], *numbers[-half:])


class HalvingSettings(Settings):
    """Settings of successive halving: all trials train up to the first rung, the best go on to the next."""

    rungs: tuple[Share, ...] = Field(
        (0.25, 0.5), min_length=1, description="shares of a training, in whole epochs, after which trials are compared"
    )
    reduction: int = Field(2, ge=2, description="one of so many trials of a network goes on")

    @field_validator("rungs")
    @classmethod
    def _check_order(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError("rungs must grow from one to the next")
        return rungs


class SearchSettings(Settings):
    """Settings of a search; a trial is a training with values from ``space``."""

    space: dict[str, Range] = Field(
        min_length=1,
        description="ranges by the path of a setting: study.training.NAME of all networks, networks.ID.training.NAME "
        "and networks.ID.options.NAME of one",
    )
    networks: tuple[str, ...] | None = Field(None, min_length=1, description="null: all that the study trains")
    trials: int = Field(12, ge=1, le=9999, description="of each network")
    generation: PositiveInt | None = Field(
        None,
        description="trials of a network that are asked for at once, before any of them has a result; null: all, with "
        "sampler tpe or a budget a third",
    )
    sampler: Literal["random", "tpe"] = Field("tpe", description="how values are drawn; tpe learns from earlier trials")
    seed: int = Field(0, ge=0, description="of the values that are drawn")
    halving: HalvingSettings | None = Field(None, description="null: every trial is trained to its end")
    workers: int = Field(1, ge=1, description="processes that share the trials, each with a GPU where there is one")
    budget_gpu_hours: float | None = Field(
        None, gt=0, description="of all trials, on CPUs hours of a process: spent, it stops asking; null: no limit"
    )

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if networks and len(set(networks)) < len(networks):
            raise ValueError("a network is listed twice")
        return networks

    @property
    def generation_size(self) -> int:
        """Number of trials of a network in each generation but the last, which may have fewer."""
        if self.generation is not None:
            return min(self.generation, self.trials)
        waits = self.sampler == "tpe" or self.budget_gpu_hours is not None
        return -(-self.trials // 3) if waits else self.trials

    def space_of(self, network: str) -> dict[str, Range]:
        """Return a network's ranges, by ``training.NAME`` or ``options.NAME``; its own go before general ones."""
        matches = [(path, _PATH.fullmatch(path)) for path in self.space]
        ranges = dict[str, Range]()
        for owner in (None, network):
            ranges |= {f"{match['group']}.{match['name']}": self.space[path]
                       for path, match in matches if match and match["network"] == owner}  # fmt: skip
        return ranges

    def to_ask(self) -> dict[str, Any]:
        """Return what decides, beside ranges and results, on the parameters of trials."""
        batch = {"generation": self.generation_size} if self.sampler == "tpe" else {}
        return {"sampler": self.sampler, "seed": self.seed, **batch}

    def check_paths(self, networks: Collection[str], searched: Collection[str]) -> None:
        """Check that each range is of a setting that can be searched, of all ``networks`` of the run or of one.

        Raises:
            ValueError: one is not.
        """
        for path in self.space:
            match = _PATH.fullmatch(path)
            if match is None or (match["network"] is None and match["group"] == "options"):
                raise ValueError(
                    f"search.space: {path} is no setting of a training: take study.training.NAME, "
                    "networks.ID.training.NAME or networks.ID.options.NAME"
                )
            if match["network"] not in (None, *networks):
                raise ValueError(f"search.space: {path}: there is no such network; networks has {', '.join(networks)}")
            if match["network"] not in (None, *searched):
                raise ValueError(f"search.space: {path}: search.networks has {', '.join(searched)} alone")
            if match["group"] == "training" and match["name"] in _NOT_BETTER:
                raise ValueError(f"search.space: {path} makes no training better or worse: leave it out")
            if match["group"] == "training" and match["name"] in _JUDGES:
                raise ValueError(f"search.space: {path} changes on what trials are judged: leave it out")


def with_parameters(run: dict[str, Any], network: str, parameters: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the values of a run's settings with those that a trial has of a network, by ``GROUP.NAME``."""
    settings = dict(run["networks"][network])
    for name, setting in parameters.items():
        group, _, key = name.partition(".")
        settings[group] = {**settings[group], key: setting}
    return {**run, "networks": {**run["networks"], network: settings}}


def check_values(run: dict[str, Any], model: type[BaseModel], network: str, ranges: Mapping[str, Range]) -> None:
    """Check that the settings of a run take the values of ranges, one at a time.

    Args:
        run: values of the settings, without the search.
        model: of the settings.
        network: that they are of.
        ranges: by ``GROUP.NAME``.

    Raises:
        ValueError: one is refused, or there is no such setting.
    """
    for name, setting, is_between in (
        (name, setting, setting not in x.values) for name, x in ranges.items() for setting in x.samples
    ):
        try:
            model.model_validate(with_parameters(run, network, {name: setting}))
        except ValidationError as error:
            remedy = ": not all numbers between the ends are allowed, so list a choice of them" if is_between else ""
            raise ValueError(f"search.space: {describe_faults(error, model)}{remedy}") from error
