"""Turn a layer of a docker or OCI image into an image archive of its own.

The archive has the layer's entries below `rootfs`, in their order, and a manifest that names the
layer's blob and lists what it deletes; so its bytes depend on the blob alone, and it is shared by
all images that have the layer.  Only a layer that cannot be read without those below it (a hard
link to their files, a path through their symbolic links) depends on them: its name then says on
which.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError
from rkt.image import layerindex, tar
from rkt.image.aciwriter import AciWriter
from rkt.image.archive import LIMITS, MAX_MANIFEST, Limits, decompress, detect
from rkt.image.layerindex import Entries, LayerIndex, Paths
from rkt.image.merge import Merged, MissingTarget, Outcome
from rkt.image.tar import show
from rkt.image.unpack import Twin
from rkt.linux.spill import Scratch, marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt.image.archive import Readable
    from rkt.image.layerindex import Meta
    from rkt.linux.spill import Table

    _Item = tuple[tar.Entry, bytes, tar.TarReader]
    _OpenCopy = Callable[[int, bytes], tuple[tar.Entry, Iterator[memoryview], Twin | None]]

INDEX_NAME = "index"
"""File in an unpacked layer's tree directory: its LayerIndex, put there by who converted it."""
WHITEOUTS = "oci/whiteouts"
OPAQUES = "oci/opaques"
_PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"
ROOTFS = b"rootfs"
_CHUNK = 1 << 20
_ROOM = 4 << 20
_NO_META: Meta = (0o755, 0, 0, 0, 0)


class NeedsLower(ArchiveError):
    """The layer means something only together with those below it."""


class Converted(msgspec.Struct, array_like=True):
    """A layer that lies in its staging directory, ready for the store."""

    digest: str
    size: int
    tree_size: int
    manifest: bytes
    index: bytes
    """As `layerindex.pack` gives it; empty if there is none, or if it is in the tree directory."""


class _Irregular(Exception):
    """The layer cannot be converted in one pass."""


class Plan:
    """What to do with entries that cannot be taken as they are.

    `open_copy` gives a file of a lower layer: number of the layer, path in it.  `tree` is a
    descriptor of the tree that has all files of the archive already, or -1.
    """

    __slots__ = ("open_copy", "outcome", "tree")

    def __init__(
        self, outcome: Outcome, open_copy: _OpenCopy | None = None, tree: int = -1
    ) -> None:
        self.outcome = outcome
        self.open_copy = open_copy
        self.tree = tree


class Blob(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, fd: int, size: int, start: int = 0) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place counted from the start."""
        assert whence == os.SEEK_SET
        self._at = offset
        return offset

    def read(self, size: int | None = -1, /) -> bytes:
        """Read from the current place."""
        left = self._size - self._at
        count = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._fd, count, self._start + self._at) if count > 0 else b""
        self._at += len(data)
        return data


NOTHING = "nothing"
"""Chain below the lowest layer, for one that cannot stand alone but need not."""


def layer_name(digest: str, chain: str = "") -> str:
    """Name the image of a layer: `sha256:…` of its blob, and of the chain below if it needs it."""
    name = "oci-layer/" + digest.replace(":", "-")
    return f"{name}/on-{chain.replace(':', '-')}" if chain else name


def convert(
    blob: Readable, name: str, staging: str, *, unpack: bool, limits: Limits = LIMITS
) -> Converted:
    """Convert a layer on its own.  Raises NeedsLower when it cannot be, ArchiveError when damaged.

    Leaves `tree` and `split`, or `blob`, in the staging directory.
    """
    index = LayerIndex()
    try:
        entries = _blob_entries(blob, index, limits)
        return _write(entries, index, name, staging, None, unpack=unpack, limits=limits)
    except _Irregular:
        _clear(staging)
    with Scratch.within(staging) as scratch:
        try:
            outcome = Merged(scratch).apply(scan(blob, limits=limits))
        except MissingTarget as err:
            raise NeedsLower(err.message) from None
        if outcome.needs_lower:
            raise NeedsLower("where its entries go depends on the layers below it")
        return convert_planned(blob, name, staging, Plan(outcome), unpack=unpack, limits=limits)


def convert_planned(
    blob: Readable, name: str, staging: str, plan: Plan, *, unpack: bool, limits: Limits = LIMITS
) -> Converted:
    """Convert a layer of which `scan` and `Merged.apply` have shown what is special."""
    index = LayerIndex()
    entries = _blob_entries(blob, index, limits)
    return _write(entries, index, name, staging, plan, unpack=unpack, limits=limits)


def reconvert(
    chunks: Iterator[bytes], old: LayerIndex, name: str, staging: str, plan: Plan, *, unpack: bool
) -> Converted:
    """Convert a layer again out of its image archive, of which `old` is the index."""
    index = LayerIndex(Entries(), old.whiteouts, old.opaques, old.root)
    entries = _archive_entries(chunks)
    return _write(entries, index, name, staging, plan, unpack=unpack, limits=LIMITS)


def scan(blob: Readable, *, limits: Limits = LIMITS) -> LayerIndex:
    """Read what a layer says, without changing anything."""
    index = LayerIndex()
    for entry, path, _ in _blob_entries(blob, index, limits):
        if len(index.entries) >= limits.entries:
            raise ArchiveError(f"layer has more than {limits.entries} entries")
        index.entries.append((entry.kind, path, entry.link))
    return index


def _blob_entries(blob: Readable, index: LayerIndex, limits: Limits) -> Iterator[_Item]:
    """Read a layer; deletions and the root's own entry are noted in the index."""
    reader = tar.TarReader(uncompressed(blob, limits))
    while (entry := reader.next()) is not None:
        path = _place(entry, index)
        if path is not None:
            yield entry, path, reader


