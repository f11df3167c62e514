"""YAML as plain values, without what PyYAML does in silence.

It takes the last of two equal keys, and reads as YAML 1.1 did: ``1:30:00`` as 5400, ``010`` as 8, ``no`` as false.
"""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

_TEXT_SINCE_1_2 = re.compile(
    r"yes|no|on|off|[-+]?0[0-7_]+|[-+]?[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?|\d{4}-\d\d?-\d\d?(\D.*)?", re.IGNORECASE
)  # a switch, an octal number, one in base 60, a date
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_MAX_DEPTH = 20  # a settings file has 5
_MAX_BITS = 64  # of a whole number: of one with very many digits Python makes no text
MAX_BYTES = 64 * 1024
"""Size of a text that is read: PyYAML takes up to a second for it."""


class _Loader(yaml.SafeLoader):
    _depth = 0

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        """Return the tag of a node; what is text in YAML 1.2 is text, from which settings make what they hold."""
        is_text = kind is yaml.ScalarNode and implicit[0] and _TEXT_SINCE_1_2.fullmatch(value or "")
        return _TEXT if is_text else super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; refuse aliases, a few lines of which stand for billions of values, and deep nesting."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None):
            problem = "aliases (*) and anchors (&) are not read: write the values out"
            raise ComposerError(problem=problem, problem_mark=event.start_mark)
        if self._depth >= _MAX_DEPTH:
            raise ComposerError(problem="its values are nested too deeply", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            content = super().construct_object(node, deep)
        except (ValueError, AttributeError, TypeError, KeyError) as error:  # as of 2026-02-30, or of `!!int x`
            problem = f"this is no {node.tag.rpartition(':')[2]}"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark) from error
        if isinstance(content, int) and content.bit_length() > _MAX_BITS:
            raise ConstructorError(problem="this number is too large", problem_mark=node.start_mark)
        return content

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in keys:
                    raise ConstructorError(problem=f"{key.value} is set twice", problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """Say what is wrong in a text, and in which line."""
    mark = getattr(error, "problem_mark", None)
    return yaml_problem(error) + (f" in line {mark.line + 1}" if mark else "")


def yaml_problem(error: yaml.YAMLError) -> str:
    """Say what is wrong in a text of a single line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    return ", ".join(part for part in (error.context, error.problem) if part)


def parse_yaml(text: str) -> Any:
    """Return the values in a text.

    Raises:
        yaml.YAMLError: it is no YAML, has aliases, or a value is none of its kind, set twice, or nested too deeply.
    """
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
