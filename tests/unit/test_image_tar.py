"""The tar reader: every form that real tools write, and nothing that is ambiguous."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkt.errors import ArchiveError
from rkt.image import tar
from rkt.image.tar import TarReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = "d/" * 70 + "n" * 120


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return iter([data[at : at + size] for at in range(0, len(data), size)])


def read(data: bytes, chunk: int = 1 << 20) -> list[tuple[tar.Entry, bytes]]:
    """Read an archive, and check that raw parts and payload are all of it, in order."""
    seen = bytearray()
    reader = TarReader(pieces(data, chunk), raw=seen.extend)
    found = []
    while (entry := reader.next()) is not None:
        content = b"".join(bytes(piece) for piece in reader.payload())
        seen += content
        found.append((entry, content))
    assert bytes(seen) == data
    return found


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def with_header(change: dict[tuple[int, int], bytes], *, payload: bytes = b"") -> bytes:
    """Make an archive of one file whose header fields are as given, with a right checksum."""
    header = bytearray(archive((member("f"), payload))[:512])
    for (start, end), value in change.items():
        header[start:end] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + payload + bytes(-len(payload) % 512) + bytes(1024)


FORMS = pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)  # fmt: skip


@FORMS
@pytest.mark.parametrize("chunk", [1, 7, 512, 513, 1 << 20])
def test_what_tarfile_writes(form: int, chunk: int) -> None:
    data = archive(
        (member("rootfs", type=tarfile.DIRTYPE, mode=0o755), b""),
        (member("rootfs/f", mode=0o4755, uid=12, gid=34, mtime=1_500_000_000), b"x" * 1000),
        (member("rootfs/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (member("rootfs/h", type=tarfile.LNKTYPE, linkname="rootfs/f"), b""),
        (member("rootfs/c", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        (member("rootfs/p", type=tarfile.FIFOTYPE), b""),
        (member("rootfs/" + "a" * 90 + "/" + "b" * 40), b"deep"),
        (member("rootfs/empty"), b""),
        form=form,
    )
    entries = read(data, chunk)
    kinds = [entry.kind for entry, _ in entries]
    assert kinds == [
        tar.DIRECTORY, tar.FILE, tar.SYMLINK, tar.HARDLINK, tar.CHAR, tar.FIFO, tar.FILE, tar.FILE,
    ]  # fmt: skip
    file, content = entries[1]
    assert (file.mode, file.uid, file.gid, file.mtime) == (0o4755, 12, 34, 1_500_000_000 * 10**9)
    assert content == b"x" * 1000
    assert entries[2][0].link == b"/etc/passwd"
    assert entries[3][0].link == b"rootfs/f"
    assert (entries[4][0].major, entries[4][0].minor) == (1, 3)
    assert entries[6][0].name == b"rootfs/" + b"a" * 90 + b"/" + b"b" * 40
    assert entries[6][1] == b"deep"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_large_ids_and_old_times(form: int) -> None:
    data = archive(
        (member(LONG, uid=3_000_000, gid=4_000_000_000, mtime=-5), b"1"),
        (member("s", type=tarfile.SYMTYPE, linkname=LONG), b""),
        form=form,
    )
    (file, _), (link, _) = read(data, 100)
    assert file.name.decode() == LONG
    assert (file.uid, file.gid, file.mtime) == (3_000_000, 4_000_000_000, -5 * 10**9)
    assert link.link.decode() == LONG


def test_pax_times_and_attributes() -> None:
    info = member("f")
    info.pax_headers = {
        "mtime": "1500000000.123456789", "atime": "7.5", "SCHILY.xattr.user.a": "v=1\n",
        "LIBARCHIVE.xattr.user.b%20c": "aGk", "comment": "ignored",
    }  # fmt: skip
    ((entry, _),) = read(archive((info, b"")))
    assert entry.mtime == 1_500_000_000_123_456_789
    assert entry.atime == 7_500_000_000
    assert entry.xattrs == {b"user.a": b"v=1\n", b"user.b c": b"hi"}


def test_global_headers_are_ignored() -> None:
    out = io.BytesIO()
    headers = {"comment": "c", "path": "elsewhere"}
    with tarfile.open(fileobj=out, mode="w", pax_headers=headers) as file:
        file.addfile(member("f"))
    assert [entry.name for entry, _ in read(out.getvalue())] == [b"f"]


@pytest.mark.parametrize("form", ["gnu", "pax0.0", "pax0.1", "pax1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, form: str) -> None:
    with open(f"{tmp_path}/sparse", "wb") as file:
        for at in range(40):  # more pieces than one header has room for
            file.seek(at * 100_000)
            file.write(b"%04d" % at * 256)
        file.truncate(5_000_000)
    options = [f"--format={form[:3]}"] + ([f"--sparse-version={form[3:]}"] if form != "gnu" else [])
    made = subprocess.run(
        ["tar", "-C", str(tmp_path), "-c", "--sparse", *options, "sparse"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    ((entry, content),) = read(made, 1000)
    assert entry.name == b"sparse"
    assert entry.size == 5_000_000
    assert entry.sparse is not None
    plain = bytearray(entry.size)
    at = 0
    for offset, length in entry.sparse:
        plain[offset : offset + length] = content[at : at + length]
        at += length
    assert bytes(plain) == (tmp_path / "sparse").read_bytes()


def test_payload_may_be_left_alone() -> None:
    data = archive((member("a"), b"x" * 5000), (member("b"), b"y"))
    reader = TarReader(pieces(data, 300))
    names = []
    while (entry := reader.next()) is not None:
        names.append(entry.name)
    assert names == [b"a", b"b"]


@pytest.mark.parametrize("end", [512, 1024, 10240])
def test_ends_of_archives(end: int) -> None:
    data = archive((member("f"), b"x"))[:1024] + bytes(end)
    assert len(read(data, 600)) == 1


NAME, UID, SIZE, FLAG = (0, 100), (108, 116), (124, 136), (156, 157)
HUGE = b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7


def pax(record: bytes) -> bytes:
    header = with_header({FLAG: b"x", SIZE: b"%011o\0" % len(record)})[:512]
    return header + record + bytes(-len(record) % 512) + archive((member("f"), b"x"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (archive((member("f"), b"x"))[:1000], "unexpected end of file"),
        (archive((member("f"), b"x"))[:1024], "unexpected end of file"),
        (archive((member("f"), b"x"))[:300], "unexpected end of file"),
        (archive((member("f"), b"x" * 5000))[:2000], "unexpected end of file"),
        (b"A" + archive((member("f"), b"x"))[1:], "bad header checksum"),
        (b"\xff" * 512, "bad checksum in a header|bad header checksum|negative checksum"),
        (with_header({FLAG: b"V"}), '"f": unsupported type: 86'),
        (with_header({FLAG: b"D"}), "unsupported type: 68"),
        (with_header({SIZE: b"0000000001x\0"}), "bad size in a header"),
        (with_header({SIZE: b"-0000000001\0"}), "bad size in a header"),
        (with_header({SIZE: b"0_000000001\0"}), "bad size in a header"),
        (with_header({SIZE: b"\xff" * 12}), "negative size in a header"),
        (with_header({SIZE: HUGE}), "out of range"),
        (with_header({UID: b"\xff" * 8}), "negative uid in a header"),
        (with_header({UID: b"\x80\0\0\0" + b"\xff" * 4}), "owner 4294967295:0 is out of range"),
        (with_header({NAME: bytes(100)}), 'bad entry name ""'),
        (with_header({NAME: b"f/".ljust(100, b"\0")}), 'name of a file ends in "/"'),
        (archive((member("f"), b"x"))[:1024] + bytes(512) + archive((member("g"), b"")),
         "data after the end of the archive"),
        (archive((member("f"), b"x")) + b"tail", "data after the end of the archive"),
        (with_header({FLAG: b"x", SIZE: b"%011o\0" % 0})[:512] + bytes(1024), "has no entry"),
        (with_header({FLAG: b"L", SIZE: b"%011o\0" % (2 << 20)}), "extended header of 2097152 b"),
        (pax(b"nonsense"), "bad pax record"),
        (pax(b"99 path=x\n"), "bad pax record"),
        (pax(b"10 path=xy"), "bad pax record"),
        (pax(b"8 pathxy"), "bad pax record"),
        (pax(b"0 path=x\n"), "bad pax record"),
        (pax(b"10 size=x\n"), "bad size in an extended header"),
        (pax(b"11 size=-1\n"), "bad size in an extended header"),
        (pax(b"11 mtime=x\n"), "bad time in an extended header"),
        (pax(b"10 path=\0\n"), "bad entry name"),
        (pax(b"9 path=\0\n") , "bad pax record|bad entry name"),
        (pax(b"30 size=9999999999999999999\n"), "out of range|bad pax record"),
        (pax(b"12 path=abc\n") [:1024] + pax(b"12 path=abc\n"), "two extended headers"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse file without a size"),
        (pax(b"22 GNU.sparse.major=1\n26 GNU.sparse.realsize=10\n"), "bad map|bad sparse map"),
        (pax(b"24 GNU.sparse.map=0,9,1\n22 GNU.sparse.size=10\n"), "bad sparse map"),
        (pax(b"24 GNU.sparse.map=5,3,0\n22 GNU.sparse.size=10\n"), "bad sparse map"),
        (pax(b"26 GNU.sparse.map=5,9,0,1\n22 GNU.sparse.size=10\n"), "bad sparse map"),
        (pax(b"22 GNU.sparse.map=0,2\n22 GNU.sparse.size=10\n"), "does not fit the payload"),
        (pax(b"22 GNU.sparse.size=10\n"), "unsupported form of sparse file"),
    ],
)  # fmt: skip
def test_bad_archives(data: bytes, text: str) -> None:
    with pytest.raises(ArchiveError, match=text):
        read(data)


def test_too_many_attributes() -> None:
    info = member("f")
    info.pax_headers = {f"SCHILY.xattr.user.{n}": "v" for n in range(65)}
    with pytest.raises(ArchiveError, match='"f": too many extended attributes'):
        read(archive((info, b"")))


SAMPLES = [
    archive(
        (member("rootfs/f", mode=0o755, uid=5), b"x" * 700),
        (member(LONG), b"y"),
        (member("rootfs/l", type=tarfile.SYMTYPE, linkname="f"), b""),
        form=form,
    )
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=12)), max_size=4),
    st.integers(0, 12000),
    st.booleans(),
)
def test_damage_is_an_archive_error_and_nothing_else(
    data: bytes, changes: list[tuple[int, bytes]], length: int, repair: bool
) -> None:
    broken = bytearray(data)
    for at, value in changes:
        broken[at : at + len(value)] = value
    if repair:  # let the damage get past the checksum
        for at in range(0, len(broken) - 511, 512):
            if broken[at + 257 : at + 262] == b"ustar":
                broken[at + 148 : at + 156] = b" " * 8
                broken[at + 148 : at + 156] = b"%06o\0 " % sum(broken[at : at + 512])
    try:
        read(bytes(broken[:length]), 333)
    except ArchiveError as err:
        assert len(str(err)) < 400


def test_names_of_any_bytes_can_be_shown() -> None:
    assert tar.show(b"a\xff") == '"a\udcff"'
    assert len(tar.show(b"x" * 5000)) < 210
    assert os.fsencode(tar.show(b"a\xff")) == b'"a\xff"'
