"""Accounts and qualities of service of a profile against what accounting says of the user."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from data_prep.errors import UserError
from slurm.associations import check_association
from slurm.profile import Profile
from tests.programs import write_program

ALLOWED = "proj|normal,long\nother|normal\nproj|gpu"  # a user may have an account twice, of two partitions
ENFORCED = "associations,limits,qos"


def check(
    folder: Path, monkeypatch: pytest.MonkeyPatch, profile: Mapping[str, str], enforced: str, script: str
) -> None:
    write_program(folder, "scontrol", f"echo 'AccountingStorageEnforce = {enforced}'; echo 'ClusterName = dev'")
    write_program(folder, "sacctmgr", f"case $* in *clusters=dev) {script};; esac")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    check_association(Profile.model_validate({"executor": "slurm", **profile}))


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, ""),
        ({"account": "Proj", "qos": "GPU"}, ""),
        ({"qos": "long"}, ""),
        ({"account": "moon"}, r"account moon is not one of user \w+: other, proj$"),
        ({"account": "other", "qos": "long"}, r"qos long is not one of user \w+: normal$"),
        ({"qos": "moon"}, r"qos moon is not one of user \w+: gpu, long, normal$"),
    ],
)
def test_a_profile_names_what_the_user_has(
    profile: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any case of the letters, as Slurm compares them."""
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check(tmp_path, monkeypatch, profile, ENFORCED, f"echo '{ALLOWED}'")


def test_a_users_own_default_counts_where_the_profile_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "moon")
    with pytest.raises(UserError, match="account moon is not one of user"):
        check(tmp_path, monkeypatch, {}, ENFORCED, f"echo '{ALLOWED}'")
    check(tmp_path, monkeypatch, {"account": "proj"}, ENFORCED, f"echo '{ALLOWED}'")


def test_a_user_without_any_account_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no account on this cluster"):
        check(tmp_path, monkeypatch, {}, ENFORCED, "true")


@pytest.mark.parametrize(
    ("profile", "enforced", "script"),
    [
        ({"account": "moon", "qos": "moon"}, "none", f"echo '{ALLOWED}'"),
        ({"account": "proj", "qos": "moon"}, "associations", f"echo '{ALLOWED}'"),
        ({"account": "moon"}, ENFORCED, "echo no database >&2; exit 1"),
    ],
)
def test_what_the_cluster_does_not_insist_on_or_does_not_tell_is_left_to_sbatch(
    profile: dict[str, str], enforced: str, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path, monkeypatch, profile, enforced, script)
