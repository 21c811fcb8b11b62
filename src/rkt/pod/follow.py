"""Waiting for more of a pod's logs, and for the pod's end, without looking again and again."""

from __future__ import annotations

import _thread
import os
import select

from rkt.const import LOG_DIR
from rkt.linux import inotify, libc, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod

_LONGEST = 1 << 30  # ms, about what poll(2) takes


class Watch:
    """Wakes up when a log grows, appears or is removed, and when the pod has ended."""

    __slots__ = ("_ended_r", "_ended_w", "_notify", "_poll", "ended")

    def __init__(self, pod: Pod) -> None:
        self.ended = not lock.is_locked(pod.fd)
        self._notify = inotify.instance()
        self._ended_r, self._ended_w = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._notify, select.POLLIN)
        self._poll.register(self._ended_r, select.POLLIN)
        try:
            fd = lock.open_dir(LOG_DIR, dir_fd=pod.fd)
        except FileNotFoundError:
            fd = -1
        if fd >= 0:
            self.add(fd)
            os.close(fd)
        if not self.ended:
            # Another open file: the lock of one that was opened before would be this process's own.
            own = os.open(f"/proc/self/fd/{pod.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _thread.start_new_thread(self._wait_for_lock, (own,))

    def add(self, directory: int) -> None:
        """Watch the files of a directory."""
        events = libc.IN_CREATE | libc.IN_MODIFY | libc.IN_DELETE
        libc.inotify_add_watch(self._notify, f"/proc/self/fd/{directory}", events)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for something to happen; sets `ended` when the pod has ended."""
        limit = None if seconds is None else min(max(0, int(seconds * 1000) + 1), _LONGEST)
        for fd, _ in self._poll.poll(limit):
            if fd == self._ended_r:
                self.ended = True
            else:
                os.read(self._notify, 65536)

    def _wait_for_lock(self, own: int) -> None:
        # Sleeps in the kernel until the supervisor is gone, however it goes.
        try:
            lock.acquire(own, exclusive=False)
        finally:
            os.close(own)
            os.write(self._ended_w, b"e")
