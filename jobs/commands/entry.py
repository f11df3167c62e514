"""The program ``quarterdose``: the command line, whose imports may be interrupted like its work."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from jobs.commands.cli import main as run
    except KeyboardInterrupt:
        sys.exit(128 + 2)  # as a shell reports SIGINT, and as an interrupted command ends
    run()
