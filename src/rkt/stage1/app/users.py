"""Who an app runs as (rkt-internals 7)."""

from __future__ import annotations

import os

from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.manifest import App
    from rkt.stage1.app.rootfs import Root

_MAX_ID = 0xFFFFFFFE


def resolve(root: Root, app: App) -> tuple[int, int]:
    """Give uid and gid of an app.  Raises RktError for what its image does not know."""
    if not app.user:
        raise RktError('invalid user ""')
    if not app.group:
        raise RktError('invalid group ""')
    uid = _resolve(root, app.user, "user")
    if app.is_converted and app.user == app.group:
        # Docker images name only a user: a group of that name need not exist.
        try:
            return uid, _resolve(root, app.group, "group")
        except RktError:
            return uid, uid
    return uid, _resolve(root, app.group, "group")


def _resolve(root: Root, name: str, kind: str) -> int:
    if name == "root":
        return 0
    if name.isascii() and name.isdigit():
        number = int(name) if len(name) < 12 else _MAX_ID + 1
        if number > _MAX_ID:
            raise RktError(f'invalid {kind} "{name}"')
        return number
    if name.startswith("/"):
        try:
            info = root.lstat(name)
        except OSError as err:
            reason = (err.strerror or "cannot be read").lower()
            raise RktError(f'failed to configure {kind} "{name}": {reason}') from None
        number = info.st_uid if kind == "user" else info.st_gid
        number = root.users.inside(number) if root.users is not None else number
        if number < 0:
            raise RktError(f'failed to configure {kind} "{name}": its owner is not of the pod')
        return number
    path = "etc/passwd" if kind == "user" else "etc/group"
    try:
        data = root.read(path)
    except (OSError, RktError) as err:
        raise RktError(f'failed to configure {kind} "{name}"') from err
    if data is None:
        raise RktError(f'invalid {kind} "{name}": the image has no /{path}')
    number = lookup(data, name)
    if number < 0:
        raise RktError(f'invalid {kind} "{name}": not in /{path} of the image')
    return number


def lookup(data: bytes, name: str) -> int:
    """Find a name in a passwd or group file; -1 when it is not there with a usable number."""
    wanted = os.fsencode(name) + b":"
    for line in data.split(b"\n"):
        if not line.startswith(wanted):
            continue
        fields = line.split(b":")
        if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) < 11:
            number = int(fields[2])
            if number <= _MAX_ID:
                return number
    return -1
