"""Processes that end with their parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

FORKED_TWICE = """
import os, signal, time
from data_prep.processes import end_with_parent

if os.fork() == 0:      # as a fork server
    server = os.getpid()
    if os.fork() == 0:  # as a worker of it
        if {dies}:
            os.kill(server, signal.SIGKILL)
            while os.getppid() == server:
                time.sleep(0.001)
        end_with_parent()
        print("goes on", flush=True)
        os._exit(0)
os.wait()
"""


def _run(dies: bool) -> str:
    return subprocess.run(
        [sys.executable, "-c", FORKED_TWICE.format(dies=dies)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_a_worker_whose_fork_server_died_before_it_was_bound_ends() -> None:
    """Its own parent process lives on here, as one that is being killed does for a moment."""
    assert _run(dies=True) == ""
    assert _run(dies=False) == "goes on\n"


FORKED = """
import gc
from multiprocessing import get_context
from data_prep.processes import start_fork_server

start_fork_server([])
with get_context("forkserver").Pool(1) as pool:
    print(pool.apply(gc.isenabled), pool.apply(gc.get_freeze_count) > 1000)
"""


def test_a_worker_looks_for_garbage_but_not_among_what_its_server_imported() -> None:
    words = [sys.executable, "-c", FORKED]
    assert subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout == "True True\n"


def test_workers_start_where_the_writer_of_standard_input_has_ended() -> None:
    """As in a loop of a shell over lines, or behind ``echo``: a server that takes that for its own pipe ends."""
    words = [sys.executable, "-c", FORKED]
    assert subprocess.run(words, input="", stdout=subprocess.PIPE, text=True, check=True).stdout == "True True\n"


STARTED = """
import signal
from multiprocessing import get_context
from data_prep.processes import start_fork_server

start_fork_server([])
signal.setitimer(signal.ITIMER_REAL, 0.01)  # kills, while the server still imports
get_context("forkserver").Process(target=print, args=("goes on",)).start()
"""


def test_a_fork_server_ends_with_a_command_that_is_killed_while_it_starts(tmp_path: Path) -> None:
    """The request for a first worker that was under way held the pipe by which it was to see that."""
    words, environment = [sys.executable, "-c", STARTED], {**os.environ, "TMPDIR": str(tmp_path)}
    for _ in range(5):
        process = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        assert (process.returncode, process.stdout) == (-signal.SIGALRM, "")
        assert not list(tmp_path.iterdir())
