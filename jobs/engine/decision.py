"""The decision on an item: whether it is run, and for which reason."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from jobs.engine.stage import Ref

_MAX_LENGTH = 40  # characters of a setting's value in a sentence


class Cause(Enum):
    """Kind of reason to run an item or to leave it, as a sentence with places for its details."""

    INPUT_RUNS_FIRST = "{} runs first"
    NEVER_RUN = "never run"
    UNFINISHED = "not finished before"
    FAILED = "failed before: {}"
    SETTING_CHANGED = "{} changed from {} to {}"
    INPUT_CHANGED = "{} was made again"
    INPUT_ADDED = "{} is new"
    INPUT_REMOVED = "{} was taken away"
    OUTPUT_MISSING = "{} is missing"
    OUTPUT_OF_ANOTHER = "{} is left of a former run"
    OUTPUT_CHANGED = "{} was cut or changed after it was written"
    REFUSED_BEFORE = "refused before: {}"
    BLOCKED = "blocked: {} did not succeed"
    REFUSED = "refused"
    DONE = "done"


_LEFT_ALONE = (Cause.BLOCKED, Cause.REFUSED, Cause.DONE)


@dataclass(frozen=True)
class Reason:
    """A cause with its details, such as the setting that changed; as text, the sentence for people."""

    cause: Cause
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.cause.value.format(*self.details)


@dataclass(frozen=True)
class Decision:
    """Whether an item is to be run, and the reason."""

    ref: Ref
    reason: Reason

    @property
    def run(self) -> bool:
        """Whether the item is to be run."""
        return self.reason.cause not in _LEFT_ALONE


def first_change(old: Any, new: Any, key: str = "") -> Reason | None:
    """Compare what an item depended on with what it depends on now; return the first difference, or None.

    Args:
        old: tree of dictionaries that the item's marker holds.
        new: the same tree as it is now.
        key: path of both trees in the whole one, joined by dots.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        changes = (
            first_change(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
            for name in sorted({*old, *new})
        )
        return next((change for change in changes if change), None)
    if _with_lists(old) == _with_lists(new):
        return None
    if key.startswith("inputs."):
        cause = Cause.INPUT_ADDED if old is None else Cause.INPUT_REMOVED if new is None else Cause.INPUT_CHANGED
        return Reason(cause, (key.removeprefix("inputs."),))
    return Reason(Cause.SETTING_CHANGED, (key.removeprefix("settings."), _shorten(old), _shorten(new)))


def _with_lists(tree: Any) -> Any:
    """Replace tuples by lists, as JSON does."""
    return [_with_lists(branch) for branch in tree] if isinstance(tree, list | tuple) else tree


def _shorten(setting: Any) -> str:
    text = str(setting)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 3] + "..."
