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

from rkt.errors import ArchiveError, KernelError, RktError, StoreError
from rkt.image import layer as layers
from rkt.image import layerindex, tar
from rkt.image.aciwriter import AciWriter
from rkt.image.archive import LIMITS
from rkt.image.export import archive_chunks
from rkt.image.ingest import can_own_files
from rkt.image.layer import Blob, Converted, Plan
from rkt.image.layerindex import LayerIndex
from rkt.image.merge import Merged, Outcome
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
_VERBATIM = bytes(byte for byte in range(256) if byte >= 0x20 and byte not in b'"\\')
"""Bytes that JSON does not write as an escape."""


class Description(msgspec.Struct, frozen=True):
    """What an image is called and how it runs."""

    name: str
    labels: tuple[Label, ...]
    annotations: tuple[Annotation, ...]
    app: App | None
    latest: bool


class StoredLayer:
    """A layer that is in the store as an image of its own."""

    __slots__ = ("_kept", "_path", "record")

    def __init__(self, record: ImageRecord, *, path: str = "", kept: LayerIndex | None = None):
        self.record = record
        self._path = path
        self._kept = kept

    @property
    def index(self) -> LayerIndex:
        """Give what the layer says; it is read again each time, since it may be large.

        Raises StoreError.
        """
        if self._kept is not None:
            return self._kept
        found = layerindex.read(self._path)
        if found is None:
            raise StoreError(f'image "{self.record.key}" is damaged: its index is missing')
        return found


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
            path = _index_path(store, record)
            return StoredLayer(record, path=path) if layerindex.read(path) is not None else None
        manifest = store.manifest(record.key)
        notes = {note.name: note.value for note in manifest.annotations}
        kept = layers.index_of_archive(_headers(store, record), notes)
        return StoredLayer(record, kept=kept)
    except (RktError, OSError):
        return None


def _index_path(store: Store, record: ImageRecord) -> str:
    return f"{store.tree_path(record.key)}/{layers.INDEX_NAME}"


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
    if can_own_files():
        return StoredLayer(record, path=_index_path(store, record))
    return StoredLayer(record, kept=converted.index)


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
        dependencies: list[Dependency] = []
        rescued: list[tuple[int, bytes]] = []
        for group in self._groups():
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

    def _groups(self) -> Iterator[_Group]:
        """Divide the layers into those that are taken whole and runs of which something is left."""
        numbers = range(len(self._layers))
        lossy = [self._merged.has_lost and self._is_lossy(number) for number in numbers]
        last: _Group | None = None
        for number in numbers:
            if not any(lossy[number:]) or not any(lossy[: number + 1]):
                if last is not None:
                    yield last
                    last = None
                yield _Group([number])  # nothing is lost from here up, or down to here
                continue
            kept = self._kept(number)
            weight = sum(map(_weight, kept))
            if last is not None and last.weight + weight > MAX_WHITELIST:
                yield last
                last = None
            if weight > MAX_WHITELIST + (MAX_WHITELIST >> 1):
                # Too long for one manifest: several images, each takes over a part of the layer.
                yield from _parts(number, kept)
                continue
            if last is None:
                last = _Group([], set())
            last.add(number, kept, weight)
        if last is not None:
            yield last

    def _is_lossy(self, number: int) -> bool:
        paths = self._layers[number].index.paths()
        return any(True for _ in self._merged.missing(paths))

    def _kept(self, number: int) -> list[bytes]:
        """Give the paths of a layer that are in the image, sorted."""
        index = self._layers[number].index
        missing = set(self._merged.missing(index.paths()))
        return sorted(path for path in index.paths() if path not in missing)

    def _selection(self, group: _Group) -> ImageRecord:
        """Store the image that takes over only what is left of some layers."""
        assert group.whitelist is not None
        below = tuple(_dependency(self._layers[number].record) for number in group.members)
        paths = tuple(sorted(group.whitelist)) or ("/.",)
        hasher = hashlib.sha256("\0".join(one.image_id or "" for one in below).encode())
        for path in paths:
            hasher.update(b"\0" + path.encode())
        name = "oci-layers/sha256-" + hasher.hexdigest()
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

    __slots__ = ("members", "rescued", "weight", "whitelist")

    def __init__(self, members: list[int], whitelist: set[str] | None = None) -> None:
        self.members = members
        self.whitelist = whitelist
        self.weight = 0
        self.rescued: list[tuple[int, bytes]] = []
        """Files that a list cannot name, since JSON holds text only."""

    def add(self, number: int, kept: Iterable[bytes], weight: int) -> None:
        """Add what is left of a layer."""
        assert self.whitelist is not None
        self.members.append(number)
        self.weight += weight
        for path in kept:
            try:
                self.whitelist.add("/" + path.decode())
            except UnicodeDecodeError:
                self.rescued.append((number, path))


def _parts(number: int, kept: list[bytes]) -> Iterator[_Group]:
    """Divide what is left of one layer."""
    part: list[bytes] = []
    weight = 0
    for path in kept:
        part.append(path)
        weight += _weight(path)
        if weight > MAX_WHITELIST or path is kept[-1]:
            group = _Group([], set())
            group.add(number, part, weight)
            yield group
            part, weight = [], 0


def _weight(path: bytes) -> int:
    """Give about how many bytes a path takes in a manifest."""
    return len(path) + 4 + 5 * len(path.translate(None, _VERBATIM))


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
