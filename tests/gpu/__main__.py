"""All tests marked ``gpu``, then each benchmark; one table and ``bench-gpu.csv`` at the end.

``python -m tests.gpu SECTION...`` runs only these benchmarks and no test; ``--dry`` takes tiny sizes, on the CPU where
there is no GPU, and judges no figure. The exit code is 1 where a test failed, a benchmark failed or a goal is missed.
"""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

FILE = Path("bench-gpu.csv")
TESTS_SECONDS = 180
EXIT_SECONDS = 10
Row = dict[str, object]


def main() -> int:
    """Run tests and benchmarks; return the exit code."""
    words = sys.argv[1:]
    if "--dry" in words:
        os.environ["QUARTERDOSE_DRY"] = "1"  # before anything reads it
    with tempfile.TemporaryDirectory() as folder:
        _declare_version(Path(folder))
        return _run(words)


def _declare_version(folder: Path) -> None:
    """Let Python find the version of a checkout that is not installed."""
    try:
        version("quarterdose")
    except PackageNotFoundError:
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        target = folder / f"{project['name']}-{project['version']}.dist-info" / "METADATA"
        target.parent.mkdir()
        target.write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))


def _run(words: list[str]) -> int:
    from tests.gpu.sections import SECTIONS

    names = [word for word in words if word != "--dry"]
    if unknown := set(names) - set(SECTIONS):
        sys.exit(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    rows = [] if names else [_run_tests()]
    for name in names or SECTIONS:
        rows += _run_section(name)
        _write(rows)
    _print(rows)
    return int(any(row["holds"] == "no" for row in rows))


def _run_tests() -> Row:
    """Run the tests in the files that have such ones; others import packages that need not be installed."""
    start, mark = time.perf_counter(), re.compile(r"mark\.gpu|of_kernels")
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if mark.search(path.read_text())]
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    options += ["-n", "4"] if find_spec("xdist") else []  # most of the time kernels are compiled
    command = [sys.executable, "-m", "pytest", *options, *files]
    try:
        code = str(subprocess.run(command, check=False, timeout=TESTS_SECONDS).returncode)
    except subprocess.TimeoutExpired:
        code = f"stopped after {TESTS_SECONDS} s"
    return _row("gpu-tests", "exit code", code, "", "0", holds=code == "0", start=start)


def _run_section(name: str) -> list[Row]:
    """Run a benchmark in a process of its own, which a fault of the GPU, or too long a time, ends alone."""
    from tests.gpu.card import DRY
    from tests.gpu.figures import GOALS
    from tests.gpu.sections import SECTIONS

    print(f"== {name}", flush=True)
    start, context = time.perf_counter(), multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, sender))
    process.start()
    sender.close()
    figures, limit = [], SECTIONS[name][1] * (5 if DRY else 1)
    try:
        while receiver.poll(max(0.0, start + limit - time.perf_counter())):
            figures.append(receiver.recv())
        reason = f"stopped after {limit:g} s"
    except EOFError:
        process.join(EXIT_SECONDS)
        reason = "" if process.exitcode == 0 else f"failed, exit code {process.exitcode}"
    process.kill()
    process.join()  # its memory on the GPU is free again
    rows = []
    for figure in figures:
        goal = None if DRY else GOALS.get(figure.name)
        holds = None if goal is None else goal.holds(figure.value)
        rows.append(_row(figure.name, figure.unit, figure.value, figure.baseline, goal, holds=holds, start=start))
    return rows + ([_row(name, "", reason, "", None, holds=False, start=start)] if reason else [])


def _measure(name: str, sender: Connection) -> None:
    import torch

    from tests.gpu.card import DRY
    from tests.gpu.sections import SECTIONS

    if DRY:
        torch.set_num_threads(1)  # the rest of the machine may be at work
    try:
        for figure in SECTIONS[name][0]():
            sender.send(figure)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    finally:
        sender.close()


def _row(name: str, unit: str, value: object, baseline: str, goal: object, *, holds: bool | None, start: float) -> Row:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    verdict = "" if holds is None else "yes" if holds else "no"
    print(f"   {name}: {shown} {unit}", flush=True)
    return {
        "name": name, "figure": shown, "unit": unit, "against": baseline, "goal": "" if goal is None else str(goal),
        "holds": verdict, "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _write(rows: list[Row]) -> None:
    import pandas as pd

    from data_prep.files import write_atomic

    write_atomic(FILE, pd.DataFrame(rows).to_csv(index=False))


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
