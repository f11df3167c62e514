"""Errors that a user can mend, and those of a scan or of this machine."""


class UserError(ValueError):
    """An error that the user can mend: one sentence names the file, key or value, and what is allowed."""


class ScanError(UserError):
    """A scan that cannot be read as an axial CT volume.

    The message is the reason without a path or a name, because it is written to the manifest and the report.
    """


class MachineError(RuntimeError):
    """A fault of this machine, not of the scan: a decoder or a permission is missing. Trying again may help.

    The message holds no path and no name.
    """


def describe_os_error(error: OSError, *, names_file: bool = True) -> str:
    """Say what the system refused, and of which file, unless its name may tell a patient."""
    reason = error.strerror or " ".join(map(str, error.args)) or "the system refused"
    return f"{error.filename}: {reason}" if names_file and error.filename is not None else reason


def describe_lack_of_memory(error: BaseException) -> str:
    """Say that memory was used up; empty for other errors. torch's are known by their text alone."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    if "out of memory" in text:
        return "the GPU has too little memory for it"
    is_lack = isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text
    return "this machine has too little memory for it" if is_lack else ""