def _archive_entries(chunks: Iterator[bytes]) -> Iterator[_Item]:
    """Read the image archive of a layer."""
    reader = tar.TarReader(chunks)
    prefix = ROOTFS + b"/"
    while (entry := reader.next()) is not None:
        if entry.name.startswith(ROOTFS):
            if entry.kind == tar.HARDLINK:
                entry.link = entry.link.removeprefix(prefix)
            yield entry, entry.name.removeprefix(ROOTFS)[1:], reader


def _write(
    entries: Iterator[_Item],
    index: LayerIndex,
    name: str,
    staging: str,
    plan: Plan | None,
    *,
    unpack: bool,
    limits: Limits,
) -> Converted:
    with AciWriter(staging, unpack=unpack, limits=limits) as writer:
        has_root = False
        for ordinal, (entry, where, reader) in enumerate(entries):
            path = where
            twin = None
            if plan is None:
                if path:
                    _check(writer, entry, path)
                elif has_root:
                    raise _Irregular
                has_root = has_root or not path
            elif not path or ordinal in plan.outcome.skipped:
                continue  # of the root's entries the last one counts: written at the end
            else:
                path = plan.outcome.names.get(ordinal) or path
                if entry.kind == tar.HARDLINK:
                    entry.link = _linked(writer, index, entry, ordinal, plan)
                    if entry.link == path:
                        continue  # the copy itself: the file's other names are gone
                elif entry.kind == tar.FILE and plan.tree >= 0:
                    twin = Twin(plan.tree, ROOTFS + b"/" + where)
            index.entries.append((entry.kind, path, entry.link))
            entry.name = ROOTFS + b"/" + path if path else ROOTFS
            if entry.kind == tar.HARDLINK:
                entry.link = ROOTFS + b"/" + entry.link
            writer.add(entry, reader.payload(), twin)
        if not has_root:
            index.entries.append((tar.DIRECTORY, b"", b""))
            writer.add(_root(index))
        if plan is not None:
            for path, _ in plan.outcome.cleared.items():
                _note(index.whiteouts, path, index)
        writer.manifest(_manifest(name, index, writer.layout.scratch))
        written = writer.finish()
    packed = b""
    if unpack:
        layerindex.write(f"{staging}/tree/{INDEX_NAME}", index)
    else:
        packed = layerindex.pack(index)
    return Converted(written.digest, written.size, written.tree_size, written.manifest, packed)


def _clear(staging: str) -> None:
    from rkt.linux import tree

    for part in ("tree", "split", "blob"):
        tree.remove(f"{staging}/{part}")


def uncompressed(blob: Readable, limits: Limits = LIMITS) -> Iterator[bytes]:
    """Give a layer's tar archive; an archive that just ends gets the end marker it lacks.

    What compression it has is seen from its first bytes, not believed.
    """
    blob.seek(0)
    head = blob.read(512)
    blob.seek(0)
    try:
        detect(head)
        chunks = decompress(blob, limits=limits)
    except ArchiveError:
        # Old tar, or nothing but the end marker: the reader checks each header.
        chunks = iter(lambda: blob.read(_CHUNK), b"")
    total = 0
    for chunk in chunks:
        total += len(chunk)
        yield chunk
    if total % tar.BLOCK == 0:
        yield bytes(2 * tar.BLOCK)


def _place(entry: tar.Entry, index: LayerIndex) -> bytes | None:
    """Give an entry's path below the root; None for a deletion, which is noted."""
    path = _cleaned(entry.name)
    if not path:
        if entry.kind != tar.DIRECTORY:
            raise ArchiveError(f"{show(entry.name)}: the root must be a directory")
        index.root = _meta(entry)
        return path
    if _PREFIX in path:
        parts = path.split(b"/")
        deleting = [part for part in parts if part.startswith(_PREFIX)]
        if deleting:
            if len(deleting) == 1 and parts[-1] == deleting[0]:
                _delete(parts, index)
            return None  # whatever is below is aufs' own
    if entry.kind == tar.HARDLINK:
        entry.link = _cleaned(entry.link)
    elif entry.kind == tar.SYMLINK and not entry.link:
        raise ArchiveError(f"{show(path)}: symbolic link without a target")
    return path


def _delete(parts: list[bytes], index: LayerIndex) -> None:
    if parts[-1] == _OPAQUE:
        _note(index.opaques, b"/".join(parts[:-1]), index)
        return
    name = parts[-1][len(_PREFIX) :]
    if name in (b"", b".", b".."):
        raise ArchiveError(f"{show(b'/'.join(parts))}: bad whiteout")
    _note(index.whiteouts, b"/".join((*parts[:-1], name)), index)


