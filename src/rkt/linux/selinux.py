"""SELinux: the contexts that the host's policy has for containers, and contexts of files.

Loaded only where SELinux is enabled, which is what the existence of `const.SELINUX_ENFORCE` says.
"""

from __future__ import annotations

import errno
import os
import stat

from rkt import log
from rkt.errors import KernelError, RktError

CONFIG = "/etc/selinux"
_CHECK = "/sys/fs/selinux/context"
_XATTR = "security.selinux"
_LIMIT = 1 << 16
_ALL = 1024 * 1023 // 2
"""How many pairs of different categories there are."""


def _settings(path: str) -> dict[str, str]:
    """Read lines of `name = "value"`; {} where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LIMIT)
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise KernelError("cannot read the configuration of SELinux", err, path) from err
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            found[name.strip()] = value.strip().strip('"')
    return found


def contexts_file(config: str = CONFIG) -> str:
    """Give the path of the file that names the contexts of containers in the host's policy."""
    policy = _settings(f"{config}/config").get("SELINUXTYPE", "targeted")
    return f"{config}/{os.path.basename(policy)}/contexts/lxc_contexts"


def of_containers(path: str) -> tuple[str, str, str] | None:
    """Give the contexts of containers' processes, files and files that they share but cannot
    change; None if the policy has none.
    """
    found = _settings(path)
    process, file = found.get("process", ""), found.get("file", "")
    shared = found.get("ro_file", file)
    known = all(is_context(context) for context in (process, file, shared))
    return (process, file, shared) if known else None


def is_context(text: str) -> bool:
    """Say whether a text may be a context: nothing that could end a mount option."""
    parts = text.split(":", 3)
    return len(parts) == 4 and all(parts) and not set(text) & set('" \t\n\\\0')


def in_policy(context: str) -> bool:
    """Say whether the policy that is loaded knows a context."""
    try:
        fd = os.open(_CHECK, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as err:
        raise KernelError("cannot ask SELinux for a context", err, _CHECK) from err
    try:
        os.write(fd, os.fsencode(context) + b"\0")
    except OSError as err:
        if err.errno == errno.EINVAL:
            return False
        raise KernelError(f'cannot ask SELinux for the context "{context}"', err, _CHECK) from err
    finally:
        os.close(fd)
    return True


def with_level(context: str, level: str) -> str:
    """Replace the level of a context."""
    return f"{':'.join(context.split(':', 3)[:3])}:{level}"


def level_of(context: str) -> str:
    """Give the level of a context."""
    return context.split(":", 3)[-1]


def free_level(seed: int, used: set[str]) -> str:
    """Give a level with two categories that is in use by nobody, the same for the same seed."""
    import math

    for offset in range(_ALL):
        number = (seed + offset) % _ALL
        upper = (1 + math.isqrt(1 + 8 * number)) // 2
        level = f"s0:c{number - upper * (upper - 1) // 2},c{upper}"
        if level not in used:
            return level
    raise RktError("all pairs of SELinux categories are in use", hint="try: rkt gc")


def set_context(path: str, context: str) -> None:
    """Give a file a context; a link itself, not what it leads to."""
    try:
        os.setxattr(path, _XATTR, os.fsencode(context) + b"\0", follow_symlinks=False)
    except OSError as err:
        raise KernelError(f'cannot set the SELinux context "{context}"', err, path) from err


def share(tree: str) -> None:
    """Let all containers read a tree that lies below overlays; quick if it was done before.

    The context of the overlay is not enough: the kernel checks mprotect(2) against the file below.
    """
    found = of_containers(contexts_file())
    if found is None:
        return
    try:
        done = os.getxattr(tree, _XATTR).rstrip(b"\0") == os.fsencode(found[2])
    except OSError as err:
        raise KernelError("cannot read the SELinux context", err, tree) from err
    if not done:
        set_contexts_below(tree, found[2])


def lend(context: str, *fds: int) -> None:
    """Give those descriptors that are pipes a context.

    By itself a pipe has the context, and all categories, of who made it: where the policy keeps
    containers from such pipes it must let us change that; elsewhere it need not.
    """
    for fd in fds:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                os.setxattr(fd, _XATTR, os.fsencode(context) + b"\0")
            except PermissionError:
                log.debug("the SELinux policy does not let us change the context of a pipe")
            except OSError as err:
                what = f'cannot set the SELinux context "{context}" of a pipe'
                raise KernelError(what, err) from err


def set_contexts_below(path: str, context: str) -> None:
    """Give a directory and all that is below it a context, the directory itself at last."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                set_contexts_below(entry.path, context)
            else:
                set_context(entry.path, context)
    set_context(path, context)
