"""Docker and OCI images for tests, made without rkt's code, and trees to compare."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from typing import TYPE_CHECKING, Any

from rkt_testkit.probes import SEARCH

if TYPE_CHECKING:
    from collections.abc import Sequence

MTIME = 1_600_000_000
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


class Layer:
    """Collects the entries of a layer; methods can be chained."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._raw: bytes | None = None

    @classmethod
    def of(cls, raw: bytes) -> Layer:
        """Take the bytes of a tar archive as they are."""
        layer = cls()
        layer._raw = raw
        return layer

    def add(self, info: tarfile.TarInfo, data: bytes = b"") -> Layer:
        """Add an entry as it is."""
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def entry(self, path: str, kind: bytes, data: bytes = b"", **values: Any) -> Layer:
        """Add an entry with values of TarInfo, and `xattrs`."""
        info = tarfile.TarInfo(path)
        info.type, info.mtime = kind, MTIME
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        xattrs: dict[str, bytes] = values.pop("xattrs", {})
        info.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in xattrs.items()
        }
        for name, value in values.items():
            setattr(info, name, value)
        return self.add(info, data)

    def file(self, path: str, data: bytes | str = b"", **values: Any) -> Layer:
        """Add a file."""
        raw = data.encode() if isinstance(data, str) else data
        return self.entry(path, tarfile.REGTYPE, raw, **values)

    def directory(self, path: str, **values: Any) -> Layer:
        """Add a directory."""
        return self.entry(path, tarfile.DIRTYPE, **values)

    def symlink(self, path: str, target: str, **values: Any) -> Layer:
        """Add a symbolic link."""
        return self.entry(path, tarfile.SYMTYPE, linkname=target, **values)

    def link(self, path: str, target: str, **values: Any) -> Layer:
        """Add a hard link."""
        return self.entry(path, tarfile.LNKTYPE, linkname=target, **values)

    def whiteout(self, path: str) -> Layer:
        """Delete a path of the layers below."""
        parent, _, base = path.rpartition("/")
        return self.file(f"{parent}/.wh.{base}" if parent else f".wh.{base}", mode=0)

    def opaque(self, path: str) -> Layer:
        """Delete the content of a directory of the layers below."""
        return self.file(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq", mode=0)

    def tar(self) -> bytes:
        """Give the archive."""
        if self._raw is not None:
            return self._raw
        self._tar.close()
        return self._buffer.getvalue()


def busybox() -> Layer:
    """Give a layer with a static busybox as the shell, and two users."""
    with open(shutil.which("busybox", path=SEARCH) or "/bin/busybox", "rb") as file:
        data = file.read()
    return (
        Layer().directory("./").directory("bin").file("bin/busybox", data, mode=0o755)
        .symlink("bin/sh", "busybox").directory("etc")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
        .file("etc/group", "root:x:0:\nweb:x:33:\n").file("etc/gone", "x")
        .directory("tmp", mode=0o1777)
    )  # fmt: skip


class Image:
    """An image in memory: blobs by digest, and the digest of its manifest."""

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        config: dict[str, Any] | None = None,
        compression: str = "gzip",
        docker: bool = False,
        **top: Any,
    ) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tars = [layer.tar() for layer in layers]
        self.config = {
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/bin/sh"]} if config is None else config,
            "rootfs": {"type": "layers", "diff_ids": [digest(raw) for raw in self.tars]},
            **top,
        }  # fmt: skip
        kind = f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json"
        self.config_descriptor = self.put(encode(self.config), kind)
        self.layers = [self.put(pack(raw, compression), layer_type(compression, docker=docker))
                       for raw in self.tars]  # fmt: skip
        kind = f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json"
        self.manifest = {
            "schemaVersion": 2, "mediaType": kind, "config": self.config_descriptor,
            "layers": self.layers,
        }  # fmt: skip
        self.descriptor = self.put(encode(self.manifest), kind)

    def put(self, data: bytes, kind: str) -> dict[str, Any]:
        """Keep a blob and give its descriptor."""
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def reseal(self) -> Image:
        """Make the manifest anew after `manifest` was changed."""
        del self.blobs[self.descriptor["digest"]]
        self.descriptor = self.put(encode(self.manifest), self.descriptor["mediaType"])
        return self

    def write(self, path: str, tag: str = "latest", **index: Any) -> str:
        """Write an OCI layout with this image under a tag."""
        for name, data in self.blobs.items():
            target = f"{path}/blobs/{name.replace(':', '/')}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(data)
        notes = {"org.opencontainers.image.ref.name": tag}
        document = {
            "schemaVersion": 2,
            "manifests": [{**self.descriptor, "annotations": notes}],
            **index,
        }
        for name, value in (("index.json", document), ("oci-layout", LAYOUT)):
            with open(f"{path}/{name}", "wb") as file:
                file.write(encode(value))
        return path

    def save(self, path: str, *tags: str) -> str:
        """Write what `docker save` writes."""
        with tarfile.open(path, "w") as archive:
            names = []
            for number, raw in enumerate(self.tars):
                names.append(f"{number:064x}/layer.tar")
                _member(archive, names[-1], raw)
            config = f"{self.config_descriptor['digest'][7:]}.json"
            _member(archive, config, encode(self.config))
            saved = [{"Config": config, "RepoTags": list(tags), "Layers": names}]
            _member(archive, "manifest.json", encode(saved))
        return path


LAYOUT = {"imageLayoutVersion": "1.0.0"}


def archive(directory: str, path: str) -> str:
    """Put a layout into an archive."""
    with tarfile.open(path, "w") as out:
        for name in sorted(os.listdir(directory)):
            out.add(f"{directory}/{name}", arcname=name)
    return path


def _member(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def encode(value: object) -> bytes:
    """Write JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def digest(data: bytes) -> str:
    """Give the digest of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(raw: bytes, compression: str) -> bytes:
    """Compress a layer."""
    if compression == "gzip":
        return gzip.compress(raw, 1, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(raw)
    assert compression == "none"
    return raw


def layer_type(compression: str, *, docker: bool) -> str:
    """Give the media type of a layer."""
    if docker:
        return f"{DOCKER}image.rootfs.diff.tar" + (".gzip" if compression == "gzip" else "")
    return f"{OCI}layer.v1.tar" + ("" if compression == "none" else f"+{compression}")


def listing(root: str) -> dict[str, tuple[object, ...]]:
    """Describe a tree: kind, mode, owner, time, content, attributes and names of each file."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for folder, names, others in os.walk(root):
        for name in [".", *sorted(names + others)] if folder == root else sorted(names + others):
            path = os.path.normpath(f"{folder}/{name}")
            info = os.lstat(path)
            short = os.path.relpath(path, root)
            content: object = info.st_rdev
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            xattrs: tuple[tuple[str, bytes], ...] = ()
            if stat.S_ISREG(info.st_mode):
                keys = sorted(os.listxattr(path, follow_symlinks=False))
                xattrs = tuple((key, os.getxattr(path, key)) for key in keys)
            first = short
            if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
                first = inodes.setdefault(info.st_ino, short)
            found[short] = (
                oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, content, xattrs,
                first,
            )  # fmt: skip
    return found