def _note(paths: Paths, path: bytes, index: LayerIndex) -> None:
    paths.append(path)
    _check_deletions(index.whiteouts.size + index.opaques.size)


def _check_deletions(size: int) -> None:
    if size > MAX_MANIFEST:
        raise ArchiveError(
            f"the paths that the layer deletes take more than {MAX_MANIFEST >> 20} MiB: "
            "an image manifest cannot list them"
        )


def _cleaned(name: bytes) -> bytes:
    """Make a name relative to the root and canonical."""
    if name[:2] == b"./":
        name = name[2:]
    if name[:1] != b"." and b"/." not in name and b"//" not in name:
        return name.strip(b"/")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise ArchiveError(f'entry {show(name)}: path contains ".."')
    return b"/".join(parts)


def _check(writer: AciWriter, entry: tar.Entry, path: bytes) -> None:
    """Raise _Irregular for an entry that needs a look at the others."""
    kinds = writer.layout.kinds
    name = ROOTFS + b"/" + path
    if name in kinds and (name not in writer.layout.implied or entry.kind != tar.DIRECTORY):
        raise _Irregular
    parent = name.rpartition(b"/")[0]
    kind = kinds.get(parent)
    while kind is None and parent:
        parent = parent.rpartition(b"/")[0]
        kind = kinds.get(parent)
    if kind not in (None, tar.DIRECTORY):
        raise _Irregular
    if entry.kind == tar.HARDLINK:
        target = kinds.get(ROOTFS + b"/" + entry.link)
        if target is None or target == tar.DIRECTORY or entry.link == path:
            raise _Irregular


def _linked(
    writer: AciWriter, index: LayerIndex, entry: tar.Entry, ordinal: int, plan: Plan
) -> bytes:
    """Give a hard link's target; first writes what is only in a lower layer."""
    copy = plan.outcome.copies.get(ordinal)
    if copy is None:
        return plan.outcome.links.get(ordinal) or entry.link
    assert plan.open_copy is not None  # only with layers below
    original, payload, twin = plan.open_copy(copy.layer, copy.source)
    original.name = ROOTFS + b"/" + copy.path
    index.entries.append((original.kind, copy.path, original.link))
    writer.add(original, payload, twin)
    for other in copy.others:
        if other in plan.outcome.replaced:
            continue
        second = tar.Entry()
        second.kind, second.name, second.link = tar.HARDLINK, ROOTFS + b"/" + other, original.name
        second.mode, second.uid, second.gid = original.mode, original.uid, original.gid
        second.mtime = second.atime = original.mtime
        index.entries.append((tar.HARDLINK, other, copy.path))
        writer.add(second)
    return copy.path


def _meta(entry: tar.Entry) -> Meta | None:
    # Each archive must have an entry for its root: one made up here says nothing about it.
    meta = (entry.mode, entry.uid, entry.gid, entry.mtime, entry.atime)
    return None if meta == _NO_META else meta


def _root(index: LayerIndex) -> tar.Entry:
    entry = tar.Entry()
    entry.name, entry.kind = ROOTFS, tar.DIRECTORY
    meta = index.root or _NO_META
    entry.mode, entry.uid, entry.gid, entry.mtime, entry.atime = meta
    return entry


def _manifest(name: str, index: LayerIndex, scratch: Scratch) -> bytes:
    from rkt.schema import codec
    from rkt.schema.image import Annotation, ImageManifest

    notes = tuple(
        Annotation(key, _quoted(paths, scratch))
        for key, paths in ((OPAQUES, index.opaques), (WHITEOUTS, index.whiteouts))
        if paths
    )
    manifest = codec.encode(ImageManifest.create(name, annotations=notes))
    _check_deletions(len(manifest))
    return manifest


def _quoted(paths: Paths, scratch: Scratch) -> str:
    from urllib.parse import quote_from_bytes

    found: Table[bytes, bool] = marks(scratch, room=_ROOM)
    for path in paths:
        found[path] = True
    text = io.StringIO()
    between = ""
    for path, _ in found.items():
        text.write(between + quote_from_bytes(path, safe="/._-+@:,=~"))
        between = " "
    found.drop()
    return text.getvalue()


def _unquoted(text: str) -> Paths:
    from urllib.parse import unquote_to_bytes

    paths = Paths()
    at = 0
    while at < len(text):
        end = text.find(" ", at)
        end = len(text) if end < 0 else end
        paths.append(unquote_to_bytes(text[at:end]))
        at = end + 1
    return paths


def index_of_archive(chunks: Iterator[bytes], annotations: dict[str, str]) -> LayerIndex:
    """Make the index of a layer out of its image archive."""
    whiteouts = _unquoted(annotations.get(WHITEOUTS, ""))
    index = LayerIndex(Entries(), whiteouts, _unquoted(annotations.get(OPAQUES, "")))
    for entry, path, _ in _archive_entries(chunks):
        if not path:
            index.root = _meta(entry)
        index.entries.append((entry.kind, path, entry.link))
    return index
