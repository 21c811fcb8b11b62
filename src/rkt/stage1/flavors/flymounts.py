"""The mounts of stage1-fly's app, made in the supervisor's mount namespace.

What comes from the host is cloned in the mount namespace that the caller of rkt is in, before it is
attached in ours: where the host's mount is shared, the clone is its peer, and what either side
mounts below it appears on the other.  That is what agents of the host need.
"""

from __future__ import annotations

import os

from rkt.const import HOST_MOUNTS_ENV
from rkt.errors import KernelError, RktError
from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.rootfs import Root
    from rkt.stage1.app.volumes import Bind

_SYSTEM = ("/dev", "/proc", "/sys")
_TMP = "/tmp"  # noqa: S108 - a path inside the app


class Mounts:
    """Makes mounts; to be made before the process leaves the host's mount namespace."""

    __slots__ = ("_host", "_own")

    def __init__(self) -> None:
        value = os.environ.pop(HOST_MOUNTS_ENV, "")
        try:
            if value.isdigit():
                self._host = int(value)
                os.set_inheritable(self._host, False)
            else:
                self._host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise KernelError("cannot use the mount namespace of the host", err) from err
        self._own = -1

    def close(self) -> None:
        """Let go of the namespaces."""
        for fd in (self._host, self._own):
            if fd >= 0:
                os.close(fd)
        self._host = self._own = -1

    def system(self, root: Root, binds: list[Bind]) -> None:
        """Mount what every app gets, unless the user has something to mount there."""
        taken = {bind.target for bind in binds}
        for path in _SYSTEM:
            if path not in taken:
                root.make_target(path, directory=True)
                self._put(root, path, self._clone(path, recursive=True, from_host=True))
        if _TMP not in taken:
            try:
                path = root.make_target(_TMP, directory=True)
            except OSError as err:
                raise KernelError(f'cannot make the target "{_TMP}"', err, root.path) from err
            if path == "/" or path.startswith("/proc/"):
                raise RktError(f'cannot mount at "{_TMP}": in this image it leads to "{path}"')
            fd = root.open(path, os.O_PATH | os.O_DIRECTORY)
            try:
                libc.mount("tmpfs", f"/proc/self/fd/{fd}", "tmpfs", 0, "mode=1777")
            except OSError as err:
                raise KernelError("cannot mount a tmpfs", err, path) from err
            finally:
                os.close(fd)
        for bind in binds:
            top = f"/{bind.target.split('/')[1]}"
            if top in _SYSTEM and top not in taken and root.stat(bind.target) is None:
                raise RktError(f'cannot mount at "{bind.target}": the host has no such file or '
                               "directory")  # fmt: skip

    def attach(self, root: Root, bind: Bind, *, from_host: bool) -> None:
        """Mount a directory or a file at its target, which is there."""
        # Below /tmp the target was made before; what was mounted since may hide it.
        target = root.make_target(bind.target, directory=os.path.isdir(bind.source))
        tree = self._clone(bind.source, recursive=bind.recursive, from_host=from_host)
        if bind.read_only:
            try:
                libc.read_only_mount(tree, recursive=bind.recursive)
            except OSError as err:
                raise KernelError("cannot make a mount read-only", err, bind.source) from err
        self._put(root, target, tree)

    def seal(self, root: Root) -> None:
        """Make the root read-only, but not what is mounted in it."""
        try:
            tree = libc.open_tree(root.path, libc.OPEN_TREE_CLONE | libc.AT_RECURSIVE)
            libc.read_only_mount(tree, recursive=False)
            libc.move_mount(tree, root.path)
            os.close(tree)
        except OSError as err:
            raise KernelError("cannot make the root read-only", err, root.path) from err

    def _put(self, root: Root, target: str, tree: int) -> None:
        try:
            fd = root.open(target, os.O_PATH)
            try:
                libc.attach_mount(tree, fd)
            finally:
                os.close(fd)
        except OSError as err:
            raise KernelError("cannot mount", err, target) from err
        finally:
            os.close(tree)

    def _clone(self, path: str, *, recursive: bool, from_host: bool) -> int:
        flags = libc.OPEN_TREE_CLONE | (libc.AT_RECURSIVE if recursive else 0)
        try:
            if not from_host:
                return libc.open_tree(path, flags)
            if self._own < 0:
                self._own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            directory = os.getcwd()
            libc.setns(self._host, libc.CLONE_NEWNS)
            try:
                return libc.open_tree(path, flags)
            finally:
                libc.setns(self._own, libc.CLONE_NEWNS)
                os.chdir(directory)
        except OSError as err:
            raise KernelError("cannot clone a mount", err, path) from err
