"""Accounts and qualities of service that the cluster's accounting allows a user, against what a profile asks for."""

import os
import pwd

from data_prep.errors import UserError
from slurm.commands import SlurmError, output, read_config
from slurm.environment import effective_setting
from slurm.profile import Profile


def check_association(profile: Profile) -> None:
    """Compare the profile's account and QOS with the user's, where the cluster insists on them and accounting answers.

    Raises:
        UserError: the user has none on this cluster, or another one.
        SlurmError: the controller does not answer.
    """
    config = read_config()
    enforced = config.get("AccountingStorageEnforce", "").split(",")
    if "associations" not in enforced:
        return
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
        allowed = _allowed_qos(user, config["ClusterName"])
    except (KeyError, SlurmError):
        return  # sbatch will say it
    if not allowed:
        raise UserError(f"user {user} has no account on this cluster, which gives jobs to accounts alone")
    account, qos = (_lower(effective_setting(profile, name)) for name in ("account", "qos"))
    if account and account not in allowed:
        raise UserError(f"account {account} is not one of user {user}: {', '.join(sorted(allowed))}")
    choices = allowed[account] if account else set().union(*allowed.values())
    if qos and "qos" in enforced and qos not in choices:
        raise UserError(f"qos {qos} is not one of user {user}: {', '.join(sorted(choices))}")


def _lower(name: str | None) -> str | None:
    """Return a name as Slurm compares it."""
    return name.lower() if name else None


def _allowed_qos(user: str, cluster: str) -> dict[str, set[str]]:
    """Ask accounting for the user's accounts, with the qualities of service of each."""
    allowed = dict[str, set[str]]()
    fields = ("format=account,qos", f"users={user}", f"clusters={cluster}")
    for line in output("sacctmgr", "-nP", "show", "associations", *fields).splitlines():
        account, qos = line.lower().split("|")
        allowed.setdefault(account, set()).update(filter(None, qos.split(",")))
    return allowed
