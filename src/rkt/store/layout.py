"""The directories of the store, their modes and their group (rkt v1.30.0, dist/)."""

from __future__ import annotations

import os

from rkt.const import GROUP
from rkt.errors import KernelError

_SHARED = ("blob", "imagelocks", "manifest", "partial", "sig", "split", "tmp", "treelocks")


def ensure(data_dir: str) -> None:
    """Make the directories below a data directory that are missing.

    As root they belong to the group `rkt` if there is one: its members fetch images.  Unpacked
    trees are for root alone, since an old image may hold a set-uid program with a known hole.
    """
    cas = f"{data_dir}/cas"
    try:
        if os.path.isdir(f"{cas}/treelocks"):  # made last
            _guard_trees(f"{cas}/tree")
            return
        gid = _group() if os.geteuid() == 0 else None
        if not os.path.isdir(data_dir):
            os.makedirs(os.path.dirname(data_dir) or ".", exist_ok=True)
            _make(data_dir, 0o2750, gid)
        # Sticky: who may write here must not put another directory in the place of `tree`.
        _make(cas, 0o3770, gid)
        _make(f"{cas}/tree", 0o700, 0 if gid is not None else None)
        for name in _SHARED:
            _make(f"{cas}/{name}", 0o2770, gid)
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


def _guard_trees(path: str) -> None:
    # Somebody else may have made the directory before root first came here.
    if os.geteuid() != 0:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if info.st_uid or info.st_mode & 0o777 != 0o700:
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _group() -> int:
    import grp

    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return 0
