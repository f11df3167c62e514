import resource
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from data_prep.yaml_text import MAX_BYTES, parse_yaml


class Letters(BaseModel):
    a: object = None


def bomb(levels: int) -> str:
    """A few lines that stand for 9 to the power of ``levels`` words."""
    names = "abcdefghijklmnop"[: levels + 1]
    lines = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip(names, names[1:], strict=False)
    ]
    return "\n".join(["# settings", "a: &a [lol]", *lines])


ATTACKS = {
    "aliases": (bomb(15), "aliases (*) and anchors (&) are not read: write the values out", 2),
    "an alias of itself": ("a: &a [*a]", "aliases", 1),
    "an anchor alone": ("a: 1\nb: &c {d: 1}", "aliases", 2),
    "an alias without an anchor": ("a: *b", "aliases", 1),
    "a merge": ("a: {b: 1}\nc:\n  <<: *a", "aliases", 3),
    "lists in lists": ("a:\n  " + "[" * 30_000, "its values are nested too deeply", 2),
    "mappings in mappings": ("{a: " * 10_000, "its values are nested too deeply", 1),
    "blocks in blocks": ("\n".join(f"{' ' * depth}a:" for depth in range(300)), "its values are nested too deeply", 0),
    "dashes": ("- " * 30_000, "its values are nested too deeply", 0),
    "keys in keys": ("? " * 30_000, "its values are nested too deeply", 0),
    "a long number": ("a: " + "9" * 60_000, "this is no int", 1),
    "a long number in hexadecimal": ("a: 0x" + "f" * 60_000, "this number is too large", 1),
    "a long number in base 60": ("a: !!int 1" + ":1" * 30_000, "this number is too large", 1),
    "a call": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor", 1),
    "a large file": ("a: [" + "1," * MAX_BYTES, "holds more than 64 KiB: no settings file does", 0),
}


@pytest.mark.parametrize(("text", "message", "line"), ATTACKS.values(), ids=ATTACKS)
def test_a_file_that_would_take_memory_or_time_is_one_line(text: str, message: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as refused:
        load_settings(path, Letters)
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert line == 0 or str(refused.value).endswith(f" in line {line}")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 170
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_an_option_with_aliases_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(
        UserError, match=r"--set a: '\[&b \[x\], \*b\]' cannot be read: aliases .* write the values out$"
    ):
        load_settings(tmp_path / "x.yaml", Letters, ["a=[&b [x], *b]"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9" * 30, "this number is too large"),
        ("!!timestamp 2026-02-30", "this is no timestamp"),
        ("[1", "expected ',' or ']'"),
    ],
)
def test_an_option_that_cannot_be_read_says_why(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(UserError) as refused:
        load_settings(tmp_path / "x.yaml", Letters, [f"a={text}"])
    assert str(refused.value).startswith(f"--set a: {text!r} cannot be read: ")
    assert reason in str(refused.value)
    assert " in line " not in str(refused.value)


def test_settings_of_the_usual_depth_and_size_are_read() -> None:
    text = yaml.safe_dump({f"key {number}": {"a": [{"b": [number, "&x", "*x"]}]} for number in range(500)})
    assert parse_yaml(text)["key 499"] == {"a": [{"b": [499, "&x", "*x"]}]}


@pytest.mark.parametrize("text", ["1:30:00", "-1:30", "1:30.5", "010", "-0777", "yes", "NO", "On", "off", "2026-11-29"])
def test_what_only_yaml_1_1_took_for_a_number_or_a_switch_is_text(text: str) -> None:
    assert parse_yaml(f"a: {text}") == {"a": text}
    assert parse_yaml(yaml.safe_dump({"a": text})) == {"a": text}


def test_numbers_switches_and_nothing_are_what_they_were() -> None:
    text = "[0, 10, -3, 1_000, 0x1f, 0.5, 1.0e-4, .inf, true, False, null, ~, 'no', \"010\"]"
    assert parse_yaml(text) == [0, 10, -3, 1000, 31, 0.5, 1e-4, float("inf"), True, False, None, None, "no", "010"]
