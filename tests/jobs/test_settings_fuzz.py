"""Random damage to settings: they are accepted, or one sentence says what is wrong with them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.commands.cli import main
from tests.fuzz import SHARE, broken

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
INPUTS = 1500
SCALARS = (
    "null", "true", "-1", "0", "1e400", ".nan", "-.inf", "9" * 30, "9" * 5000, "0x10", "1:30", "2026-13-45", "''", "~",
    "[]", "{}", "[[1, 2], {a: b}]", "{1: 2, null: 3, [4]: 5}", "!!int x", "!!float x", "!!binary x", "!!timestamp x",
    "!!python/object:os.system x", "!!set {a}", "&a [*a]", "&b {c: *b}", "*nothing", "[" * 3000, "? x", "@", "%", "é",
    "\"\\ud800\"", "\"\\0\"", "a: b: c", "'" + "x" * 5000 + "'", "[1e3, '../..', /]", "<<: 3", "{<<: [1]}",
)  # fmt: skip


def damaged(text: str, generator: np.random.Generator) -> bytes:
    """Return settings with values of another kind, lines moved or doubled, or bytes changed."""
    lines = text.splitlines()
    for _ in range(int(generator.integers(1, 4))):
        first, second = generator.integers(0, len(lines), 2).tolist()
        values = list(re.finditer(r"(?<=: )[^ ,{}\[\]]+", lines[first]))
        if values and generator.random() < 0.7:
            value = values[int(generator.integers(len(values)))]
            scalar = SCALARS[int(generator.integers(len(SCALARS)))]
            lines[first] = lines[first][: value.start()] + scalar + lines[first][value.end() :]
        else:
            lines.insert(second, lines[first] if generator.random() < 0.5 else lines.pop(first))
    content = "\n".join(lines).encode()
    return content if generator.random() < 0.7 else broken(content, generator)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_damaged_settings_are_accepted_or_bring_one_sentence(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, refused = tmp_path / "a.yaml", 0
    monkeypatch.setattr(sys, "argv", ["quarterdose", "config", str(path)])
    for number in range(int(INPUTS * SHARE / len(CONFIGS))):
        path.write_bytes(damaged(config.read_text(), np.random.default_rng((12, number))))
        with pytest.raises(SystemExit) as end:
            main()
        output, message = capsys.readouterr()
        assert end.value.code in (0, 2), number
        if end.value.code == 0:
            assert output
            continue
        refused += 1
        assert str(path) in message, (number, message)
        assert (message.count("\n"), len(message) < 1000) == (1, True), (number, message)
        assert not re.search(r"\w(Error|Exception)\b|Traceback|<class|object at 0x", message), (number, message)
    assert refused
