"""Types of settings: what a value may be, with the sentence that refuses another."""

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

Member = TypeVar("Member", bound=Hashable)


def expect(expected: str) -> WrapValidator:
    """Say in one sentence what is allowed, where pydantic would complain for each member of a union.

    What is no text where text is expected is left to pydantic: digits may be allowed in it.
    """

    def validate(setting: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(setting)
        except ValidationError as error:
            if {fault["type"] for fault in error.errors()} == {"string_type"}:
                raise
            raise ValueError(f"Input should be {expected}") from error

    return WrapValidator(validate)


def as_list(setting: Any) -> Any:
    """Take a single value for a list of one."""
    return (setting,) if isinstance(setting, int | float | str) else setting


def check_switches(setting: Any, checked: Any) -> None:
    """Check that true and false, and only these, became true and false; ``checked``: what ``setting`` became.

    Raises:
        ValueError: a number was taken for one of them, or one of them for a number.
    """
    if isinstance(checked, tuple):
        for pair in zip(as_list(setting), checked, strict=True):
            check_switches(*pair)
    elif isinstance(setting, int | float) and isinstance(setting, bool) != isinstance(checked, bool):
        raise ValueError(f"Input should be {'true or false' if isinstance(checked, bool) else 'a number'}")


def distinct(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Return the members of a list.

    Raises:
        ValueError: one stands there twice.
    """
    if len(set(members)) < len(members):
        twice = next(member for number, member in enumerate(members) if member in members[:number])
        raise ValueError(f"{twice} stands there twice")
    return members


def expand_home(path: Path) -> Path:
    """Replace a ``~`` or ``~user`` at the start of a path by that home.

    Raises:
        ValueError: there is no such user, or the user has no home.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path.parts[0]} is no home on this machine: write the whole path") from error


def _not_empty(path: Any) -> Any:
    if path == "":
        raise ValueError("is empty, and would be the working folder: write the path, or . for that folder")
    return path


UserPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(expand_home)]
"""As a user writes it: with ``~``, and not empty."""
InputPath = Annotated[UserPath, AfterValidator(Path.absolute)]
"""Absolute: a run folder must mean the same files from every working folder."""
MOST_THREADS = 1024
"""Of a process: an operating system gives no more than some thousands, and libraries crash beyond."""
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Dose = Annotated[float, Field(gt=0, lt=1)]
Doses = Annotated[tuple[Dose, ...], BeforeValidator(as_list), AfterValidator(distinct)]
Photons = Annotated[Literal["scan", "mas"] | PositiveFloat, expect("scan, mas or a number above 0")]
Correlation = Annotated[float, Field(gt=-1, lt=1)]
ZCorrelation = Annotated[
    Literal["scan"] | Annotated[tuple[Correlation, ...], Field(max_length=8)],
    expect("scan or a list of at most 8 numbers between -1 and 1"),
]
