"""Errors that a user can mend."""


class UserError(ValueError):
    """One sentence naming the file, key or value to mend and what is allowed."""


class ScanError(UserError):
    """A scan that cannot be read as an axial CT volume; the message is the reason."""
