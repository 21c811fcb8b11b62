"""Make appc images of a docker or OCI image: one for each layer, and one that puts them together.

appc has no deletions: where a layer deletes something, an image between lists what is left of the
layers below it (`pathWhitelist`).  Nothing here depends on the machine, the time or the order in
which layers arrive: one manifest under one name gives one image ID.
"""

from __future__ import annotations

import hashlib
import time
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rkt.errors import ArchiveError, KernelError, RktError, StoreError
from rkt.image import layer as layers
from rkt.image import layerindex, tar
from rkt.image.aciwriter import AciWriter
from rkt.image.archive import LIMITS
from rkt.image.copies import Copies, archive_tree
from rkt.image.export import archive_chunks
from rkt.image.ingest import can_own_files
from rkt.image.layer import Blob, Converted, Plan
from rkt.image.merge import Merged, Outcome
from rkt.linux.spill import Scratch, marks, numbers
from rkt.schema import codec
from rkt.schema.image import Annotation, Dependency, ImageManifest, Label
from rkt.store.records import SKIPPED, ImageRecord, Remote, Verification, image_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rkt.image.layerindex import LayerIndex
    from rkt.image.unpack import Twin
    from rkt.linux.spill import Table
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
_ROOM = 4 << 20
_BATCH = 1000
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

    def __init__(self, record: ImageRecord, *, path: str = "", kept: bytes = b""):
        self.record = record
        self._path = path
        self._kept = kept

    @property
    def index(self) -> LayerIndex:
        """Give what the layer says; it is read again each time, since it may be large.

        Raises StoreError.
        """
        if self._kept:
            return layerindex.unpack(self._kept)
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
        kept = layerindex.pack(layers.index_of_archive(_headers(store, record), notes))
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
    """Puts an image together; give it all layers, lowest first, then `finish`.

    A context manager: what it knows of many names is in a temporary file.
    """

    def __init__(self, store: Store, source: str) -> None:
        self._store = store
        self._source = source
        self._scratch = Scratch(store.tmp_dir)
        self._merged = Merged(self._scratch)
        self._layers: list[StoredLayer] = []
        self._rescued: Table[bytes, int] = numbers(self._scratch, room=_ROOM)
        """Files that a list cannot name, since JSON holds text only, and their layers."""
        self.chain = ""
        """Identity of the layers so far."""

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def add(self, digest: str, layer: StoredLayer | None, blob: Blob | None) -> None:
        """Put a layer on top.

        `layer` is None if the layer cannot stand alone: then it is made from the blob.  Raises
        ArchiveError.
        """
        below, self.chain = self.chain, next_chain(self.chain, digest)
        try:
            if layer is not None:
                outcome = self._merged.apply(layer.index)
                if not outcome.is_plain:
                    layer = self._bound_layer(digest, below, layer, None, outcome)
            else:
                below = below or layers.NOTHING
                layer = stored_layer(self._store, digest, below)
                if layer is not None:
                    self._merged.apply(layer.index)
                else:
                    assert blob is not None
                    outcome = self._merged.apply(layers.scan(blob))
                    layer = self._bound_layer(digest, below, None, blob, outcome)
        except OSError as err:
            raise KernelError(f"cannot unpack layer {digest}", err) from err
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
        wanted = ((copy.layer, copy.source) for _, copy in outcome.copies.items())
        with (
            self._store.tmp_dir() as staging,
            Copies(self._store, staging, self._records(), wanted, self._scratch) as copies,
        ):
            unpack = can_own_files()
            if alone is not None:
                with archive_tree(self._store, alone.record) as tree_fd:
                    converted = layers.reconvert(
                        archive_chunks(self._store, alone.record.key), alone.index, name, staging,
                        Plan(outcome, copies, tree_fd), unpack=unpack,
                    )  # fmt: skip
            else:
                assert blob is not None
                plan = Plan(outcome, copies)
                converted = layers.convert_planned(blob, name, staging, plan, unpack=unpack)
            return place_layer(self._store, staging, converted, name, self._source)

    def _records(self) -> list[ImageRecord]:
        return [layer.record for layer in self._layers]

    def finish(self, about: Description) -> ImageRecord:
        """Make the image itself."""
        try:
            return self._finish(about)
        except OSError as err:
            raise KernelError("cannot write image", err) from err

    def _finish(self, about: Description) -> ImageRecord:
        dependencies: list[Dependency] = []
        for group in self._groups():
            if group.paths is None:
                one = self._layers[group.members[0]].record
                dependencies.append(_dependency(one))
                continue
            dependencies.append(_dependency(self._selection(group.members, group.paths)))
        manifest = ImageManifest.create(
            about.name, labels=about.labels, app=about.app, annotations=about.annotations,
            dependencies=tuple(dependencies),
        )  # fmt: skip
        with self._store.tmp_dir() as staging:
            entries = self._top_entries(staging)
            done = _write(staging, codec.encode(manifest), entries)
            return _place(
                self._store, staging, done, about.name, about.labels,
                source=self._source, latest=about.latest,
            )  # fmt: skip

    # -- deletions

    def _groups(self) -> Iterator[_Group]:
        """Divide the layers into those that are taken whole and runs of which something is left."""
        count = len(self._layers)
        lossy = [self._merged.has_lost and self._is_lossy(number) for number in range(count)]
        last: _Joined | None = None
        for number in range(count):
            if not any(lossy[number:]) or not any(lossy[: number + 1]):
                if last is not None:
                    yield last.group()
                    last = None
                yield _Group([number], None)  # nothing is lost from here up, or down to here
                continue
            kept, weight = self._kept(number)
            if last is not None and last.weight + weight > MAX_WHITELIST:
                yield last.group()
                last = None
            if weight > MAX_WHITELIST + (MAX_WHITELIST >> 1):
                # Too long for one manifest: several images, each takes over a part of the layer.
                yield from _parts(number, kept)
                continue
            if last is None:
                last = _Joined(self._scratch)
            last.add(number, kept, weight)
        if last is not None:
            yield last.group()

    def _is_lossy(self, number: int) -> bool:
        paths = self._layers[number].index.paths()
        return any(True for _ in self._merged.missing(paths))

    def _kept(self, number: int) -> tuple[Table[bytes, bool], int]:
        """Give the paths of a layer that are in the image, and whether they are text.

        Gives also about how many bytes they take in a manifest.
        """
        kept: Table[bytes, bool] = marks(self._scratch, room=_ROOM)
        weight = 0
        for path in self._layers[number].index.paths():
            node = self._merged.find(path)
            if node is None:
                continue
            weight += _weight(path)
            kept[path] = is_text = _is_text(path)
            if not is_text and node.layer == number:
                self._rescued[path] = number
        return kept, weight

    def _selection(self, members: list[int], paths: Iterator[bytes]) -> ImageRecord:
        """Store the image that takes over only what is left of some layers."""
        below = tuple(_dependency(self._layers[number].record) for number in members)
        hasher = hashlib.sha256("\0".join(one.image_id or "" for one in below).encode())
        listed = bytearray()
        paths = chain((next(paths, b"."),), paths)  # an empty list would take everything
        while batch := ["/" + path.decode() for path in islice(paths, _BATCH)]:
            for path in batch:
                hasher.update(b"\0" + path.encode())
            listed += b"," + codec.encode(batch)[1:-1]
        name = "oci-layers/sha256-" + hasher.hexdigest()
        manifest = codec.encode(
            ImageManifest.create(name, dependencies=below, path_whitelist=("/.",))
        )
        before, _, after = manifest.partition(b'["/."]')
        manifest = b"".join((before, b"[", memoryview(listed)[1:], b"]", after))
        del listed
        with self._store.tmp_dir() as staging:
            done = _write(staging, manifest, [(_directory(layers.ROOTFS), (), None)])
            return _place(self._store, staging, done, name, (), source=self._source, latest=False)

    # -- the image itself

    def _top_entries(self, staging: str) -> Iterator[_Member]:
        root = _directory(layers.ROOTFS)
        if self._merged.root_meta is not None:
            root.mode, root.uid, root.gid, root.mtime, root.atime = self._merged.root_meta
        yield root, (), None
        bare = self._merged.bare_directories()
        for path, _ in bare.items():
            yield _directory(_below(path)), (), None

        def wanted() -> Iterator[tuple[int, bytes]]:
            for path, number in self._rescued.items():
                if path not in bare:
                    yield number, self._content_of(path)

        with Copies(self._store, staging, self._records(), wanted(), self._scratch) as copies:
            for path, number in self._rescued.items():
                if path not in bare:
                    entry, payload, twin = copies(number, self._content_of(path))
                    entry.name = _below(path)
                    yield entry, payload, twin
        dev = self._merged.find(b"dev")
        if dev is not None and dev.kind != tar.DIRECTORY:
            raise ArchiveError('invalid layer: "/dev" is not a directory')
        for name, target in _DEV_LINKS:
            link = tar.Entry()
            link.kind, link.mode = tar.SYMLINK, 0o777
            link.name, link.link = _below(b"dev/" + name), target
            yield link, (), None

    def _content_of(self, path: bytes) -> bytes:
        """Give the name under which the content of a file stands in its layer."""
        node = self._merged.find(path)
        assert node is not None  # it is in the image
        return node.first or path


