"""Processes of commands, from outside."""

from pathlib import Path


def processes_in(folder: Path) -> dict[int, str]:
    """Pid and command of Python processes that work in the folder."""
    commands = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder:
                commands[int(entry.name)] = (entry / "cmdline").read_text()
        except OSError:
            continue
    return commands


def workers_in(folder: Path) -> list[int]:
    """Pids of worker processes: forked from the server of the driver, and not from one of them to read ahead."""
    forked = [pid for pid, command in processes_in(folder).items() if "forkserver" in command]
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in forked}
    servers = [pid for pid, parent in parents.items() if parent not in forked]
    return sorted(pid for pid, parent in parents.items() if parent in servers)
