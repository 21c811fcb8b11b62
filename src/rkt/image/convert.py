"""Make appc images of a docker or OCI image: one for each layer, and one that puts them together.

appc has no deletions: where a layer deletes something, an image between lists what is left of the
layers below it (`pathWhitelist`).  Nothing here depends on the machine, the time or the order in
which layers arrive: one manifest under one name gives one image ID.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError, KernelError, RktError
from rkt.image import layer as layers
from rkt.image import tar
from rkt.image.aciwriter import AciWriter
from rkt.image.archive import LIMITS
from rkt.image.export import archive_chunks
from rkt.image.ingest import can_own_files
from rkt.image.layer import Blob, Converted, Plan
from rkt.image.merge import LayerIndex, Merged, Outcome
from rkt.image.tar import show
from rkt.schema import codec
from rkt.schema.image import Annotation, Dependency, ImageManifest, Label
from rkt.store.images import SKIPPED, ImageRecord, Remote, Verification, image_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rkt.schema.image import App
    from rkt.store.images import Store

MAX_WHITELIST = 8 << 20
"""Bytes of paths in one image; larger lists are spread over several."""
_DEV_LINKS = (
    (b"fd", b"/proc/self/fd"),
    (b"stderr", b"/dev/console"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/dev/console"),
)
_CHUNK = 1 << 20


class Description(msgspec.Struct, frozen=True):
    """What an image is called and how it runs."""

    name: str
    labels: tuple[Label, ...]
    annotations: tuple[Annotation, ...]
    app: App | None
    latest: bool


class StoredLayer(msgspec.Struct, frozen=True):
    """A layer that is in the store as an image of its own."""

    record: ImageRecord
    index: LayerIndex


def next_chain(chain: str, digest: str) -> str:
    """Give the identity of a layer together with all those below it."""
    if not chain:
        return digest
    return "sha256:" + hashlib.sha256(f"{chain} {digest}".encode()).hexdigest()


def stored_layer(store: Store, digest: str, chain: str = "") -> StoredLayer | None:
    """Find a converted layer; None if it is not there, or not as whole as it must be."""
    name = layers.layer_name(digest, chain)
    known = store.remote(name)
    if known is None:
        return None
    try:
        record = store.get(known.key)
        # A member of the group may have written the row, but not the manifest in root's tree.
        if record.name != name or store.manifest(record.key).name != name:
            return None
        if can_own_files():
            # Root believes only what root has converted: its trees are out of others' reach.
            if not record.unpacked:
                return None
            index = layers.read_index(f"{store.tree_path(record.key)}/{layers.INDEX_NAME}")
            return StoredLayer(record, index) if index is not None else None
        manifest = store.manifest(record.key)
        notes = {note.name: note.value for note in manifest.annotations}
        return StoredLayer(record, layers.index_of_archive(_headers(store, record), notes))
    except (RktError, OSError):
        return None


def _headers(store: Store, record: ImageRecord) -> Iterator[bytes]:
    if not record.unpacked:
        yield from archive_chunks(store, record.key)
        return
    from rkt.image.split import skeleton

    with open(store.split_path(record.key), "rb") as file:
        yield from skeleton(file)


def place_layer(
    store: Store, staging: str, converted: Converted, name: str, source: str
) -> StoredLayer:
    """Move a converted layer from its staging directory into the store."""
    record = _place(store, staging, converted, name, (), source=source, latest=False)
    store.put_remote(Remote(name, "", 0, time.time_ns(), record.key))
    return StoredLayer(record, converted.index)


def _place(
    store: Store,
    staging: str,
    done: Converted,
    name: str,
    labels: Iterable[Label],
    *,
    source: str,
    latest: bool,
) -> ImageRecord:
    now = time.time_ns()
    record = ImageRecord(
        key=image_key(done.digest),
        digest=done.digest,
        name=name,
        labels=tuple((label.name, label.value) for label in labels),
        import_time=now,
        last_used=now,
        latest=latest,
        size=done.size,
        tree_size=done.tree_size,
        unpacked=can_own_files(),
        source=source,
        verification=Verification(SKIPPED, when=now),
    )
    return store.place(record, staging, manifest=done.manifest)


class Assembly:
    """Puts an image together; give it all layers, lowest first, then `finish`."""

    def __init__(self, store: Store, source: str) -> None:
        self._store = store
        self._source = source
        self._merged = Merged()
        self._layers: list[StoredLayer] = []
        self.chain = ""
        """Identity of the layers so far."""

    def add(self, digest: str, layer: StoredLayer | None, blob: Blob | None) -> None:
        """Put a layer on top.

        `layer` is None if the layer cannot stand alone: then it is made from the blob.  Raises
        ArchiveError.
        """
        below, self.chain = self.chain, next_chain(self.chain, digest)
        if layer is not None:
            outcome = self._merged.apply(layer.index)
            if not outcome.is_plain:
                layer = self._bound_layer(digest, below, layer, None, outcome)
        else:
            layer = stored_layer(self._store, digest, below)
            if layer is not None:
                self._merged.apply(layer.index)
            else:
                assert blob is not None
                outcome = self._merged.apply(layers.scan(blob))
                layer = self._bound_layer(digest, below, None, blob, outcome)
        self._layers.append(layer)

    def _bound_layer(
        self,
        digest: str,
        below: str,
        alone: StoredLayer | None,
        blob: Blob | None,
        outcome: Outcome,
    ) -> StoredLayer:
        """Give the layer in the form that it has on top of just these layers."""
        found = stored_layer(self._store, digest, below)
        if found is not None:
            return found
        name = layers.layer_name(digest, below)
        wanted: dict[int, set[bytes]] = {}
        for copy in outcome.copies.values():
            wanted.setdefault(copy.layer, set()).add(copy.source)
        with (
            self._store.tmp_dir() as staging,
            _Copies(self._store, staging, self._layers, wanted) as copies,
        ):
            plan = Plan(outcome, copies)
            unpack = can_own_files()
            if alone is not None:
                chunks = archive_chunks(self._store, alone.record.key)
                converted = layers.reconvert(
                    chunks, alone.index, name, staging, plan, unpack=unpack
                )
            else:
                assert blob is not None
                converted = layers.convert_planned(blob, name, staging, plan, unpack=unpack)
            return place_layer(self._store, staging, converted, name, self._source)

    def finish(self, about: Description) -> ImageRecord:
        """Make the image itself."""
        final = self._merged.paths() if self._merged.has_lost else None
        dependencies: list[Dependency] = []
        rescued: list[tuple[int, bytes]] = []
        for group in self._groups(final):
            if group.whitelist is None:
                one = self._layers[group.members[0]].record
                dependencies.append(_dependency(one))
                continue
            rescued += group.rescued
            dependencies.append(_dependency(self._selection(group)))
        manifest = ImageManifest.create(
            about.name, labels=about.labels, app=about.app, annotations=about.annotations,
            dependencies=tuple(dependencies),
        )  # fmt: skip
        with self._store.tmp_dir() as staging:
            entries = self._top_entries(staging, rescued)
            done = _write(staging, codec.encode(manifest), entries)
            return _place(
                self._store, staging, done, about.name, about.labels,
                source=self._source, latest=about.latest,
            )  # fmt: skip

    # -- deletions

    def _groups(self, final: set[bytes] | None) -> list[_Group]:
        """Divide the layers into those that are taken whole and runs of which something is left."""
        if final is None:
            return [_Group([number]) for number in range(len(self._layers))]
        lossy = [
            any(path and path not in final for _, path, _ in one.index.entries)
            for one in self._layers
        ]
        groups: list[_Group] = []
        size = 0
        for number, one in enumerate(self._layers):
            if not any(lossy[number:]) or not any(lossy[: number + 1]):
                groups.append(_Group([number]))  # nothing is lost from here up, or down to here
                continue
            kept = {path for _, path, _ in one.index.entries if path and path in final}
            weight = sum(len(path) + 4 for path in kept)
            if weight > MAX_WHITELIST + (MAX_WHITELIST >> 1):
                raise ArchiveError(
                    f"layer has too many files ({len(kept)}) to keep beside what is deleted of it"
                )
            last = groups[-1] if groups else None
            if last is None or last.whitelist is None or size + weight > MAX_WHITELIST:
                last = _Group([], set())
                groups.append(last)
                size = 0
            assert last.whitelist is not None
            size += weight
            last.members.append(number)
            for path in kept:
                try:
                    last.whitelist.add("/" + path.decode())
                except UnicodeDecodeError:
                    last.rescued.append((number, path))
        return groups

    def _selection(self, group: _Group) -> ImageRecord:
        """Store the image that takes over only what is left of some layers."""
        assert group.whitelist is not None
        below = tuple(_dependency(self._layers[number].record) for number in group.members)
        paths = tuple(sorted(group.whitelist)) or ("/.",)
        text = "\0".join((*(one.image_id or "" for one in below), *paths))
        name = "oci-layers/sha256-" + hashlib.sha256(text.encode()).hexdigest()
        manifest = ImageManifest.create(name, dependencies=below, path_whitelist=paths)
        with self._store.tmp_dir() as staging:
            done = _write(staging, codec.encode(manifest), [(_directory(layers.ROOTFS), ())])
            return _place(self._store, staging, done, name, (), source=self._source, latest=False)

    # -- the image itself

    def _top_entries(self, staging: str, rescued: list[tuple[int, bytes]]) -> Iterator[_Member]:
        root = _directory(layers.ROOTFS)
        if self._merged.root_meta is not None:
            root.mode, root.uid, root.gid, root.mtime, root.atime = self._merged.root_meta
        yield root, ()
        bare = self._merged.bare_directories()
        for path in sorted(bare):
            yield _directory(_below(path)), ()
        sources: dict[bytes, tuple[int, bytes]] = {}
        wanted: dict[int, set[bytes]] = {}
        for number, path in rescued:
            node = self._merged.find(path)
            if node is not None and node.layer == number and path not in bare:
                sources[path] = (number, node.first or path)
                wanted.setdefault(number, set()).add(node.first or path)
        with _Copies(self._store, staging, self._layers, wanted) as copies:
            for path in sorted(sources):
                entry, payload = copies(*sources[path])
                entry.name = _below(path)
                yield entry, payload
        dev = self._merged.find(b"dev")
        if dev is not None and dev.kind != tar.DIRECTORY:
            raise ArchiveError('invalid layer: "/dev" is not a directory')
        for name, target in _DEV_LINKS:
            link = tar.Entry()
            link.kind, link.mode = tar.SYMLINK, 0o777
            link.name, link.link = _below(b"dev/" + name), target
            yield link, ()


class _Group:
    """Layers that become one dependency: one as it is, or several of which some is left."""

    __slots__ = ("members", "rescued", "whitelist")

    def __init__(self, members: list[int], whitelist: set[str] | None = None) -> None:
        self.members = members
        self.whitelist = whitelist
        self.rescued: list[tuple[int, bytes]] = []
        """Files that a list cannot name, since JSON holds text only."""


class _Copies:
    """Reads files of stored layers, each layer once."""

    def __init__(
        self,
        store: Store,
        staging: str,
        stored: list[StoredLayer],
        wanted: dict[int, set[bytes]],
    ) -> None:
        self._store = store
        self._staging = staging
        self._layers = stored
        self._wanted = wanted
        self._found: dict[tuple[int, bytes], tuple[tar.Entry, int]] = {}
        self._spool = -1
        self._size = 0

    def __enter__(self) -> _Copies:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spool >= 0:
            os.close(self._spool)

    def __call__(self, layer: int, path: bytes) -> tuple[tar.Entry, Iterator[memoryview]]:
        """Give an entry and its payload."""
        if (layer, path) not in self._found:
            self._read(layer)
        try:
            entry, start = self._found[layer, path]
        except KeyError:
            raise ArchiveError(f"layer has no file {show(path)}") from None
        return entry, self._payload(start, entry.stored)

    def _read(self, layer: int) -> None:
        wanted = {_below(path): path for path in self._wanted.get(layer, ())}
        if self._spool < 0:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            self._spool = os.open(self._staging, flags, 0o600)
        reader = tar.TarReader(archive_chunks(self._store, self._layers[layer].record.key))
        while (entry := reader.next()) is not None:
            path = wanted.get(entry.name)
            if path is None:
                continue
            if entry.kind == tar.HARDLINK:
                raise ArchiveError(f"{show(path)}: a further name of a file cannot be kept here")
            self._found[layer, path] = (entry, self._size)
            for piece in reader.payload():
                self._size += os.pwrite(self._spool, piece, self._size)

    def _payload(self, start: int, count: int) -> Iterator[memoryview]:
        while count:
            data = os.pread(self._spool, min(count, _CHUNK), start)
            yield memoryview(data)
            start += len(data)
            count -= len(data)


if TYPE_CHECKING:
    _Member = tuple[tar.Entry, Iterable[memoryview]]


def _write(staging: str, manifest: bytes, entries: Iterable[_Member]) -> Converted:
    try:
        with AciWriter(staging, unpack=can_own_files(), limits=LIMITS) as writer:
            for entry, payload in entries:
                writer.add(entry, payload)
            writer.manifest(manifest)
            done = writer.finish()
    except OSError as err:
        raise KernelError("cannot write image", err, staging) from err
    return Converted(done.digest, done.size, done.tree_size, manifest, LayerIndex())


def _dependency(record: ImageRecord) -> Dependency:
    return Dependency(record.name, f"sha512-{record.digest}")


def _directory(name: bytes) -> tar.Entry:
    entry = tar.Entry()
    entry.kind, entry.name, entry.mode = tar.DIRECTORY, name, 0o755
    return entry


def _below(path: bytes) -> bytes:
    return layers.ROOTFS + b"/" + path
