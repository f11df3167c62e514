"""What became of a run of 1,219 scans, asked while all cores are busy."""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from data_prep.files import digest_json
from data_prep.sources.discovery_cache import remember
from data_prep.sources.series import Discovery, Series
from jobs.engine.marker import Marker
from jobs.engine.run_folder import RunFolder
from jobs.engine.submissions import Submissions
from jobs.stages.graph import graph_of
from pipeline.settings.run import RunSettings
from tests.bench.timing import ROUNDS, seconds_of
from tests.command_line import QUARTERDOSE

SCANS, SLICES, DONE = 1219, 200, 800
LIMIT_SECONDS = 2.0


def status_of_1219() -> tuple[float, float]:
    """Median seconds of ``status``, 800 scans being done; where Slurm is at hand it holds an array of all of them."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder, XDG_CONFIG_HOME=folder):
        run_folder = make_run(Path(folder))
        command = [str(QUARTERDOSE), "status", str(run_folder.root)]
        with waiting_array(run_folder), busy_cores():
            run = partial(subprocess.run, command, check=True, capture_output=True)
            times = [seconds_of(run) for _ in range(ROUNDS)]
    return statistics.median(times), LIMIT_SECONDS


def make_run(root: Path) -> RunFolder:
    """Make the folder of a run that is at its preparation, and what was found in its source."""
    data = {"sources": [{"kind": "lidc", "path": root / "scans"}]}
    run_folder = RunFolder.of(RunSettings.model_validate({"name": "run", "runs": root, "data": data}))
    names = [f"LIDC-IDRI-{scan:04d}" for scan in range(SCANS)]
    files = {name: tuple(f"{root}/scans/{name}/{digest_json(z)}.dcm" for z in range(SLICES)) for name in names}
    series = [Series("lidc", name, name, files[name], "dicom", "") for name in names]
    remember(run_folder.settings.data.sources, Discovery(series))
    run_folder.record()
    graph = graph_of(run_folder)
    stage = graph.stages["prepare"]
    for name in names[:DONE]:
        row = dict.fromkeys((f"column {number}" for number in range(25)), 1.2345)
        stage.markers.write(name, Marker("done", graph.parts(stage, name), 1.0, 3.0, "", row))
    return run_folder


@contextmanager
def waiting_array(run_folder: RunFolder) -> Iterator[None]:
    """Let a task for each scan wait in Slurm's queue, if there is one."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        yield
        return
    sbatch = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]
    arrays = [[*sbatch, f"--array=0-{tasks - 1}"] for tasks in (1000, SCANS - 1000)]
    jobs = [subprocess.run(array, check=True, capture_output=True, text=True).stdout.strip() for array in arrays]
    stage = graph_of(run_folder).stages["prepare"]
    Submissions(run_folder.root).add(stage.name, stage.items(), jobs, SCANS, 0)
    try:
        yield
    finally:
        subprocess.run(["scancel", *jobs], check=True)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep a process at work for each core."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
