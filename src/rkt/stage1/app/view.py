"""An app's files as the app is going to see them: its root with the volumes of the host in it."""

from __future__ import annotations

import os
import stat

from rkt.linux import regular
from rkt.stage1.app import volumes
from rkt.stage1.app.rootfs import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.volumes import Bind

_MAX_LINKS = 40
_HEAD = 4096


class Unknown(Exception):
    """The path leads into a volume that is filled only when the pod runs."""


class View:
    """What `rootfs.find_executable` looks at when something is mounted in the root."""

    __slots__ = ("_places", "_root")

    def __init__(self, root: Root, binds: list[Bind]) -> None:
        self._root = root
        self._places: dict[str, Bind] = {}
        for bind in binds:  # parents first: links on the way may lie in other volumes
            try:
                target = self._walk(bind.target)[0]
            except Unknown:
                target = bind.target
            volumes.refuse(target, bind.target)
            self._places[target] = bind

    def stat(self, path: str) -> os.stat_result | None:
        """Stat a path; None when it does not exist.  Raises Unknown."""
        return self._walk(path)[1]

    def head(self, path: str) -> bytes:
        """Read the first bytes of an executable.  Raises OSError and Unknown."""
        found = self._walk(path)[0]
        bind, rest = self._place(found)
        if bind is None:
            return self._root.head(found)
        if rest:
            root = Root(bind.source, follow=True)
            try:
                return root.head(rest)
            finally:
                root.close()
        fd = regular.reopen(os.open(bind.source, os.O_PATH | os.O_CLOEXEC))
        try:
            return os.pread(fd, _HEAD, 0)
        finally:
            os.close(fd)

    def resolve(self, path: str) -> str:
        """Give a path without its links; what is missing at its end stays.  Raises Unknown."""
        return self._walk(path)[0]

    def _walk(self, path: str) -> tuple[str, os.stat_result | None]:
        done: list[str] = []
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", ".", ".."):
                del done[len(done) - (name == "..") :]
                continue
            here = "/" + "/".join([*done, name])
            info = self._lstat(here)
            if info is not None and stat.S_ISLNK(info.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return path, None
                link = self._readlink(here)
                done = [] if link.startswith("/") else done
                todo += link.split("/")[::-1]
            elif info is None or (any(todo) and not stat.S_ISDIR(info.st_mode)):
                return "/".join([here, *todo[::-1]]), None
            else:
                done.append(name)
        found = "/" + "/".join(done)
        return found, self._lstat(found)

    def _place(self, path: str) -> tuple[Bind | None, str]:
        """Find the volume that a path without links lies in, and the path in there."""
        top = path
        while top not in self._places:
            if top == "/":
                return None, ""
            top = os.path.dirname(top)
        bind = self._places[top]
        if bind.own:
            raise Unknown
        return bind, path[len(top) + 1 :]

    def _lstat(self, path: str) -> os.stat_result | None:
        bind, rest = self._place(path)
        try:
            if bind is None:
                return self._root.lstat(path)
            if not rest:
                return os.stat(bind.source)
            root = Root(bind.source, follow=True)
            try:
                return root.lstat(rest)
            finally:
                root.close()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _readlink(self, path: str) -> str:
        bind, rest = self._place(path)
        root = self._root if bind is None else Root(bind.source, follow=True)
        fd = -1
        try:
            fd = root.open(rest if bind else path, os.O_PATH | os.O_NOFOLLOW)
            return os.readlink("", dir_fd=fd)
        finally:
            if fd >= 0:
                os.close(fd)
            if bind is not None:
                root.close()
