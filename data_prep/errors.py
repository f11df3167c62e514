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
