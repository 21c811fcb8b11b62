"""Pods with a user namespace of their own: their root is nobody on the host.

An app's set-up is done by the runtime inside of that namespace, where it may not pass through the
directories of rkt.  So all that it has to reach is bound below one directory that anybody may pass
through; the binds are in the mount namespace of the supervisor and vanish with it.
"""

from __future__ import annotations

import os
import stat

from rkt.errors import KernelError
from rkt.linux import libc, mounts
from rkt.stage1.app import spec
from rkt.stage1.app.volumes import Bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range
    from rkt.stage1.app.spec import AppPlan

DIRECTORY = "/run/rkt/roots"
# No app has a name that begins like these.
SHM = f"{DIRECTORY}/.shm"
_NULL = f"{DIRECTORY}/.null"


def prepare(users: Range, shm: str) -> None:
    """Make the directory for the binds, and give the pod's /dev/shm to its root."""
    try:
        os.makedirs(DIRECTORY, 0o755, exist_ok=True)
        options = spec.in_context("mode=755")
        libc.mount("roots", DIRECTORY, "tmpfs", libc.MS_NOSUID, options)
        # Runtimes make the app's user the owner of its streams: not of the host's /dev/null.
        os.mknod(_NULL, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(_NULL, 0o666)
        os.chown(shm, users.shift, users.shift)
    except OSError as err:
        raise KernelError("cannot prepare private users", err, DIRECTORY) from err
    expose(shm, SHM, recursive=False)


def expose(source: str, target: str, *, recursive: bool) -> str:
    """Bind a file or a directory where the pod's users may reach it; gives the new path."""
    try:
        if os.path.isdir(source):
            os.mkdir(target, 0o755)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        libc.mount(source, target, flags=libc.MS_BIND | (libc.MS_REC if recursive else 0))
    except OSError as err:
        raise KernelError("cannot bind", err, source) from err
    return target


def adopt(users: Range, plan: AppPlan, *, shallow: bool) -> None:
    """Let an app run as the pod's users: check its IDs, bind what it mounts.

    A `shallow` runtime takes nothing along that is mounted below what it binds.
    """
    users.outside(plan.uid, "user")
    for gid in (plan.gid, *plan.groups):
        users.outside(gid, "group")
    plan.users = users
    plan.null = _NULL
    top = f"{DIRECTORY}/{plan.name}"
    plan.root = expose(plan.root, top, recursive=True)
    binds = []
    for number, bind in enumerate(plan.binds):
        bind.source = expose(bind.source, f"{top}.{number}", recursive=bind.recursive)
        binds += [bind, *_below(bind, users)] if shallow and bind.recursive else [bind]
    plan.binds = binds


def _below(bind: Bind, users: Range) -> list[Bind]:
    """Give a bind of its own to each mount below one that users can come to, parents first."""
    start = f"{bind.source}/"
    points = dict.fromkeys(m.point for m in mounts.table() if m.point.startswith(start))
    return [
        Bind(point, bind.target + point[len(bind.source) :], read_only=bind.read_only,
             recursive=False)
        for point in points
        if os.path.lexists(point) and _leads_to(bind.source, point, users)
    ]  # fmt: skip


def _leads_to(top: str, path: str, users: Range) -> bool:
    """Say whether users may pass through all directories from one down to a path below it."""
    while path != top:
        path = os.path.dirname(path)
        info = os.stat(path)
        if not info.st_mode & stat.S_IXOTH and users.inside(info.st_uid) < 0:
            return False
    return True
