"""The user's own folders for settings and caches (XDG Base Directory Specification)."""

import os
from pathlib import Path

from data_prep.errors import UserError


def home_folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, else ``default`` in the user's home.

    A relative path in the variable does not count, as the specification says.

    Raises:
        UserError: there is neither.
    """
    named = os.environ.get(variable, "")
    if os.path.isabs(named):
        return Path(named)
    home = os.path.expanduser("~")  # unlike Path's, returns "~" for a user without a home
    if not os.path.isabs(home):
        raise UserError(f"this user has no home folder: let {variable} name a folder that you can write")
    return Path(home) / default
