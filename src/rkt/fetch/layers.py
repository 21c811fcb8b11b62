"""Get the layers that an image needs into the store: several at a time, each once.

Threads obtain the blobs; processes unpack them, since Python's own work on thousands of files
would keep to one processor; this thread puts the results into the store.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from rkt.errors import ArchiveError, KernelError, RktError, one_line
from rkt.image import layer as conversion
from rkt.image.convert import Assembly, StoredLayer, next_chain, place_layer, stored_layer
from rkt.image.ingest import can_own_files
from rkt.image.layer import Blob, Converted, NeedsLower
from rkt.linux.workers import Gone, Worker
from rkt.store.images import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol

    from rkt.schema.oci import Descriptor

    class Provider(Protocol):
        """Where blobs come from."""

        def lock(self, digest: str) -> AbstractContextManager[None]:
            """Keep other processes from obtaining the same layer meanwhile."""

        def obtain(self, layer: Descriptor, stopped: Callable[[], bool]) -> Obtained:
            """Give a blob whose digest and size were checked."""


_DOWNLOADS = 3
_THREADS = 5
_MAX_WORKERS = 4
_WORTH_FORKING = 64 << 10
"""Bytes of compressed layers below which processes are not worth their start: even as few can hold
ten thousand files, and the memory for their names goes with the process that unpacks them."""
_JOIN_SECONDS = 2.0


class Obtained(msgspec.Struct, frozen=True):
    """A blob as a part of an open file, which belongs to whoever has this."""

    fd: int
    size: int
    start: int = 0


class _Request(msgspec.Struct, array_like=True):
    name: str
    staging: str
    unpack: bool
    size: int
    start: int


class _Answer(msgspec.Struct, array_like=True):
    done: Converted | None
    kind: str = ""
    text: str = ""
    hint: str | None = None


class _Result(msgspec.Struct):
    """What a thread has to say of one layer."""

    digest: str
    staging: str = ""
    done: Converted | None = None
    stored: StoredLayer | None = None
    blob: Obtained | None = None
    """Of a layer that cannot stand alone."""
    failure: BaseException | None = None
    placed: threading.Event = msgspec.field(default_factory=threading.Event)


def assemble(
    store: Store, source: str, wanted: Sequence[Descriptor], provider: Provider
) -> Assembly:
    """Get all layers, lowest first, and give them put together.

    Raises FetchError, ArchiveError and others; layers that were complete by then stay.
    """
    assembly = Assembly(store, source)
    try:
        _add_layers(assembly, store, source, wanted, provider)
    except BaseException:
        assembly.__exit__()
        raise
    return assembly


def _add_layers(
    assembly: Assembly,
    store: Store,
    source: str,
    wanted: Sequence[Descriptor],
    provider: Provider,
) -> None:
    chains: list[str] = []
    chain = ""
    for one in wanted:
        chains.append(chain)
        chain = next_chain(chain, one.digest)
    present: dict[str, StoredLayer] = {}
    missing: dict[str, Descriptor] = {}
    for one, below in zip(wanted, chains, strict=True):
        if one.digest not in present and one.digest not in missing:
            found = stored_layer(store, one.digest)
            if found is not None:
                present[one.digest] = found
            elif stored_layer(store, one.digest, below or conversion.NOTHING) is None:
                missing[one.digest] = one
    with ExitStack() as stack:
        crew = None
        if missing:
            crew = stack.enter_context(_Crew(store, source, list(missing.values()), provider))
        for one in wanted:
            blob = None
            layer = present.get(one.digest)
            if layer is None and crew is not None and one.digest in missing:
                result = crew.wait(one.digest)
                layer = result.stored
                if result.blob is not None:
                    blob = Blob(result.blob.fd, result.blob.size, result.blob.start)
            assembly.add(one.digest, layer, blob)


class _Crew:
    """The threads and processes that get missing layers."""

    def __init__(
        self, store: Store, source: str, missing: list[Descriptor], provider: Provider
    ) -> None:
        self._store = store
        self._source = source
        self._provider = provider
        self._todo = sorted(missing, key=lambda one: (one.size, one.digest))  # taken from the end
        self._results: SimpleQueue[_Result] = SimpleQueue()
        self._done: dict[str, _Result] = {}
        self._guard = threading.Lock()
        self._downloads = threading.Semaphore(_DOWNLOADS)
        self._stopped = False
        self._workers: list[Worker] = []
        self._idle: SimpleQueue[Worker | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()
        self._staging = ""

    def __enter__(self) -> _Crew:
        self._staging = self._stack.enter_context(self._store.tmp_dir())
        try:
            count = _worker_count(self._todo)
            for _ in range(count):
                worker = Worker(_serve)
                self._workers.append(worker)
                self._idle.put(worker)
            if not count:
                self._idle.put(None)  # one at a time, in the thread itself
            for _ in range(min(_THREADS, len(self._todo))):
                thread = threading.Thread(target=self._work, name="layer", daemon=True)
                self._threads.append(thread)
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for worker in self._workers:
            worker.close()
        # A thread in a stalled download is left behind; it ends with the process.
        deadline = time.monotonic() + _JOIN_SECONDS
        while self._threads:
            while not self._results.empty():
                self._release(self._results.get())
            self._threads[-1].join(0.02)
            if not self._threads[-1].is_alive() or time.monotonic() > deadline:
                self._threads.pop()
        while not self._results.empty():
            self._release(self._results.get())
        for result in self._done.values():
            self._release(result)
        self._stack.close()

    @staticmethod
    def _release(result: _Result) -> None:
        result.placed.set()
        if result.blob is not None:
            os.close(result.blob.fd)
            result.blob = None

    def wait(self, digest: str) -> _Result:
        """Wait for a layer, putting into the store what arrives; raises what went wrong."""
        while digest not in self._done:
            result = self._results.get()
            if result.failure is not None:
                result.placed.set()
                raise result.failure
            if result.done is not None:
                result.stored = place_layer(
                    self._store, result.staging, result.done,
                    conversion.layer_name(result.digest), self._source,
                )  # fmt: skip
                result.done = None
            result.placed.set()
            self._done[result.digest] = result
        return self._done[digest]

    # -- in the threads

    def _work(self) -> None:
        store = Store(self._store.data_dir)  # a database connection belongs to its thread
        try:
            while not self._stopped:
                with self._guard:
                    if not self._todo:
                        return
                    layer = self._todo.pop()
                result = _Result(layer.digest)
                try:
                    with self._provider.lock(layer.digest):
                        self._get(store, layer, result)
                        self._results.put(result)
                        result.placed.wait()
                except BaseException as err:  # noqa: BLE001 - handed to the thread that waits
                    result.failure = err
                    self._results.put(result)
                    return
        finally:
            store.close()

    def _get(self, store: Store, layer: Descriptor, result: _Result) -> None:
        result.stored = stored_layer(store, layer.digest)
        if result.stored is not None:
            return  # another rkt was quicker
        with self._downloads:
            blob = self._provider.obtain(layer, lambda: self._stopped)
        keep = False
        try:
            result.staging = f"{self._staging}/{layer.digest.partition(':')[2][:32]}"
            os.mkdir(result.staging, 0o700)
            request = _Request(
                conversion.layer_name(layer.digest), result.staging, can_own_files(), blob.size,
                blob.start,
            )  # fmt: skip
            try:
                result.done = self._convert(request, blob)
            except NeedsLower:
                result.blob, keep = blob, True
            except ArchiveError as err:
                message = f"layer {layer.digest}: {err.message}"
                raise ArchiveError(message, hint=err.hint) from err
        finally:
            if not keep:
                os.close(blob.fd)

    def _convert(self, request: _Request, blob: Obtained) -> Converted:
        worker = self._idle.get()
        try:
            if worker is None:
                return _convert(request, blob.fd)
            raw = worker.call(msgspec.msgpack.encode(request), [blob.fd])
        except Gone as err:
            raise ArchiveError(f"cannot unpack: {err}") from err
        finally:
            self._idle.put(worker)
        answer = msgspec.msgpack.decode(raw, type=_Answer)
        if answer.done is not None:
            return answer.done
        if answer.kind == "lower":
            raise NeedsLower(answer.text)
        if answer.kind == "bug":
            raise RuntimeError(answer.text)
        raise ArchiveError(answer.text, hint=answer.hint)


def _worker_count(layers: list[Descriptor]) -> int:
    """Give how many processes to start; none where they are not worth it, or not safe."""
    processors = len(os.sched_getaffinity(0))
    if sum(one.size for one in layers) < _WORTH_FORKING or threading.active_count() > 1:
        return 0
    return min(len(layers), processors, _MAX_WORKERS)


def _serve(request: bytes, fds: Sequence[int]) -> bytes:
    """Convert one layer in a worker process."""
    import gc
    import traceback

    gc.disable()  # nothing here is circular
    try:
        answer = _Answer(_convert(msgspec.msgpack.decode(request, type=_Request), fds[0]))
    except NeedsLower as err:
        answer = _Answer(None, "lower", err.message)
    except RktError as err:
        answer = _Answer(None, "error", one_line(err.message), err.hint)
    except Exception:  # noqa: BLE001 - the parent shows it
        answer = _Answer(None, "bug", traceback.format_exc())
    return msgspec.msgpack.encode(answer)


def _convert(request: _Request, fd: int) -> Converted:
    blob = Blob(fd, request.size, request.start)
    try:
        return conversion.convert(blob, request.name, request.staging, unpack=request.unpack)
    except OSError as err:
        raise KernelError("cannot unpack layer", err) from err
