"""Who may change what lies in a folder: its user alone, or others who could put their files in its place."""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data_prep.errors import UserError

_PRIVATE, _OPEN = 0o700, 0o755
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # an access control list that lets others write shows as the group's bit
_MAX_LINKS = 40  # as Linux itself
_ALL_USERS = "0 0 4294967295"  # a process's map of users outside of containers that have users of their own


def check_unshared(folder: Path, remedy: str, owner: int | None = None, *, trusts_group: bool = False) -> None:
    """Check that only this user and root can change what lies in a folder, or replace the folder.

    The folder, all folders above it and the links on the way must belong to them, and nobody else may write there. Only
    above the folder may others write where the sticky bit keeps them from replacing what is not theirs, as in ``/tmp``.
    The user's private group, which many systems give each user together with the umask 002, is nobody else.

    Args:
        folder: whether it exists or not.
        remedy: what else its user can do, such as "choose another `runs`".
        owner: id of a further user who may, where a folder of someone else is only looked at.
        trusts_group: whether the folders above may belong to others, and be written by their groups.

    Raises:
        UserError: someone else can.
    """
    trusted = _trusted_users() | {os.geteuid() if owner is None else owner}
    steps = list(_steps(folder.absolute()))
    for step in steps:
        status, is_last = step.lstat(), step == steps[-1] and os.path.exists(folder)
        if trusts_group and not is_last and not status.st_mode & stat.S_IWOTH:
            continue
        if status.st_uid not in trusted:
            raise UserError(f"{step} belongs to {_name(status.st_uid)}, who could replace {folder}: {remedy}")
        is_sticky = not is_last and status.st_mode & stat.S_ISVTX
        if stat.S_ISDIR(status.st_mode) and _is_writable_by_others(step, status) and not is_sticky:
            raise UserError(_writable_by_others(step, status, folder, remedy, is_last=is_last))


def _writable_by_others(step: Path, status: os.stat_result, folder: Path, remedy: str, *, is_last: bool) -> str:
    writers, letter = ("everybody", "go") if status.st_mode & stat.S_IWOTH else ("its group", "g")
    harm = "change what lies in it" if is_last else f"replace {folder}"
    mends = f"`chmod {letter}-w {step}`" + ("" if is_last else f" or `chmod +t {step}`")
    remedies = [mends, remedy] if status.st_uid == os.geteuid() else [remedy]  # the modes of others' folders are theirs
    return f"{step} can be written by {writers}, who could {harm} and so run code as you: {', or '.join(remedies)}"


def _is_writable_by_others(folder: Path, status: os.stat_result) -> bool:
    writers = status.st_mode & _BY_OTHERS
    return bool(writers) and (writers != stat.S_IWGRP or not _is_private_group(status) or _has_access_list(folder))


def _is_private_group(status: os.stat_result) -> bool:
    """Whether a file's group is that of its owner, or of this user, alone.

    It has the user's name, is the user's first, and has no further members. Root's is not: system users of many
    distributions have it too.
    """
    try:
        group = grp.getgrgid(status.st_gid)
        users = [pwd.getpwuid(user) for user in {status.st_uid, os.geteuid()} - {0}]
    except KeyError:
        return False
    return any(
        user.pw_gid == group.gr_gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
        for user in users
    )


def _has_access_list(folder: Path) -> bool:
    """Whether the group's bit may stand for the rights of further users."""
    try:
        return "system.posix_acl_access" in os.listxattr(folder)
    except OSError as error:
        return error.errno not in (errno.ENOTSUP, errno.ENOSYS)


def _trusted_users() -> set[int]:
    """Return the ids of this user and of root; of root also what a container shows that knows no root of its host."""
    users = {os.geteuid(), 0}
    with suppress(FileNotFoundError):  # on systems other than Linux
        if Path("/proc/self/uid_map").read_text().split() != _ALL_USERS.split():
            users.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    return users


def _name(user: int) -> str:
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"


def _steps(path: Path) -> Iterator[Path]:
    """Yield each folder and link that the system passes on its way to an absolute path, as far as they exist."""
    reached, pending, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield reached
    while pending:
        part = pending.pop()
        step = reached.parent if part == ".." else reached / part
        if not os.path.lexists(step):
            return
        yield step
        if not step.is_symlink():
            reached = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise UserError(f"{path}: its links lead in a circle")
        target = step.readlink()
        pending += [part for part in reversed(target.parts) if part != "/"]
        reached = Path("/") if target.is_absolute() else reached


def apply_umask(folder: Path, umask: int) -> bool:
    """Set the modes of a folder and all below it to what files written under ``umask`` have; return whether it did.

    Nothing is done where the folder's own mode, which is set last, is right. The owner's rights stay, and what belongs
    to others does.
    """
    if not folder.is_dir() or _mode_under(umask, folder) == stat.S_IMODE(folder.stat().st_mode):
        return False
    for parent, _, names in os.walk(folder.resolve(), topdown=False):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            with suppress(OSError):  # it may be gone, or lie on a file system without modes
                if not path.is_symlink() and path.stat().st_uid == os.geteuid():
                    path.chmod(_mode_under(umask, path))
    return _mode_under(umask, folder) == stat.S_IMODE(folder.stat().st_mode)


def _mode_under(umask: int, path: Path) -> int:
    mode = stat.S_IMODE(path.stat().st_mode)
    owner = mode & stat.S_IRWXU
    return mode & ~0o777 | (owner | owner >> 3 | owner >> 6) & ~umask


def private_temporary_folder(parent: Path, name: str) -> Path | None:
    """Create or find this user's own folder in one where others write too; None where it is not safe or not possible.

    Its name is known, so someone else may have come first, with a folder of his own or a link.
    """
    folder = parent / f"quarterdose-{name}-{os.geteuid()}"
    try:
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        status = folder.lstat()
        check_unshared(folder, "")
    except (OSError, UserError):
        return None
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return folder if is_private else None


def create_private_folder(folder: Path, remedy: str, *, trusts_group: bool = False) -> None:
    """Create a folder that its user alone can read and write; missing ones above it can be read by others.

    ``remedy`` and ``trusts_group``: of :func:`check_unshared`.

    Raises:
        UserError: it cannot be created, or someone else can change what lies in it.
    """
    check_unshared(folder, remedy, trusts_group=trusts_group)
    try:
        for parent in reversed([parent for parent in folder.parents if not parent.exists()]):
            parent.mkdir(mode=_OPEN, exist_ok=True)
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}") from error
    check_unshared(folder, remedy, trusts_group=trusts_group)
