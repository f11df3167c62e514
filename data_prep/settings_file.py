"""Settings from a YAML file and ``--set`` options; errors name the key to mend and the valid ones."""

from collections.abc import Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from data_prep.errors import UserError
from data_prep.yaml_text import MAX_BYTES, describe_yaml_error, parse_yaml, yaml_problem

T = TypeVar("T", bound=BaseModel)


class _Repr(Repr):
    """Short texts of values, as YAML spells them."""

    def repr_NoneType(self, _nothing: None, _level: int) -> str:
        return "nothing"

    def repr_bool(self, switch: bool, _level: int) -> str:
        return str(switch).lower()

    def repr_tuple(self, members: tuple[Any, ...], level: int) -> str:
        return self.repr_list(list(members), level)


_SHORT = _Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_MESSAGES = {
    "path_type": "Input should be a path", "string_type": "Input should be text, a number in quotes",
    "tuple_type": "Input should be a list", "too_short": "Input should not be empty",
    "too_long": "Input should be a list of at most {max_length}",
    **dict.fromkeys(("model_type", "dict_type"), "Input should be a mapping of settings"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "Input should be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "Input should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "Input should be a number"),
}  # fmt: skip
"""Where pydantic's own messages have words of Python."""


def load_settings(path: Path, model: type[T], overrides: Sequence[str] | None = None) -> T:
    """Read ``path`` as YAML, apply ``a.b=value`` overrides and validate the outcome as ``model``.

    Raises:
        UserError: the file is missing or no mapping, or a key or value is not allowed.
    """
    values = _read(path)
    for override in overrides or ():
        _apply(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_faults(error, model)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(_read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"settings file {path} does not exist") from error
    except OSError as error:
        raise UserError(f"settings file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"settings file {path} is no text in UTF-8: byte {error.start} is none of a character"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {describe_yaml_error(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings")
    return values


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} holds more than {MAX_BYTES // 1024} KiB: no settings file does")
    return content.decode("utf-8-sig")


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or key.split() != [key] or "" in key.split("."):
        raise UserError(f"--set {override!r} must look like a.b=value")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {key}: {parent} is a value, not a group of settings")
    try:
        node[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: {_SHORT.repr(text)} cannot be read: {yaml_problem(error)}") from error


def describe_faults(error: ValidationError, model: type[BaseModel]) -> str:
    """Name the first fault of settings in one sentence, and say how many more there are."""
    first, *further = _distinct(error.errors())
    return _fault(first, model) + (f" (and {len(further)} more)" if further else "")


def _distinct(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short because its values are refused."""
    inside = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    return [error for error in errors if error["type"] != "too_short" or error["loc"] not in inside]


def _fault(error: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        valid = ", ".join(_fields_at(model, error["loc"][:-1]))
        return f"{key} is not a setting; valid here: {valid}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = _MESSAGES.get(error["type"], "").format_map(error.get("ctx", {}))
    message = message or error["msg"].removeprefix("Value error, ")
    text = f"{key}: {message}" if key else message
    return text if isinstance(error["input"], dict) else f"{text} (got {_SHORT.repr(error['input'])})"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """List the settings that are valid at a location; keys of a mapping and indices of a list name no setting."""
    for part in location:
        if part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    """Return the settings class in an annotation such as ``X``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [a for a in annotation.__args__ if isinstance(a, type) and issubclass(a, BaseModel)]
    assert len(inner) == 1, annotation
    return inner[0]
