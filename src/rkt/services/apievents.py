"""Events for many listeners: one thread follows, each listener has a queue of its own."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import describe
from rkt.pod import events, eventwatch
from rkt.services import api_pb2 as pb
from rkt.store.images import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.pod.events import Event

WAITING = 4096  # events that a listener may leave unread
_TYPES = {
    (events.POD, "prepared"): pb.EVENT_TYPE_POD_PREPARED,
    (events.POD, "aborted"): pb.EVENT_TYPE_POD_PREPARE_ABORTED,
    (events.POD, "started"): pb.EVENT_TYPE_POD_STARTED,
    (events.POD, "exited"): pb.EVENT_TYPE_POD_EXITED,
    (events.POD, "removed"): pb.EVENT_TYPE_POD_GARBAGE_COLLECTED,
    (events.APP, "started"): pb.EVENT_TYPE_APP_STARTED,
    (events.APP, "exited"): pb.EVENT_TYPE_APP_EXITED,
    (events.APP, "failed"): pb.EVENT_TYPE_APP_EXITED,
    (events.APP, "restarting"): pb.EVENT_TYPE_APP_EXITED,
    (events.IMAGE, "imported"): pb.EVENT_TYPE_IMAGE_IMPORTED,
    (events.IMAGE, "removed"): pb.EVENT_TYPE_IMAGE_REMOVED,
}


class Listener:
    """What one client waits for.  `None` in the queue: it was too slow, or nothing more comes."""

    def __init__(self, wanted: pb.EventFilter) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue(WAITING + 1)
        self.problem = ""
        self._wanted = wanted

    def put(self, event: Event) -> None:
        """Take an event if it is wanted."""
        if self.problem or not self.has(event):
            return
        if self.queue.qsize() >= WAITING:
            self.end("the client is too slow: events were lost")
        else:
            self.queue.put_nowait(event)

    def end(self, problem: str) -> None:
        """Say that no more comes."""
        if not self.problem:
            self.problem = problem
            self.queue.put_nowait(None)

    def has(self, event: Event) -> bool:
        """Say whether an event is wanted."""
        kind = _TYPES.get((event.kind, event.status))
        wanted = self._wanted
        return (
            kind is not None
            and (not wanted.types or kind in wanted.types)
            and (not wanted.ids or event.id in wanted.ids)
            and (not wanted.names or event.name in wanted.names)
            and event.time >= wanted.since_time * 10**9
            and (not wanted.until_time or event.time < wanted.until_time * 10**9)
        )


class Hub:
    """Follows while there are listeners."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._listeners: set[Listener] = set()
        self._ready: asyncio.Future[None] | None = None
        self._stop = -1

    async def add(self, listener: Listener) -> None:
        """Let a listener hear all that happens from now on.  Raises RktError."""
        self._listeners.add(listener)
        if self._ready is None:
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            stop, self._stop = os.pipe()
            thread = threading.Thread(target=self._run, args=(loop, stop, self._ready), daemon=True)
            thread.start()
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            self.remove(listener)
            raise

    def remove(self, listener: Listener) -> None:
        """Let a listener go; the last one ends the following."""
        self._listeners.discard(listener)
        if not self._listeners and self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
            self._ready = None

    def past(self) -> list[Event]:
        """Tell what can be seen of the past; to be called in a thread."""
        store = Store(self._data_dir)
        try:
            found = events.past(self._data_dir, problem=log.warning)
            found += events.Images(lambda: stored(store)).look()
        finally:
            store.close()
        return sorted(found, key=lambda event: event.time)

    def _run(self, loop: asyncio.AbstractEventLoop, stop: int, ready: asyncio.Future[None]) -> None:
        def say(call: Callable[..., None], *args: object) -> None:
            try:
                loop.call_soon_threadsafe(call, *args)
            except RuntimeError:  # the service has ended
                pass

        store = Store(self._data_dir)
        images = events.Images(lambda: stored(store))
        follower = eventwatch.Follower(self._data_dir, images=images, problem=log.warning)
        try:
            follower.start()
            say(_succeed, ready)
            poll = select.poll()
            poll.register(follower.fileno(), select.POLLIN)
            poll.register(stop, select.POLLIN)
            while True:
                left = follower.timeout()
                limit = None if left is None else int(left * 1000) + 1
                if any(fd == stop for fd, _ in poll.poll(limit)):
                    return
                found = follower.take()
                if found:
                    say(self._publish, found, ready)
        except Exception as err:  # noqa: BLE001 - a thread: the listeners are who has to know
            say(self._failed, err, ready)
        finally:
            follower.close()
            store.close()
            os.close(stop)

    def _publish(self, found: list[Event], ready: asyncio.Future[None]) -> None:
        if ready is not self._ready:
            return  # the last listener of that thread has gone
        for listener in self._listeners:
            for event in found:
                listener.put(event)

    def _failed(self, err: Exception, ready: asyncio.Future[None]) -> None:
        log.warning(f"events cannot be followed: {describe(err)}")
        if ready is not self._ready:
            return
        if not ready.done():
            ready.set_exception(err)
        for listener in list(self._listeners):
            listener.end("events cannot be followed any more")
            self.remove(listener)


def _succeed(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def stored(store: Store) -> dict[str, tuple[str, int]]:
    """Give the images of a store as `events.Images` wants them."""
    return {
        str(record.key): (record.name, record.import_time)
        for record in store.list(problems=[])
        if not record.is_layer
    }


def message(event: Event) -> pb.Event:
    """Write an event as a message."""
    found = pb.Event(
        type=_TYPES[event.kind, event.status], id=event.id, time=event.time // 10**9,
        data=[pb.KeyValue(Key=key, value=value) for key, value in event.attributes.items()],
    )  # fmt: skip
    setattr(found, "from", event.name)
    return found
