"""The logs of a pod's apps, in pieces that a message can hold."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from rkt.const import LOG_DIR
from rkt.errors import NotFound, PodStateError
from rkt.linux import inotify, libc
from rkt.pod import eventwatch, logs, view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from rkt.pod.lifecycle import Pod
    from rkt.pod.logs import Block
    from rkt.services import api_pb2 as pb

_PIECE = 64 << 10  # bytes of text in a message; a longer line has one of its own
_LINES = 1000
_TAIL = 8 << 20  # bytes of the last lines, which are in memory together
_RETRY = 1.0


class Reader:
    """The logs that a request asks for, as far as they exist."""

    def __init__(self, pod: Pod, wanted: pb.GetLogsRequest) -> None:
        state = pod.state()
        if state != "running" and not view.has_ended(state):
            raise PodStateError(f'pod "{pod.uuid}" has not been started: it is {state}')
        self.running = state == "running"
        self._wanted = wanted
        self._log = logs.PodLog(pod, [wanted.app_name] if wanted.app_name else [])
        found = logs.apps(pod)
        known = list(dict.fromkeys([*view.app_names(pod), *found]))
        if wanted.app_name and wanted.app_name not in known:
            raise NotFound(f'pod "{pod.uuid}": no app "{wanted.app_name}"')
        if not found and not self.running:
            raise NotFound(f'pod "{pod.uuid}": no logs were kept of it')
        self._prefixed = len(known) > 1 and not wanted.app_name
        self._first = wanted.lines > 0

    def close(self) -> None:
        """Close all files."""
        self._log.close()

    def pieces(self, *, final: bool, watch: Callable[[int], None] | None) -> Iterator[list[str]]:
        """Yield the lines that were added since the last time."""
        self._log.look_for_more(watch)
        blocks = filter(self._has, self._log.blocks(final=final))
        found: Iterator[Block] = blocks
        if self._first:
            found = iter(logs.tail(blocks, self._wanted.lines, room=_TAIL))
        self._first = False
        piece: list[str] = []
        size = 0
        for block in found:
            prefix = f"{block.app}: " if self._prefixed else ""
            prefix += "rkt: " if block.stream == logs.NOTE else ""
            lines = block.data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                if piece and (size + len(line) > _PIECE or len(piece) >= _LINES):
                    yield piece
                    piece, size = [], 0
                piece.append(prefix + line.decode("utf-8", "replace"))
                size += len(line)
        if piece:
            yield piece

    def _has(self, block: Block) -> bool:
        since, until = self._wanted.since_time, self._wanted.until_time
        return block.time >= since * 10**9 and (not until or block.time < until * 10**9)


async def follow(
    pod: Pod, reader: Reader, until: int, run: Callable[..., Awaitable[list[str] | None]]
) -> AsyncIterator[list[str]]:
    """Yield lines as they come, until the pod ends.  `run` calls something in a thread."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    notify = inotify.instance()
    process = -1

    def watch(fd: int) -> None:
        events = libc.IN_CREATE | libc.IN_MODIFY | libc.IN_DELETE
        libc.inotify_add_watch(notify, f"/proc/self/fd/{fd}", events)

    def drain() -> None:
        os.read(notify, 65536)
        changed.set()

    def end() -> None:
        loop.remove_reader(process)
        changed.set()

    try:
        directory = os.open(LOG_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pod.fd)
        try:
            watch(directory)
        finally:
            os.close(directory)
        loop.add_reader(notify, drain)
        while True:
            if process < 0:
                process = eventwatch.open_supervisor(pod)
                if process >= 0:
                    loop.add_reader(process, end)
            ended = pod.state() != "running"
            changed.clear()
            pieces = reader.pieces(final=ended, watch=watch)
            while (piece := await run(next, pieces, None)) is not None:
                yield piece
            left = until - time.time() if until else None
            if ended or (left is not None and left <= 0):
                return
            # Without a supervisor that is known, the end of the pod is not told by anybody.
            limits = [seconds for seconds in (left, _RETRY if process < 0 else None)
                      if seconds is not None]  # fmt: skip
            try:
                async with asyncio.timeout(min(limits) if limits else None):
                    await changed.wait()
            except TimeoutError:
                pass
    finally:
        loop.remove_reader(notify)
        os.close(notify)
        if process >= 0:
            loop.remove_reader(process)
            os.close(process)
