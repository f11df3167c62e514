"""The program's one logger: each message is one line on stdout, without time or level, flushed at once.

Command line, worker processes and jobs of Slurm all log here. From ``INFO`` on everything is printed; ``--verbose``
and ``--quiet`` change that for the command line alone.
"""

import logging
import sys


class _PrintHandler(logging.Handler):
    """Handler that prints to what ``sys.stdout`` is at that moment: a file, or the terminal above its bars."""

    def emit(self, record: logging.LogRecord) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        message = "\n".join(map(printable, self.format(record).split("\n")))
        print(message.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def printable(text: str) -> str:
    """Return a text, such as the name of a file, as one line: what no terminal should get is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe_count(count: int, noun: str) -> str:
    """Return a count of things, such as ``1 scan`` or ``2,000 scans``; ``noun``: of one, with a plural in s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


logger = logging.getLogger("quarterdose")
logger.addHandler(_PrintHandler())
logger.setLevel(logging.INFO)
logger.propagate = False  # libraries may give the root logger a handler, which would print everything twice
