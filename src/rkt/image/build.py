"""Make an image archive out of a directory: the same bytes from the same files, every time."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rkt.errors import ArchiveError, KernelError
from rkt.linux import tree, treecopy
from rkt.linux.newfile import new_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

BLOCK = 512
_CHUNK = 1 << 20
_OCTAL_8 = 0o7777777
_OCTAL_12 = 0o77777777777
COMPRESSIONS = ("gzip", "zstd", "xz", "bzip2", "none")


class TarWriter:
    """Write ustar headers, with pax records where ustar has no room."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._size = 0

    def add(
        self,
        name: str,
        *,
        type_flag: bytes,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        link: str = "",
        device: tuple[int, int] = (0, 0),
        xattrs: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Write the header of an entry; `mtime` in ns.  `data()` with `size` bytes must follow."""
        raw_name, raw_link = os.fsencode(name), os.fsencode(link)
        records: list[tuple[bytes, bytes]] = []
        if len(raw_name) > 100:
            records.append((b"path", raw_name))
        if len(raw_link) > 100:
            records.append((b"linkpath", raw_link))
        if size > _OCTAL_12:
            records.append((b"size", b"%d" % size))
        if uid > _OCTAL_8:
            records.append((b"uid", b"%d" % uid))
        if gid > _OCTAL_8:
            records.append((b"gid", b"%d" % gid))
        seconds, nano = divmod(mtime, 1_000_000_000)
        if nano or not 0 <= seconds <= _OCTAL_12:
            records.append((b"mtime", _pax_time(mtime)))
        for key, value in xattrs:
            records.append((b"SCHILY.xattr." + os.fsencode(key), value))
        if records:
            data = b"".join(_pax_record(key, value) for key, value in records)
            self._header(b"PaxHeaders/" + raw_name[-80:], b"x", size=len(data))
            self.data(data)
            self.pad()
        self._header(
            raw_name, type_flag, mode=mode, uid=uid, gid=gid, size=size, mtime=seconds,
            link=raw_link, device=device,
        )  # fmt: skip

    def data(self, data: bytes) -> None:
        """Write payload."""
        self._out.write(data)
        self._size += len(data)

    def pad(self) -> None:
        """Fill up to the next block."""
        self.data(bytes(-self._size % BLOCK))

    def finish(self) -> None:
        """Write the end of the archive."""
        self.data(bytes(2 * BLOCK))

    def _header(
        self,
        name: bytes,
        type_flag: bytes,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        link: bytes = b"",
        device: tuple[int, int] = (0, 0),
    ) -> None:
        header = b"".join((
            name[:100].ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % (uid if uid <= _OCTAL_8 else 0),
            b"%07o\0" % (gid if gid <= _OCTAL_8 else 0),
            b"%011o\0" % (size if size <= _OCTAL_12 else 0),
            b"%011o\0" % min(max(mtime, 0), _OCTAL_12),
            b" " * 8,
            type_flag,
            link[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            bytes(155 + 12),
        ))  # fmt: skip
        checksum = b"%06o\0 " % sum(header)
        self.data(header[:148] + checksum + header[156:])


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def _pax_time(nanoseconds: int) -> bytes:
    whole, nano = divmod(abs(nanoseconds), 1_000_000_000)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{whole}.{nano:09d}".rstrip("0").rstrip(".").encode()


def build_aci(
    layout_dir: str,
    out_path: str,
    *,
    compression: str = "gzip",
    overwrite: bool = False,
    source_date: int | None = None,
) -> None:
    """Write an image archive of a directory that holds `manifest` and `rootfs`.

    Entries are sorted, second names of a file become hard links, sockets are left out, the manifest
    comes last.  Times newer than `source_date` (s since 1970) are set to it.  Raises ArchiveError,
    SchemaError or KernelError, and leaves no file then.
    """
    if compression not in COMPRESSIONS:
        raise ArchiveError(f'unknown compression "{compression}"')
    if _is_below(out_path, layout_dir):
        raise ArchiveError(f'"{out_path}" is inside "{layout_dir}", of which the image is made')
    manifest = _check_layout(layout_dir)
    if not overwrite and os.path.lexists(out_path):
        raise ArchiveError(f'"{out_path}" exists')
    try:
        with new_file(out_path) as file, _compressor(file, compression) as out:
            writer = TarWriter(out)
            _write_tree(writer, layout_dir, source_date)
            when = 0 if source_date is None else source_date
            if source_date is None:
                when = int(os.stat(f"{layout_dir}/manifest").st_mtime)
            writer.add(
                "manifest", type_flag=b"0", mode=0o644, size=len(manifest),
                mtime=when * 1_000_000_000,
            )  # fmt: skip
            writer.data(manifest)
            writer.pad()
            writer.finish()
    except OSError as err:
        raise KernelError("cannot build image", err, err.filename or out_path) from err


def _is_below(path: str, directory: str) -> bool:
    top = os.path.realpath(directory)
    return os.path.commonpath((os.path.realpath(path), top)) == top


def _check_layout(layout_dir: str) -> bytes:
    from rkt.schema.image import decode_image_manifest

    try:
        found = sorted(os.listdir(layout_dir))
    except OSError as err:
        raise KernelError("cannot read", err, layout_dir) from err
    for name in found:
        if name not in ("manifest", "rootfs"):
            raise ArchiveError(f'unrecognized file path in layout: "{name}"')
    if "manifest" not in found:
        raise ArchiveError("no image manifest found in layout")
    if "rootfs" not in found:
        raise ArchiveError("no rootfs found in layout")
    if os.path.islink(f"{layout_dir}/rootfs") or not os.path.isdir(f"{layout_dir}/rootfs"):
        raise ArchiveError("rootfs is not a directory")
    with open(f"{layout_dir}/manifest", "rb") as file:
        manifest = file.read()
    decode_image_manifest(manifest, "image manifest validation failed")
    return manifest


def _write_tree(writer: TarWriter, layout_dir: str, source_date: int | None) -> None:
    limit = None if source_date is None else source_date * 1_000_000_000
    root = os.open(f"{layout_dir}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        links: dict[tuple[int, int], str] = {}
        last: str | None = None
        for path, fd, entries in tree.walk(root):
            base = f"rootfs/{path}" if path else "rootfs"
            if path != last:
                last = path
                _write_node(writer, fd, "", base, os.fstat(fd), limit)
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode) or stat.S_ISSOCK(info.st_mode):
                    continue
                name = f"{base}/{entry.name}"
                first = name
                if info.st_nlink > 1:
                    first = links.setdefault((info.st_dev, info.st_ino), name)
                if first != name:
                    writer.add(
                        name, type_flag=b"1", mode=stat.S_IMODE(info.st_mode), uid=info.st_uid,
                        gid=info.st_gid, mtime=_clamp(info.st_mtime_ns, limit), link=first,
                    )  # fmt: skip
                    continue
                _write_node(writer, fd, entry.name, name, info, limit)
    finally:
        os.close(root)


def _clamp(mtime: int, limit: int | None) -> int:
    # With a fixed date, and without one, whole seconds: many file systems and readers have no more.
    whole = mtime - mtime % 1_000_000_000
    return whole if limit is None else min(whole, limit)


_FLAGS = {
    stat.S_IFDIR: b"5", stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4", stat.S_IFIFO: b"6",
}  # fmt: skip


def _write_node(
    writer: TarWriter, dir_fd: int, base: str, name: str, info: os.stat_result, limit: int | None
) -> None:
    kind = stat.S_IFMT(info.st_mode)
    is_file = kind == stat.S_IFREG
    link = os.readlink(base, dir_fd=dir_fd) if kind == stat.S_IFLNK else ""
    fd = -1
    if is_file:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(base, flags, dir_fd=dir_fd)
    try:
        xattrs = []
        if is_file:
            xattrs = [(n, os.getxattr(fd, n)) for n in sorted(os.listxattr(fd))]
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        device = (os.major(info.st_rdev), os.minor(info.st_rdev)) if is_device else (0, 0)
        writer.add(
            name, type_flag=_FLAGS[kind], mode=stat.S_IMODE(info.st_mode), uid=info.st_uid,
            gid=info.st_gid, size=info.st_size if is_file else 0,
            mtime=_clamp(info.st_mtime_ns, limit), link=link, device=device,
            xattrs=[(n, v) for n, v in xattrs if treecopy.is_kept_xattr(n)],
        )  # fmt: skip
        left = info.st_size if is_file else 0
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                raise ArchiveError(f'"{name}" became shorter while it was read')
            writer.data(data)
            left -= len(data)
        writer.pad()
    finally:
        if fd >= 0:
            os.close(fd)


def _compressor(file: BinaryIO, kind: str) -> AbstractContextManager[BinaryIO]:
    from contextlib import nullcontext

    if kind == "none":
        return nullcontext(file)
    if kind == "gzip":
        import gzip

        # mtime and name in the header would make two builds differ
        return gzip.GzipFile("", "wb", 6, file, mtime=0)  # type: ignore[return-value]
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(file, "wb")  # type: ignore[return-value]
    if kind == "xz":
        import lzma

        return lzma.LZMAFile(file, "wb")  # type: ignore[return-value]
    import zstandard

    return zstandard.ZstdCompressor(level=9).stream_writer(file, closefd=False)
