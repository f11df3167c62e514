"""The page of all settings, docs/settings.md, made from the settings themselves: ``python -m tests.settings_page``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.settings.run import RunSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_HEAD = """\
# Settings

Every key of a settings file, with what it may be and what it is if left out; `-`: it must be given. A list of one may
be written without brackets in `study` and for `doses`: `ranks: 2`. `quarterdose config mine.yaml` shows the values of a
run, and `--set study.training.epochs=3` replaces one.
"""
_GROUPS = {
    "RunSettings": "",
    "DataSettings": "data",
    "SourceSettings": "data.sources",
    "LowDoseSettings": "data.low_dose",
    "GeometrySettings": "data.low_dose.geometry",
    "SplitSettings": "data.split",
    "NetworkSettings": "networks.ID",
    "StudySettings": "study",
    "TrainingSettings": "study.training",
    "EvaluateSettings": "evaluate",
    "ReportSettings": "report",
    "SearchSettings": "search",
    "HalvingSettings": "search.halving",
    "Range": "search.space.PATH",
    "BudgetSettings": "budget",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
}
_LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}",
           "multipleOf": "multiple of {}"}  # fmt: skip
_UNLIMITED = 2**63 - 1  # as the largest seed

Schema = Mapping[str, Any]


def page() -> str:
    """Write the page: a table for each group of settings."""
    schema = RunSettings.model_json_schema()
    groups = {"RunSettings": schema, **schema["$defs"]}
    return "\n".join([_HEAD, *(line for name, path in _GROUPS.items() for line in _table(path, groups[name]))])


def _table(path: str, group: Schema) -> Iterator[str]:
    yield f"## {f'`{path}`' if path else 'The file'}\n"
    yield f"{' '.join(group['description'].split()).replace('``', '`')}\n"
    yield "| key | allowed | default | meaning |\n| --- | --- | --- | --- |"
    for key, field in group["properties"].items():
        yield f"| `{key}` | {_allowed(field)} | {_default(key, group, field)} | {_cell(field.get('description', ''))} |"
    yield ""


def _allowed(field: Schema) -> str:
    if "anyOf" in field:
        options = sorted(field["anyOf"], key=lambda option: option.get("type") != "null")
        return " or ".join(dict.fromkeys(map(_allowed, options)))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if name == "GridSettings":
            return "keys `network` to `epochs` of [study](#study)"
        path = _GROUPS[name]
        return f"[{path}](#{path.lower().replace('.', '')})"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        members = field.get("items") or field["prefixItems"][0]
        return f"list of: {_allowed(members)}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"table of: {_allowed(field['additionalProperties'])}"
    if field["type"] == "null":
        return "`null`"
    limits = [
        text.format(field[limit]) for limit, text in _LIMITS.items() if abs(field.get(limit, _UNLIMITED)) < _UNLIMITED
    ]
    return ", ".join([_TYPES[field["type"]], *limits])


def _default(key: str, group: Schema, field: Schema) -> str:
    if key in group.get("required", ()):
        return "-"
    if "$ref" in field:
        return "as there"
    text = json.dumps(field["default"]).replace('"', "")
    return f"`{text}`" if text else "empty"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page())
