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