class _Group(NamedTuple):
    """Layers that become one dependency: one as it is, or several of which some paths are left."""

    members: list[int]
    paths: Iterator[bytes] | None


class _Joined:
    """What is left of several layers."""

    def __init__(self, scratch: Scratch) -> None:
        self._members: list[int] = []
        self._paths: Table[bytes, bool] = marks(scratch, room=_ROOM)
        self.weight = 0

    def add(self, number: int, kept: Table[bytes, bool], weight: int) -> None:
        """Add what is left of a layer."""
        self._members.append(number)
        self.weight += weight
        for path, is_text in kept.items():
            if is_text:
                self._paths[path] = True

    def group(self) -> _Group:
        """Give the layers as one dependency."""
        return _Group(self._members, (path for path, _ in self._paths.items()))


def _parts(number: int, kept: Table[bytes, bool]) -> Iterator[_Group]:
    """Divide what is left of one layer; each part is used up before the next is asked for."""
    paths = kept.items()
    for first in paths:
        yield _Group([number], _part(chain((first,), paths)))


def _part(paths: Iterator[tuple[bytes, bool]]) -> Iterator[bytes]:
    weight = 0
    for path, is_text in paths:
        if is_text:
            yield path
        weight += _weight(path)
        if weight > MAX_WHITELIST:
            return


def _weight(path: bytes) -> int:
    """Give about how many bytes a path takes in a manifest."""
    return len(path) + 4 + 5 * len(path.translate(None, _VERBATIM))


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


if TYPE_CHECKING:
    _Member = tuple[tar.Entry, Iterable[memoryview], Twin | None]


def _write(staging: str, manifest: bytes, entries: Iterable[_Member]) -> Converted:
    try:
        with AciWriter(staging, unpack=can_own_files(), limits=LIMITS) as writer:
            for entry, payload, twin in entries:
                writer.add(entry, payload, twin)
            writer.manifest(manifest)
            done = writer.finish()
    except OSError as err:
        raise KernelError("cannot write image", err, staging) from err
    return Converted(done.digest, done.size, done.tree_size, manifest, b"")


def _dependency(record: ImageRecord) -> Dependency:
    return Dependency(record.name, f"sha512-{record.digest}")


def _directory(name: bytes) -> tar.Entry:
    entry = tar.Entry()
    entry.kind, entry.name, entry.mode = tar.DIRECTORY, name, 0o755
    return entry


def _below(path: bytes) -> bytes:
    return layers.ROOTFS + b"/" + path
