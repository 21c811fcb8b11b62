"""The directories of the store, their modes and their group (rkt v1.30.0, dist/).

Members of the group `rkt` write what they fetch into the directories of `_SHARED`.  Whatever root
relies on lies in those of `_PRIVATE`, which they can neither write nor, since an old image may hold
a set-uid program with a known hole, read.  They cannot make or rename anything in `cas` itself.
"""

from __future__ import annotations

import os
import stat

from rkt import log
from rkt.const import GROUP
from rkt.errors import KernelError

_SHARED = ("blob", "db", "imagelocks", "manifest", "partial", "sig")
_PRIVATE = ("split", "tree", "treelocks", "trust")


def ensure(data_dir: str) -> None:
    """Make the directories below a data directory that are missing.

    As root they belong to the group `rkt` if there is one.  Raises KernelError.
    """
    cas = f"{data_dir}/cas"
    is_root = os.geteuid() == 0
    try:
        if os.path.isdir(f"{cas}/{_PRIVATE[-1]}"):  # made last
            if is_root:
                _guard(cas)
            return
        gid = _group() if is_root else None
        if not os.path.isdir(data_dir):
            os.makedirs(os.path.dirname(data_dir) or ".", exist_ok=True)
            _make(data_dir, 0o2750, gid)
        if gid is not None:
            for name in ("pods", "locks"):
                _make(f"{data_dir}/{name}", 0o2750, gid)
        _make(cas, 0o2750, gid)
        for name in _SHARED:
            _make(f"{cas}/{name}", 0o2770, gid)
        # Sticky: nobody may put another directory in the place of somebody's staging.
        _make(f"{cas}/tmp", 0o3770, gid)  # noqa: S108 - the store's own
        for name in _PRIVATE:
            _make(f"{cas}/{name}", 0o700, 0 if gid is not None else None)
    except OSError as err:
        raise KernelError("cannot make the image store", err, err.filename or cas) from err


def _make(path: str, mode: int, gid: int | None) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    if gid is None:
        os.chmod(path, mode & 0o777)
        return
    os.chown(path, 0, gid)
    os.chmod(path, mode)


def _guard(cas: str) -> None:
    """Take back what somebody else made before root first came here."""
    for name in _PRIVATE:
        fd = os.open(f"{cas}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if info.st_uid or stat.S_IMODE(info.st_mode) & 0o777 != 0o700:
                os.fchown(fd, 0, 0)
                os.fchmod(fd, 0o700)
        finally:
            os.close(fd)


def _group() -> int:
    import grp

    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        log.debug(f'group "{GROUP}" not found, will use default gid when rendering images')
        return 0
