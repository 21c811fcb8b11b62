"""Following events: inotify on the directories of the pods, a pidfd on each pod's supervisor.

The moves of pods come as the kernel queued them, so none is lost; what else a pod tells is read
when one of its files changed.  Nothing is looked at without cause: a follower sleeps.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time

from rkt.errors import KernelError, NotFound, RktError, describe
from rkt.linux import inotify, libc, lock
from rkt.pod import lifecycle
from rkt.pod.events import TOLD, Images, Tracker, trouble
from rkt.pod.state import PREPARE, RUN
from rkt.schema import codec
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt.pod.events import Event
    from rkt.pod.lifecycle import Pod

_HEADER = struct.Struct("iIII")
_BUFFER = 1 << 16
_GONE = libc.IN_DELETE_SELF | libc.IN_MOVE_SELF
_MOVES = libc.IN_CREATE | libc.IN_DELETE | libc.IN_MOVED_TO | libc.IN_ONLYDIR | _GONE
_ABOVE = libc.IN_CREATE | libc.IN_MOVED_TO | libc.IN_ONLYDIR | _GONE
_FILES = libc.IN_MOVED_TO | libc.IN_CLOSE_WRITE | libc.IN_DELETE | libc.IN_ONLYDIR
_DATABASE = libc.IN_MODIFY | libc.IN_CLOSE_WRITE | libc.IN_CREATE | libc.IN_ONLYDIR | _GONE
# SQLite's last write comes before its commit can be seen; the writer's close comes after it.
_DATABASE_PAUSES = (0.0, 0.05, 1.0)
_LOCK_PAUSES = tuple(0.001 * 2**step for step in range(11))
_OWN_FILES = (b"pod", b"pid", b"ppid", b"oci-state")
_PARTS = ("", "rkt", "rkt/status", "rkt/health")


class _Live:
    """A pod that is being prepared or runs: its end has to be noticed."""

    __slots__ = ("pause", "pidfd", "pod", "watches", "when")

    def __init__(self, pod: Pod) -> None:
        self.pod: Pod | None = pod  # kept open until there is a pidfd: closing it would wake us
        self.pidfd = -1
        self.watches: dict[str, int] = {}
        self.pause = len(_LOCK_PAUSES)  # how often the lock was looked at without success
        self.when = 0.0


class Follower:
    """Tells events as they happen.

    `fileno` becomes readable when `take` has something to look at; `timeout` says after how many
    seconds it wants to be called anyway.  `problem(text)` is told what cannot be read.
    """

    def __init__(
        self, data_dir: str, *, images: Images | None = None, problem: Callable[[str], None]
    ) -> None:
        self._data_dir = data_dir
        self._images = images
        self._say = problem
        self._said = ""
        self._trackers: dict[str, Tracker] = {}
        self._live: dict[str, _Live] = {}  # all that are locked in prepare or run
        self._waiting: set[str] = set()  # live pods whose lock is to be looked at again
        self._pidfds: dict[int, str] = {}
        self._watches: dict[int, tuple[str, str]] = {}  # number -> what it is, of which pod
        self._bases: dict[str, int] = {}
        self._looks: list[float] = []  # when the images are to be looked at
        self._notify = inotify.instance()
        self._poll = select.epoll()
        self._poll.register(self._notify, select.EPOLLIN)

    def fileno(self) -> int:
        """Give what becomes readable when something happened."""
        return self._poll.fileno()

    def close(self) -> None:
        """Close everything."""
        for uuid in list(self._live):
            self._settled(uuid)
        self._poll.close()
        os.close(self._notify)

    def start(self) -> list[Event]:
        """Begin to watch, and tell the past."""
        _allow_many_files()
        self._establish()
        found = list(self._rescan(observed=False))
        found += self._look_at_images()
        found.sort(key=lambda event: event.time)
        return found

    def timeout(self) -> float | None:
        """Give the seconds until `take` has to be called, None: when `fileno` is readable."""
        times = [*self._looks[:1], *(self._live[uuid].when for uuid in self._waiting)]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def take(self) -> list[Event]:
        """Tell what happened by now, in that order; does not wait."""
        found: list[Event] = []
        ready = [fd for fd, _ in self._poll.poll(0)]
        # What moved comes before what ended: a pod is known before its end is seen.
        if self._notify in ready:
            found += self._read()
        for fd in ready:
            uuid = self._pidfds.get(fd)
            if uuid is not None:
                self._poll.unregister(fd)
                self._settled(uuid)
                found += self._look(uuid)
        now = time.monotonic()
        for uuid in [uuid for uuid in self._waiting if self._live[uuid].when <= now]:
            found += self._try_lock(uuid)
        if self._looks and self._looks[0] <= now:
            self._looks = [when for when in self._looks if when > now]
            found += self._look_at_images()
        return found

    def _database_changed(self) -> None:
        now = time.monotonic()
        self._looks = [now + pause for pause in _DATABASE_PAUSES]

    # Directories

    def _establish(self) -> bool:
        """Watch all directories that are there, and what is above those that are not yet.

        Says whether there is a new one.
        """
        base = lifecycle.pods_dir(self._data_dir)
        wanted = {where: f"{base}/{where}" for where in TOLD}
        if self._images is not None:
            wanted["database"] = f"{self._data_dir}/cas/db"
        is_new = False
        for name, path in wanted.items():
            if name in self._bases:
                continue
            mask = _DATABASE if name == "database" else _MOVES
            if name in (PREPARE, RUN):
                mask |= libc.IN_CLOSE_NOWRITE  # somebody lets go of a pod, perhaps of its lock
            watch = self._reach(path, mask)
            if watch is not None:
                self._bases[name] = watch
                self._watches[watch] = (name, "")
                if name == "database":
                    self._database_changed()
                is_new = True
        if len(self._bases) == len(wanted):
            for watch in [w for w, (kind, _) in self._watches.items() if kind == "above"]:
                self._unwatch(watch)
        return is_new

    def _unwatch(self, watch: int) -> None:
        if self._watches.pop(watch, None) is None:
            return
        try:
            libc.inotify_rm_watch(self._notify, watch)
        except OSError:  # it went with its directory
            pass

    def _reach(self, path: str, mask: int) -> int | None:
        """Watch a directory; None if only one above it could be watched."""
        seen = ""
        while True:
            watch = self._try_watch(path, mask)
            if watch is not None:
                return watch
            above = os.path.dirname(path)
            while (watch := self._try_watch(above, _ABOVE)) is None and above != "/":
                above = os.path.dirname(above)
            if watch is not None:
                self._watches.setdefault(watch, ("above", ""))
            if above == seen:  # nothing has come between the two attempts
                return None
            seen = above

    def _try_watch(self, path: str, mask: int) -> int | None:
        try:
            return libc.inotify_add_watch(self._notify, path, mask)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            if err.errno == errno.ENOSPC:
                raise RktError("cannot watch more directories: the limit of the kernel is reached",
                               hint="sysctl fs.inotify.max_user_watches") from err  # fmt: skip
            raise KernelError("cannot watch", err, path) from err

    # What inotify says

    def _read(self) -> Iterator[Event]:
        data = os.read(self._notify, _BUFFER)
        touched: dict[str, None] = {}
        again = above = False
        at = 0
        while at < len(data):
            watch, mask, _, size = _HEADER.unpack_from(data, at)
            at += _HEADER.size + size
            name = data[at - size : at].rstrip(b"\0")
            if mask & libc.IN_Q_OVERFLOW:
                again = True
                self._database_changed()
                continue
            kind, uuid = self._watches.get(watch, ("", ""))
            if mask & libc.IN_IGNORED:
                self._watches.pop(watch, None)
            if kind in TOLD and name:
                yield from self._in_directory(kind, name, mask)
            elif kind == "database":
                self._database_changed()
            elif uuid and (kind != "own" or name in _OWN_FILES):
                touched[uuid] = None
            above |= kind == "above"
            if kind and not uuid and mask & (_GONE | libc.IN_IGNORED):
                self._unwatch(watch)
                again |= self._bases.pop(kind, None) is not None
        for uuid in touched:
            yield from self._look(uuid)
        if (again or above) and self._establish() | again:
            yield from self._rescan(observed=True)

    def _in_directory(self, where: str, name: bytes, mask: int) -> Iterator[Event]:
        uuid = name.decode("ascii", "replace")
        if not lifecycle.is_uuid(uuid):
            return
        if mask & libc.IN_CLOSE_NOWRITE:
            live = self._live.get(uuid)
            if live is not None and live.pidfd < 0:
                yield from self._try_lock(uuid, first=True)
            return
        tracker = self._trackers.get(uuid)
        if mask & libc.IN_DELETE:
            if tracker is not None:
                yield from self._removed(tracker)
        elif tracker is None or TOLD.index(where) > (
            TOLD.index(tracker.where) if tracker.where else -1
        ):
            yield from self._look(uuid, moved_to=where)

    # Pods

    def _rescan(self, *, observed: bool) -> Iterator[Event]:
        there = lifecycle.names(self._data_dir, TOLD)
        for tracker in [t for t in self._trackers.values() if t.uuid not in there]:
            yield from self._removed(tracker)
        for uuid, where in there.items():
            tracker_ = self._trackers.get(uuid)
            if tracker_ is None or tracker_.where != where or uuid in self._live:
                yield from self._look(uuid, moved_to=where, observed=observed)

    def _removed(self, tracker: Tracker) -> list[Event]:
        self._settled(tracker.uuid)
        del self._trackers[tracker.uuid]
        return tracker.removed(time.time_ns())

    def _look(self, uuid: str, *, moved_to: str = "", observed: bool = True) -> list[Event]:
        """Tell what is new of a pod; `moved_to` is where it came to last."""
        now = time.time_ns()
        tracker = self._trackers.get(uuid)
        if tracker is None:
            if not moved_to:
                return []
            tracker = self._trackers[uuid] = Tracker(uuid)
        live = self._live.get(uuid)
        pod = live.pod if live and live.pod else None
        try:
            pod = pod or lifecycle.opened(self._data_dir, uuid, moved_to or tracker.where or RUN)
            if pod is None:
                raise NotFound(f'pod "{uuid}" is gone')
            return self._look_into(pod, tracker, now if observed else None)
        except NotFound:  # inotify will say so too, after what it has to say before
            self._settled(uuid)
            return tracker.imply(moved_to, now) if moved_to else []
        except (RktError, OSError) as err:
            self._problem(trouble(uuid, err))
            return []

    def _look_into(self, pod: Pod, tracker: Tracker, observed: int | None) -> list[Event]:
        uuid = pod.uuid
        keep = False
        try:
            state = pod.state()
            if state in ("preparing", "running"):
                live = self._live.get(uuid)
                if live is None:
                    live = self._live[uuid] = _Live(pod)
                keep = live.pod is pod
                if state == "running":
                    self._arm(live, pod)
            found = tracker.look(pod, observed=observed, problem=self._problem)
            live = self._live.get(uuid)
            if state not in ("preparing", "running"):
                keep = False
                self._settled(uuid, but=pod)
            elif live is not None and live.pod is pod and state == "running":
                keep = not self._open_supervisor(live, pod)
                if keep:
                    live.pause = 0
                    self._wait_for_lock(uuid, live)
            return found
        finally:
            if not keep:
                pod.close()

    def _arm(self, live: _Live, pod: Pod) -> None:
        """Watch those directories of a running pod that are there by now."""
        path = f"/proc/self/fd/{pod.fd}"
        upper = pod.stage1_rootfs()
        wanted = {"own": (path, _FILES)}
        for part in _PARTS:
            mask = _FILES if part.count("/") else _ABOVE
            wanted[part] = (f"{path}/{upper}/{part}".rstrip("/"), mask)
        for part, (place, mask) in wanted.items():
            if part in live.watches:
                continue
            watch = self._try_watch(place, mask)
            if watch is not None:
                live.watches[part] = watch
                kind = "own" if part == "own" else "pod"
                self._watches[watch] = (kind, pod.uuid)

    def _open_supervisor(self, live: _Live, pod: Pod) -> bool:
        """Get hold of the process whose end is the pod's; False if nothing says which it is."""
        fd = open_supervisor(pod)
        if fd < 0:
            return False
        live.pidfd = fd
        live.pod = None
        self._waiting.discard(pod.uuid)
        self._pidfds[fd] = pod.uuid
        self._poll.register(fd, select.EPOLLIN)
        return True

    def _try_lock(self, uuid: str, *, first: bool = False) -> list[Event]:
        """See whether a pod's lock was let go of.

        The kernel tells that a file is closed just before it lets go of its lock: it is looked at
        some times, less and less often.
        """
        live = self._live[uuid]
        pod = live.pod
        if pod is None:
            self._waiting.discard(uuid)
            return []
        if not lock.is_locked(pod.fd):
            self._waiting.discard(uuid)
            return self._look(uuid)
        live.pause = 0 if first else live.pause + 1
        self._wait_for_lock(uuid, live)
        return []

    def _wait_for_lock(self, uuid: str, live: _Live) -> None:
        if live.pause >= len(_LOCK_PAUSES):
            self._waiting.discard(uuid)
        else:
            live.when = time.monotonic() + _LOCK_PAUSES[live.pause]
            self._waiting.add(uuid)

    def _settled(self, uuid: str, *, but: Pod | None = None) -> None:
        """Stop to watch a pod that has ended; its directory is closed unless the caller does."""
        live = self._live.pop(uuid, None)
        self._waiting.discard(uuid)
        if live is None:
            return
        for watch in live.watches.values():
            self._unwatch(watch)
        if live.pidfd >= 0:
            del self._pidfds[live.pidfd]
            os.close(live.pidfd)
        if live.pod is not None and live.pod is not but:
            live.pod.close()

    # Images

    def _look_at_images(self) -> list[Event]:
        if self._images is None:
            return []
        try:
            return self._images.look()
        except (RktError, OSError) as err:
            self._problem(describe(err))
            return []

    def _problem(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)


class _Identity(Struct, rename={"start": "supervisorStart"}):
    supervisor: int
    start: int


def open_supervisor(pod: Pod) -> int:
    """Give a pidfd of the process that supervises a pod, -1 if it is not known or gone."""
    try:
        found = codec.decode(pod.read("oci-state") or b"", _Identity, "oci-state")
        if not 0 < found.supervisor < 1 << 31:
            return -1
        fd = os.pidfd_open(found.supervisor)
    except (RktError, OSError):
        return -1
    if _start_time(found.supervisor) == found.start and lock.is_locked(pod.fd):
        return fd
    os.close(fd)
    return -1


def _start_time(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _allow_many_files() -> None:
    """Allow as many open files as root grants: each running pod takes one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
