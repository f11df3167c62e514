"""Calls of functions in a file that jobs read: as a program, make one of them.

The file's name is the digest of its content, and the job's own script, which only Slurm holds, has that name. What
someone else puts in its place is not unpickled.
"""

import hashlib
import os
import pickle
import shlex
import sys
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import write_atomic
from slurm.job import start_of_job

FAILED = "this process failed: "
"""Begins the last line of a call that raised an exception, followed by the exception's own words."""
STARTED = "this process was started"
"""Begins the first line of each start of a job: its log is continued after it was put back in the queue."""
_ENDING = ".calls"
_REMEDY = "submit again from a folder that is yours alone"


def write_calls(folder: Path, call: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Path:
    """Write the arguments of one function for each task of an array; return the file.

    No two files are alike, so that the jobs of one submission end when their file is removed.
    """
    content = pickle.dumps((uuid.uuid4().hex, call, list(calls)))
    path = folder / f"{hashlib.sha256(content).hexdigest()}{_ENDING}"
    write_atomic(path, content, 0o600)
    return path


def command_of(calls: Path) -> str:
    """Return the shell's words for a task to make its call; ``-P``: no module is taken from the working folder."""
    return f"{shlex.quote(sys.executable)} -P -u -m slurm.calls {shlex.quote(str(calls))}"


def read_call(path: Path, task: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Read function and arguments of one task.

    Raises:
        UserError: the submission was taken back, or someone else changed the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone: this job's submission was taken back, and nothing is done") from error
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise UserError(f"{path} was changed after the submission, and nothing of it is run: {_REMEDY}")
    _, call, calls = pickle.loads(content)  # noqa: S301 - what was submitted, by its digest
    return call, calls[task]


def main() -> None:
    """Make the call of this task, as a job."""
    print(STARTED, start_of_job())
    try:
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
        call, arguments = read_call(Path(sys.argv[1]), task)
        call(*arguments)
    except UserError as error:
        sys.exit(f"{FAILED}{error}")
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exception(error)
        sys.exit(f"{FAILED}{' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
