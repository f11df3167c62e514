"""Errors that a user can mend."""


class UserError(ValueError):
    """One sentence naming the file, key or value to mend and what is allowed."""


class ScanError(UserError):
    """A scan that cannot be read as an axial CT volume.

    The message is the reason, without a path or a name: it goes into the manifest and the report.
    """


class MachineError(RuntimeError):
    """This machine, not the scan, is in the way: a decoder or a permission is missing; worth another try.

    The message holds no path or name either.
    """
