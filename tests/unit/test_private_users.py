"""Ranges of user IDs: reading, choosing, shifting trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest

from rkt.cli import flags, podflags
from rkt.cli.cmd import prepare
from rkt.errors import RktError
from rkt.linux import owners
from rkt.linux.userns import Range
from rkt.stage0 import privateusers
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from pathlib import Path

    from rkt.cli.context import Context

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


def test_a_range_is_read_and_written() -> None:
    users = Range.parse("65536:65536\n")
    assert (users.shift, users.count, str(users)) == (65536, 65536, "65536:65536")
    assert (users.outside(5), users.inside(65541), users.inside(5)) == (65541, 5, -1)


@pytest.mark.parametrize("text", ["", "1", "a:b", "1:0", "-1:5", "1:2:3"])
def test_a_bad_range_is_refused(text: str) -> None:
    with pytest.raises(RktError, match=r"^invalid range of user IDs "):
        Range.parse(text)


def test_an_id_outside_is_refused() -> None:
    with pytest.raises(RktError, match="user 65536 is not one of the 65536 IDs"):
        Range(65536).outside(65536, "user")


def test_a_chosen_range_is_free() -> None:
    taken = [Range(number << 16) for number in range(1, 0x7FFF)]
    assert str(privateusers.choose(taken)) == f"{0x7FFF << 16}:65536"
    with pytest.raises(RktError, match="no range of 65536 user IDs is free"):
        privateusers.choose([*taken, Range(0x7FFF << 16, 1)])
    # A range of the host that is not aligned takes two of ours.
    assert privateusers.choose([*taken[2:], Range(32767 << 16)]).shift in (1 << 16, 2 << 16)


@needs("root")
def test_a_tree_is_shifted_as_it_is(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True, mode=0o755)
    file = top / "dir" / "file"
    file.write_bytes(b"x")
    os.chown(file, 3, 4)
    file.chmod(0o6755)
    os.link(file, top / "link")
    os.setxattr(file, "security.capability", CAPABILITY)
    (top / "symlink").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo")
    os.chown(top / "fifo", 200000, 0)
    before = os.lstat("/etc/passwd").st_uid
    owners.shift(str(top), Range(1 << 20))
    found = os.stat(file)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (
        3 + (1 << 20),
        4 + (1 << 20),
        0o6755,
    )
    rooted = CAPABILITY[:3] + b"\x03" + CAPABILITY[4:] + (1 << 20).to_bytes(4, "little")
    assert os.getxattr(file, "security.capability") == rooted
    assert os.lstat(top / "symlink").st_uid == 1 << 20
    assert os.lstat(top / "fifo").st_uid == (1 << 20) + 65534
    assert os.stat(top).st_uid == os.stat(top / "dir").st_uid == 1 << 20
    assert os.lstat("/etc/passwd").st_uid == before
    os.chown(top / "dir", 7, 8)  # not one of the range
    owners.shift(str(top), Range(1 << 20), back=True)
    found = os.stat(file)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (3, 4, 0o6755)
    assert os.getxattr(file, "security.capability") == CAPABILITY
    assert os.lstat(top / "fifo").st_uid == 65534
    assert os.stat(top).st_uid == os.lstat(top / "symlink").st_uid == 0
    assert (os.stat(top / "dir").st_uid, os.stat(top / "dir").st_gid) == (7, 8)


def test_a_kernel_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda p: p != "/proc/self/ns/user" and real(p))
    parsed = flags.parse(prepare.COMMAND, ["--private-users", "/no/such.aci"], ())
    context = cast("Context", None)  # nothing of it is looked at before the check
    with pytest.raises(RktError) as caught:
        podflags.pod_request(context, parsed)
    assert caught.value.message == (
        "--private-users is not supported, kernel compiled without user namespace support"
    )
