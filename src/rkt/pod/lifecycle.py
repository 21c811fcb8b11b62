"""Pods on disk: create, find, look into, and move between states.

A pod is a directory `<data>/pods/<state>/<uuid>`; its lock is flock(2) on that directory.  A `Pod`
keeps the directory open, so that what it reads is this pod's even while it is renamed.
"""

from __future__ import annotations

import os
import time

from rkt.const import POD_NAMES
from rkt.errors import AmbiguousName, LockedError, NotFound, PodStateError, RktError
from rkt.linux import atomic, lock, regular
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_FILE = 16 << 20
_HOLD_ON = 0.008
"""Seconds for which a pod that somebody holds is asked again: another command may just move it."""
_READERS = 5.0
"""Seconds for which readers of the state are waited for, on a machine that has no time for them."""


class Pod:
    """An open pod directory.  `where` is the state directory in which it was last seen."""

    __slots__ = ("fd", "pods_dir", "uuid", "where")

    def __init__(self, pods_dir: str, where: str, uuid: str, fd: int) -> None:
        self.pods_dir = pods_dir
        self.where = where
        self.uuid = uuid
        self.fd = fd

    def __enter__(self) -> Pod:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory; a lock that this object took goes with it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def path(self) -> str:
        """The pod's directory as last seen."""
        return f"{self.pods_dir}/{self.where}/{self.uuid}"

    def state(self) -> str:
        """Compute the state.  Raises NotFound if the pod was deleted meanwhile."""
        while True:
            locked = lock.is_locked(self.fd)
            if self._is_at(self.where):
                return state.STATES[self.where, locked]
            self._relocate()

    def lock(self, *, exclusive: bool = True, blocking: bool = False) -> None:
        """Lock the pod; its place is looked up again after that.  Raises LockedError.

        Whoever asks for the state holds a shared lock for a moment, which does not count: it is
        waited for.  After a refusal too `where` is looked up again.
        """
        start = time.monotonic()
        while True:
            try:
                lock.acquire(self.fd, exclusive=exclusive, blocking=blocking)
                break
            except LockedError:
                patience = _HOLD_ON if lock.is_locked(self.fd) else _READERS
                if time.monotonic() - start > patience:
                    self._look_again()
                    text = f'pod "{self.uuid}" is locked by another process'
                    raise LockedError(text) from None
                time.sleep(0.002)
        self._look_again()

    def _look_again(self) -> None:
        if not self._is_at(self.where):
            self._relocate()

    def _is_at(self, where: str) -> bool:
        try:
            found = os.stat(f"{self.pods_dir}/{where}/{self.uuid}", follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))

    def _relocate(self) -> None:
        for where in (*state.SEARCH_ORDER, *state.SEARCH_ORDER):
            if self._is_at(where):
                self.where = where
                return
        raise NotFound(f'pod "{self.uuid}" is gone')

    def move(self, to: str, *, durable: bool = True) -> None:
        """Move the pod to another state directory.

        The caller holds the lock, or the move is to garbage of something nobody can use any more.
        With `durable` both parents reach the disk before this returns.
        """
        if to not in state.MOVES[self.where]:
            raise PodStateError(f'pod "{self.uuid}" cannot go from {self.where} to {to}')
        old, new = f"{self.pods_dir}/{self.where}", f"{self.pods_dir}/{to}"
        os.makedirs(new, mode=0o750, exist_ok=True)
        os.rename(f"{old}/{self.uuid}", f"{new}/{self.uuid}")
        self.where = to
        if durable:
            _sync(new, old)

    def read(self, name: str) -> bytes | None:
        """Read a file of the pod, None if it is missing.  Never follows a link at the last step.

        Raises PermissionError, and RktError for what is no readable file.
        """
        try:
            return regular.read(name, _MAX_FILE, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            raise self._unreadable(name, err) from err

    def _unreadable(self, name: str, err: OSError) -> Exception:
        if isinstance(err, PermissionError):
            return PermissionError(err.errno, err.strerror, f"{self.path}/{name}")
        return RktError(f'pod "{self.uuid}": cannot read "{name}": {err.strerror}')

    def read_text(self, name: str) -> str | None:
        """Read a one-line text file of the pod, stripped; None if it is missing."""
        data = self.read(name)
        return None if data is None else data.decode("utf-8", "replace").strip()

    def exists(self, name: str) -> bool:
        """Say whether the pod has a file of this name."""
        return self.mtime(name) is not None

    def mtime(self, name: str) -> int | None:
        """Give the modification time of a file of the pod in ns, None if it is missing."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as err:
            raise self._unreadable(name, err) from err

    def created(self) -> int | None:
        """When the pod was created, in ns."""
        return self.mtime("pod-created") or self.mtime("pod")

    def started(self) -> int | None:
        """When the pod was started, in ns; None if it never was."""
        return self.mtime("pid") or self.mtime("ppid")

    def marked(self) -> int:
        """When the pod was moved to garbage, in ns: the rename sets the directory's ctime."""
        return os.fstat(self.fd).st_ctime_ns

    def stage1_rootfs(self) -> str:
        """Where files that stage1 wrote are found, relative to the pod directory.

        With overlay it is the upper directory, which is there without any mount.
        """
        tree = self.read_text("stage1TreeStoreID") or ""
        if all(c.isalnum() or c == "-" for c in tree):
            upper = f"overlay/{tree}/upper"
            if tree and self.exists(upper):
                return upper
        return self._other_upper() or "stage1/rootfs"

    def _other_upper(self) -> str | None:
        """Find the upper directory of stage1 when the file that names it is lost."""
        if self.exists("stage1/rootfs/rkt"):
            return None
        try:
            fd = lock.open_dir("overlay", dir_fd=self.fd)
        except OSError:  # no overlay, or nothing that could be one
            return None
        try:
            uppers = [f"overlay/{name}/upper" for name in os.listdir(fd)]
        finally:
            os.close(fd)
        return next((upper for upper in uppers if self.exists(f"{upper}/rkt/status")), None)

    def exit_codes(self, apps: Sequence[str]) -> dict[str, int]:
        """Give the recorded exit codes of those apps that have one."""
        codes = {}
        base = self.stage1_rootfs()
        for app in apps:
            code = number(self.read_text(f"{base}/rkt/status/{app}"))
            if code is not None:
                codes[app] = code
        return codes

    def name(self) -> str:
        """Give the name that the pod was given, "" if it has none."""
        return self.read_text("name") or ""

    def pid(self) -> int | None:
        """PID of the pod's init from the files `pid` or `ppid`; None if there is none (yet)."""
        pid = number(self.read_text("pid"))
        if pid is not None and pid > 0:
            return pid
        parent = number(self.read_text("ppid"))
        return _only_child(parent) if parent is not None and parent > 0 else None


def number(text: str | None) -> int | None:
    """Read a number that a program left in a file of the pod, None if it is none."""
    digits = text[1:] if text and text[0] == "-" else text
    if not text or not digits or len(digits) > 10 or not (digits.isascii() and digits.isdigit()):
        return None
    return int(text)


def _only_child(parent: int) -> int | None:
    try:
        with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
            children = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(children) > 1:
        raise RktError(f"too many children of pid {parent}")
    return int(children[0]) if children else None


def _sync(new: str, old: str) -> None:
    atomic.fsync_dir(new)
    atomic.fsync_dir(old)


def sync_moves(data_dir: str, old: str, new: str) -> None:
    """Make moves from one state directory to another durable."""
    base = pods_dir(data_dir)
    _sync(f"{base}/{new}", f"{base}/{old}")


def pods_dir(data_dir: str) -> str:
    """Give the directory of all pods."""
    return f"{data_dir}/pods"


def create(data_dir: str) -> Pod:
    """Make a new pod: a random UUID, locked, in state preparing."""
    base = pods_dir(data_dir)
    for where in state.SEARCH_ORDER:
        os.makedirs(f"{base}/{where}", mode=0o750, exist_ok=True)
    while True:
        uuid = _random_uuid()
        path = f"{base}/{state.EMBRYO}/{uuid}"
        os.mkdir(path, 0o750)
        try:
            pod = Pod(base, state.EMBRYO, uuid, lock.open_dir(path))
        except FileNotFoundError:  # a gc was even quicker than this
            continue
        lock.acquire(pod.fd, what=path)
        if not pod._is_at(state.EMBRYO):  # a gc was quicker than our lock
            pod.close()
            continue
        os.close(os.open("pod-created", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=pod.fd))
        pod.move(state.PREPARE, durable=False)
        return pod


def _random_uuid() -> str:
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def is_uuid(name: str) -> bool:
    """Say whether a directory name is a pod's."""
    return (
        len(name) == 36
        and all(name[i] == "-" for i in (8, 13, 18, 23))
        and all(c in "0123456789abcdef-" for c in name)
    )


def names(data_dir: str, wheres: Sequence[str] = state.VISIBLE) -> dict[str, str]:
    """Map the UUID of every pod in the given state directories to its directory, sorted by UUID."""
    base = pods_dir(data_dir)
    found: dict[str, str] = {}
    for where in wheres:
        try:
            entries = os.listdir(f"{base}/{where}")
        except FileNotFoundError:
            continue
        for name in entries:
            if is_uuid(name):
                found[name] = where
    return dict(sorted(found.items()))


def opened(data_dir: str, uuid: str, where: str) -> Pod | None:
    """Open a pod that was seen in a state directory; None if it is gone by now."""
    base = pods_dir(data_dir)
    for place in (where, *state.SEARCH_ORDER, *state.SEARCH_ORDER):
        try:
            fd = lock.open_dir(f"{base}/{place}/{uuid}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        return Pod(base, place, uuid, fd)
    return None


def every(data_dir: str, wheres: Sequence[str] = state.VISIBLE) -> Iterator[Pod]:
    """Open each pod in the given state directories in turn; it is closed before the next one."""
    for uuid, where in names(data_dir, wheres).items():
        pod = opened(data_dir, uuid, where)
        if pod is not None:
            with pod:
                yield pod


def named(data_dir: str, name: str) -> Pod | None:
    """Open the pod that has a name, None if there is none that commands show."""
    if "/" in name or "\0" in name or name.startswith("."):
        return None
    try:
        uuid = os.readlink(f"{data_dir}/{POD_NAMES}/{name}")
    except OSError:
        return None
    pod = opened(data_dir, uuid, state.RUN) if is_uuid(uuid) else None
    if pod is not None and (pod.where not in state.VISIBLE or pod.name() != name):
        pod.close()
        return None
    return pod


def find(data_dir: str, prefix: str) -> Pod:
    """Open the pod of that name, else the one whose UUID begins so.

    Raises NotFound or AmbiguousName.
    """
    if not prefix:
        raise NotFound("UUID cannot be empty")
    found = named(data_dir, prefix)
    if found is not None:
        return found
    wanted = prefix.lower()
    matches = {u: w for u, w in names(data_dir).items() if u.startswith(wanted)}
    if len(matches) > 1:
        raise AmbiguousName(f'"{prefix}": ambiguous uuid, {len(matches)} matches')
    for uuid, where in matches.items():
        pod = opened(data_dir, uuid, where)
        if pod is not None:
            return pod
    raise NotFound(f'no matches found for "{prefix}"')
