"""Images for tests, written without rkt's own code, so that a test has a second opinion."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from rkt_testkit.probes import SEARCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rkt_testkit.keyring import Keyring

APPLETS = (
    "cat", "chmod", "cp", "date", "df", "echo", "env", "false", "find", "grep", "head", "hostname",
    "id", "ip", "ipcs", "kill", "ln", "ls", "mkdir", "mount", "nc", "ping", "printf", "ps", "pwd",
    "readlink", "rm", "sed", "seq", "sh", "sleep", "stat", "stty", "tail", "test", "touch", "tr",
    "true", "tty", "umount", "uname", "wc", "wget", "yes",
)  # fmt: skip
ARCHES = {"x86_64": "amd64", "aarch64": "aarch64", "i686": "i386", "ppc64le": "ppc64le"}


class Aci(NamedTuple):
    """An image that was written: its file, its full ID, and its signature if it has one."""

    path: str
    id: str
    name: str
    signature: str

    @property
    def key(self) -> str:
        """The key that rkt stores and prints: half of the digest."""
        return self.id[: len("sha512-") + 64]


class AciBuilder:
    """An image in the making.  `manifest` is a plain value: change it as the test likes."""

    def __init__(
        self,
        name: str,
        *,
        version: str = "1.0.0",
        exec: Sequence[str] = ("/bin/true",),  # noqa: A002
        app: Mapping[str, object] | None = None,
        user: str = "0",
        group: str = "0",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        base = {"version": version, "os": "linux", "arch": ARCHES[os.uname().machine]}
        self.name = name
        self.manifest: dict[str, object] = {
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": name,
            "labels": [{"name": k, "value": v} for k, v in {**base, **(labels or {})}.items()],
            "app": {"exec": list(exec), "user": user, "group": group, **(app or {})},
        }
        self.raw_manifest: bytes | None = None
        """Written in place of `manifest` when set: for documents that are no JSON at all."""
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        self.directory("", 0o755)

    def add(self, member: tarfile.TarInfo, content: bytes = b"") -> AciBuilder:
        """Add an archive entry as it is; nothing is checked, hostile ones are welcome."""
        member.size = len(content)
        self.members.append((member, content))
        return self

    def _member(self, path: str, kind: bytes, mode: int, owner: tuple[int, int]) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"rootfs/{path.strip('/')}".rstrip("/"))
        member.type, member.mode, member.mtime = kind, mode, 1_500_000_000
        member.uid, member.gid = owner
        return member

    def file(
        self, path: str, content: bytes | str = b"", *, mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
    ) -> AciBuilder:  # fmt: skip
        """Add a regular file."""
        raw = content.encode() if isinstance(content, str) else content
        return self.add(self._member(path, tarfile.REGTYPE, mode, owner), raw)

    def directory(
        self, path: str, mode: int = 0o755, *, owner: tuple[int, int] = (0, 0)
    ) -> AciBuilder:
        """Add a directory."""
        return self.add(self._member(path, tarfile.DIRTYPE, mode, owner))

    def symlink(self, path: str, target: str) -> AciBuilder:
        """Add a symbolic link."""
        member = self._member(path, tarfile.SYMTYPE, 0o777, (0, 0))
        member.linkname = target
        return self.add(member)

    def hardlink(self, path: str, target: str) -> AciBuilder:
        """Add a second name of a file of this image."""
        member = self._member(path, tarfile.LNKTYPE, 0o644, (0, 0))
        member.linkname = f"rootfs/{target.strip('/')}"
        return self.add(member)

    def busybox(self, *applets: str) -> AciBuilder:
        """Add a static busybox, links for its applets, users and the usual directories."""
        with open(shutil.which("busybox", path=SEARCH) or "/bin/busybox", "rb") as file:
            binary = file.read()
        for path in ("bin", "etc", "root", "usr", "usr/bin", "var", "proc", "sys", "dev"):
            self.directory(path)
        self.directory("tmp", 0o1777)
        self.file("bin/busybox", binary, mode=0o755)
        for applet in applets or APPLETS:
            self.symlink(f"bin/{applet}", "busybox")
        self.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
        return self.file("etc/group", "root:x:0:\nalice:x:1000:\nstaff:x:1001:alice\n")

    def script(self, path: str, text: str) -> AciBuilder:
        """Add an executable shell script."""
        return self.file(path, f"#!/bin/sh\n{text}\n", mode=0o755)

    def tar(self, *, manifest_last: bool = False) -> bytes:
        """Give the uncompressed archive."""
        raw = self.raw_manifest
        if raw is None:
            raw = json.dumps(self.manifest).encode()
        head = tarfile.TarInfo("manifest")
        head.size, head.mtime = len(raw), 1_500_000_000
        members = [*self.members, (head, raw)] if manifest_last else [(head, raw), *self.members]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for member, content in members:
                archive.addfile(member, io.BytesIO(content))
        return out.getvalue()

    def build(
        self, path: str, *, compression: str = "gzip", keyring: Keyring | None = None,
        fingerprint: str = "", manifest_last: bool = False,
    ) -> Aci:  # fmt: skip
        """Write the image to `path` (or into that directory), and FILE.asc when given a key."""
        if os.path.isdir(path):
            path = os.path.join(path, self.name.replace("/", "-") + ".aci")
        tar = self.tar(manifest_last=manifest_last)
        packed = compress(tar, compression)
        with open(path, "wb") as file:
            file.write(packed)
        signature = ""
        if keyring is not None:
            signature = path + ".asc"
            with open(signature, "wb") as file:
                file.write(keyring.sign(fingerprint, packed))
        return Aci(path, f"sha512-{hashlib.sha512(tar).hexdigest()}", self.name, signature)


def compress(data: bytes, kind: str) -> bytes:
    """Compress as an image may be: none, gzip, bzip2, xz."""
    if kind == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if kind == "bzip2":
        return bz2.compress(data)
    if kind == "xz":
        return lzma.compress(data, preset=1)
    if kind != "none":
        raise ValueError(f"no such compression: {kind}")
    return data
