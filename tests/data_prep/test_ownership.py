import grp
import os
import pwd
import re
import stat
import struct
import sys
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.ownership import apply_umask, check_unshared, create_private_folder

REMEDY = "choose another folder"
NOBODY = 65534
needs_shared_group = pytest.mark.skipif(
    os.geteuid() != 0 and grp.getgrgid(os.getegid()).gr_name == pwd.getpwuid(os.geteuid()).pw_name,
    reason="the group of this user's files is private",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def folder_in(parent: Path) -> Path:
    folder = parent / "parent" / "folder"
    folder.mkdir(parents=True)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        check_unshared(folder, REMEDY)
    return str(refused.value)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o555])
def test_a_folder_that_others_cannot_write_is_good(mode: int, tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.chmod(mode)
    check_unshared(folder, REMEDY)
    check_unshared(folder / "not" / "yet", REMEDY)


@needs_shared_group
@pytest.mark.parametrize("mode", [0o775, 0o770, 0o777, 0o702, 0o1777, 0o1770])
def test_a_folder_that_others_can_write_is_named_with_the_ways_out(mode: int, tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.chmod(mode)
    message = refusal(folder)
    assert message.startswith(
        f"{folder} can be written by {'everybody' if mode & 2 else 'its group'}, who could change"
    )
    assert f"`chmod {'go' if mode & 2 else 'g'}-w {folder}`, or {REMEDY}" in message
    assert "chmod +t" not in message


@needs_root
def test_owners_and_groups_of_the_folders_above_can_be_trusted(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    os.chown(folder.parent, NOBODY, 0)
    folder.parent.chmod(0o2770)
    assert "belongs to user nobody" in refusal(folder)
    check_unshared(folder, REMEDY, trusts_group=True)
    folder.parent.chmod(0o2777)
    with pytest.raises(UserError, match="belongs to user nobody"):
        check_unshared(folder, REMEDY, trusts_group=True)
    folder.parent.chmod(0o2770)
    folder.chmod(0o770)
    with pytest.raises(UserError, match="can be written by its group, who could change what lies in it"):
        check_unshared(folder, REMEDY, trusts_group=True)


@needs_root
def test_a_user_s_private_group_is_nobody_else(tmp_path: Path) -> None:
    """Debian's user daemon has a group of its own name."""
    daemon = pwd.getpwnam("daemon")
    folder = folder_in(tmp_path)
    for path in (folder.parent, folder):
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
        path.chmod(0o2775)
    check_unshared(folder, REMEDY, owner=daemon.pw_uid)
    os.chown(folder.parent, 0, daemon.pw_gid)  # as of `/scratch/USER`
    child = os.fork()
    if child == 0:
        os.setuid(daemon.pw_uid)
        try:
            check_unshared(folder, REMEDY)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    assert os.waitpid(child, 0)[1] == 0
    os.chown(folder, daemon.pw_uid, grp.getgrnam("adm").gr_gid)
    with pytest.raises(UserError, match="can be written by its group"):
        check_unshared(folder, REMEDY, owner=daemon.pw_uid)


@needs_shared_group
@pytest.mark.parametrize("below", ["folder", "not/yet"])
def test_a_folder_above_may_be_written_by_others_only_with_the_sticky_bit(below: str, tmp_path: Path) -> None:
    parent = folder_in(tmp_path).parent
    parent.chmod(0o775)
    message = refusal(parent / below)
    assert message.startswith(f"{parent} can be written by its group, who could replace {parent / below}")
    assert f"`chmod g-w {parent}` or `chmod +t {parent}`, or {REMEDY}" in message
    parent.chmod(0o1777)
    check_unshared(parent / below, REMEDY)


@needs_root
@pytest.mark.parametrize("stranger", ["parent", "parent/folder"])
def test_what_belongs_to_another_user_is_refused(stranger: str, tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    os.chown(tmp_path / stranger, NOBODY, NOBODY)
    assert refusal(folder).startswith(f"{tmp_path / stranger} belongs to user nobody, who could replace {folder}")
    check_unshared(folder, REMEDY, owner=NOBODY)  # who only looks at a folder of nobody's


def test_links_are_followed_and_the_folders_that_hold_them_count(tmp_path: Path) -> None:
    target = folder_in(tmp_path / "real")
    links = tmp_path / "links"
    links.mkdir()
    (links / "link").symlink_to(os.path.relpath(target.parent, links))
    check_unshared(links / "link" / "folder", REMEDY)
    links.chmod(0o775)
    assert refusal(links / "link" / "folder").startswith(f"{links} can be written by its group")
    links.chmod(0o755)
    (tmp_path / "real").chmod(0o777)
    assert refusal(links / "link" / "folder").startswith(f"{tmp_path / 'real'} can be written by everybody")
    assert refusal(links / "link" / ".." / "parent" / "folder").startswith(f"{tmp_path / 'real'} can be written")


@needs_root
def test_a_link_of_another_user_is_refused_also_under_the_sticky_bit(tmp_path: Path) -> None:
    folder_in(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(tmp_path / "parent")
    check_unshared(shared / "link" / "folder", REMEDY)
    os.chown(shared / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert f"{shared / 'link'} belongs to user nobody" in refusal(shared / "link" / "folder")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "its links lead in a circle" in refusal(tmp_path / "a" / "folder")


@needs_shared_group
def test_an_access_control_list_that_lets_another_user_write_is_refused(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    user, named, group, mask, others, unnamed = 1, 2, 4, 16, 32, 0xFFFFFFFF  # tags of linux/posix_acl_xattr.h
    entries = [(user, 7, unnamed), (named, 7, NOBODY), (group, 5, unnamed), (mask, 7, unnamed), (others, 5, unnamed)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no access control lists")
    assert refusal(folder).startswith(f"{folder} can be written by its group")


@needs_shared_group
def test_a_private_folder_under_a_umask_that_lets_the_group_write(tmp_path: Path) -> None:
    os.umask(0o002)
    folder = tmp_path / "out" / "logs" / "slurm"
    create_private_folder(folder, REMEDY)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent, tmp_path / "out")] == [
        0o700, 0o755, 0o755,
    ]  # fmt: skip
    (tmp_path / "out").chmod(0o775)
    with pytest.raises(UserError, match=re.escape(f"`chmod +t {tmp_path / 'out'}`, or {REMEDY}")):
        create_private_folder(folder, REMEDY)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(
    ("umask", "expected"),
    [(0o077, {"folder": 0o700, "sub": 0o700, "a": 0o600, "b": 0o400, "c": 0o700}),
     (0o027, {"folder": 0o750, "sub": 0o750, "a": 0o640, "b": 0o440, "c": 0o750})],
)  # fmt: skip
def test_modes_become_those_of_a_umask_and_only_once(umask: int, expected: dict[str, int], tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    (folder / "sub").mkdir(mode=0o755)
    for name, mode in (("a", 0o664), ("b", 0o444), ("sub/c", 0o700)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    outside = tmp_path / "outside"
    outside.touch()
    (folder / "link").symlink_to(outside)
    folder.chmod(0o711)
    (tmp_path / "linked").symlink_to(folder)
    assert apply_umask(tmp_path / "linked", umask)
    assert modes(folder) == {**expected, "link": 0o644}
    assert not apply_umask(folder, umask)
