"""Commands in processes of their own that import nothing: they are forked from a server that has imported it all.

So is the server of a command's own workers. Everything else is as in a process that was started anew: environment,
working folder, output and exit code.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, process, set_forkserver_preload, util
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from data_prep.processes import FORK_SERVER

PRELOADED = [
    "jobs.commands.cli", "jobs.engine.launch", "jobs.stages.graph", "data_prep.prepare", "data_prep.readers.dicom",
    "data_prep.readers.nifti", "pipeline.training.train", "torch._dynamo", "pipeline.evaluate.judgement",
    "pipeline.report.write", "pipeline.search.asking", "pytest", "hypothesis", "tests.pipeline.trainings",
    "tests.toy_runs",
]  # fmt: skip
"""What commands, their workers and the ranks of tests use."""
_SECONDS = 1200


def run_forked(folder: Path, words: Sequence[str]) -> CompletedProcess[str]:
    """Take a command in a folder to its end."""
    set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as outputs:
        paths = [Path(outputs, name) for name in ("out", "error")]
        command = get_context("forkserver").Process(target=_run_command, args=(folder, words, dict(os.environ), paths))
        command.start()
        command.join(_SECONDS)
        if command.exitcode is None:
            command.kill()
            raise TimeoutExpired(words, _SECONDS)
        out, error = (path.read_text() for path in paths)
    return CompletedProcess(words, command.exitcode, out, error)


def _run_command(folder: Path, words: Sequence[str], environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    process.ORIGINAL_DIR = str(folder)  # type: ignore[attr-defined]
    process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined] # the tests' own, of sockets
    util.spawnv_passfds = _fork_server  # type: ignore[assignment]
    sys.argv = ["quarterdose", *words]
    from jobs.commands.cli import main

    main()


def _fork_server(_path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """Start the server of a command's workers as `multiprocessing` would, but by a fork; return its process."""
    pid = os.fork()
    if pid:
        return pid
    kept = {*range(3), *descriptors}
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd") if int(name) not in kept]:
        os.closerange(descriptor, descriptor + 1)
    sys.modules.pop(FORK_SERVER, None)
    try:
        exec(arguments[-1], {})  # the program that Python would be started with
    except SystemExit:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
