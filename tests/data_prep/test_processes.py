"""Processes that end with their parent."""

import subprocess
import sys

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
from multiprocessing import get_context, set_forkserver_preload
from data_prep.processes import FORK_SERVER

set_forkserver_preload([FORK_SERVER])
with get_context("forkserver").Pool(1) as pool:
    print(pool.apply(gc.isenabled), pool.apply(gc.get_freeze_count) > 1000)
"""


def test_a_worker_looks_for_garbage_but_not_among_what_its_server_imported() -> None:
    words = [sys.executable, "-c", FORKED]
    assert subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout == "True True\n"
