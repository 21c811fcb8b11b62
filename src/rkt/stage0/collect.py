"""Garbage collection of pods (rkt-internals section 11)."""

from __future__ import annotations

import os
import time

from rkt.errors import LockedError, NotFound, RktError, describe
from rkt.pod import lifecycle, state
from rkt.stage0 import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt.pod.lifecycle import Pod

_WORKERS = 8
_ENOUGH = 4  # pods for a worker to be worth its start


class Collector:
    """One pass over the pods of a data directory.

    `moved(text)` and `deleted(text)` are told what happens; `failed(text)` what could not be done.
    """

    def __init__(
        self,
        data_dir: str,
        *,
        local_config: str,
        moved: Callable[[str], None],
        deleted: Callable[[str], None],
        failed: Callable[[str], None],
        debug: bool = False,
    ) -> None:
        self._data_dir = data_dir
        self._local_config = local_config
        self._moved = moved
        self._deleted = deleted
        self._failed = failed
        self._debug = debug

    def mark(self) -> None:
        """Move exited pods to exited-garbage, and failed preparations to garbage."""
        moved = False
        for pod in self._idle(state.RUN):
            self._moved(f'Moving pod "{pod.uuid}" to garbage')
            moved |= _move(pod, state.EXITED_GARBAGE, durable=False)
        if moved:  # all at once: two fsyncs, not two thousand
            lifecycle.sync_moves(self._data_dir, state.RUN, state.EXITED_GARBAGE)
        for where in (state.EMBRYO, state.PREPARE):
            for pod in self._idle(where):
                self._moved(f'Moving failed prepare "{pod.uuid}" to garbage')
                _move(pod, state.GARBAGE)

    def expire_prepared(self, seconds: float) -> None:
        """Move prepared pods that were not run for that long to garbage."""
        for pod in self._idle(state.PREPARED):
            if os.fstat(pod.fd).st_ctime + seconds <= time.time():
                self._moved(f'Moving expired prepared pod "{pod.uuid}" to garbage')
                _move(pod, state.GARBAGE)

    def sweep(self, seconds: float, text: str) -> None:
        """Delete exited pods that were marked that long ago, and all other garbage."""

        def old(pod: Pod) -> Iterator[tuple[str, str]]:
            if pod.marked() / 1e9 + seconds <= time.time():
                yield from self._delete(pod)
            else:
                yield "moved", f'pod "{pod.uuid}" not removed: still within grace period ({text})'

        self._all(state.EXITED_GARBAGE, old)
        self._all(state.GARBAGE, self._delete)

    def _all(self, where: str, handle: Callable[[Pod], Iterator[tuple[str, str]]]) -> None:
        """Handle all pods of a directory, several at a time: most of it is waiting for the disk."""

        def work(uuid: str) -> Iterator[str]:
            for pod in self._one(uuid, where, exclusive=True):
                for kind, text in handle(pod):
                    yield f"{kind} {text}"

        tell = {"moved": self._moved, "deleted": self._deleted, "failed": self._failed}
        for event in _each(list(lifecycle.names(self._data_dir, (where,))), work):
            kind, _, text = event.partition(" ")
            tell[kind](text)

    def _delete(self, pod: Pod) -> Iterator[tuple[str, str]]:
        yield "deleted", f'Garbage collecting pod "{pod.uuid}"'
        try:
            remove.discard(pod, local_config=self._local_config, debug=self._debug)
        except (RktError, OSError) as err:
            # One pod that cannot be deleted must not keep the others; it stays for the next pass.
            yield "failed", f'unable to remove pod "{pod.uuid}": {describe(err)}'

    def _idle(self, where: str) -> Iterator[Pod]:
        """Yield each pod that nobody is using and that is still in that directory.

        The lock is a shared one: who asks for the state meanwhile must not be told that it runs.
        """
        for uuid in lifecycle.names(self._data_dir, (where,)):
            yield from self._one(uuid, where, exclusive=False)

    def _one(self, uuid: str, where: str, *, exclusive: bool) -> Iterator[Pod]:
        """Lock and yield a pod unless somebody uses it, or it is somewhere else by now."""
        found = lifecycle.opened(self._data_dir, uuid, where)
        if found is None:
            return
        with found as pod:
            try:
                pod.lock(exclusive=exclusive)
            except (LockedError, NotFound):
                return
            if pod.where == where:
                yield pod


def _each(uuids: list[str], work: Callable[[str], Iterator[str]]) -> Iterator[str]:
    """Yield what `work` yields of each, in child processes if there are enough."""
    count = min(_WORKERS, len(uuids) // _ENOUGH)
    if count < 2:
        for uuid in uuids:
            yield from work(uuid)
        return
    from rkt.linux.workers import Gone, spread

    try:
        yield from spread(uuids, work, count)
    except Gone as err:
        raise RktError(f"cannot collect all pods: {err}", hint="run the command again") from err


def _move(pod: Pod, to: str, *, durable: bool = True) -> bool:
    """Move a pod that is locked shared; False if another gc was quicker."""
    try:
        pod.move(to, durable=durable)
    except FileNotFoundError:
        return False
    return True
