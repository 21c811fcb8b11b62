"""The SELinux contexts of a pod: those of all containers, with two categories of its own.

They are recorded in the pod's directory, so that who deletes the pod frees them.
"""

from __future__ import annotations

import errno
import os

from rkt import const, log
from rkt.errors import KernelError
from rkt.linux import atomic, lock, selinux
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod

_LIMIT = 4096


def assign(pod: Pod) -> tuple[str, str]:
    """Give the contexts of a pod's processes and of its files; "" if the policy has none.

    The caller holds the lock of the pod, which is in state `run`.
    """
    path = selinux.contexts_file()
    found = selinux.of_containers(path)
    if found is None:
        log.warning(f'SELinux does not confine the pod: no contexts for containers in "{path}"')
        return "", ""
    for context in found:
        if not selinux.in_policy(context):
            log.warning(
                f'SELinux does not confine the pod: the policy has no "{context}" of "{path}"'
            )
            return "", ""
    process, file, _ = found
    level = _allocate(pod)
    return selinux.with_level(process, level), selinux.with_level(file, level)


def _allocate(pod: Pod) -> str:
    """Reserve a level that no pod has; the directory's lock keeps others from the same choice."""
    where = f"{pod.pods_dir}/{state.RUN}"
    try:
        pods = lock.open_dir(where)
    except OSError as err:
        raise KernelError("cannot open", err, where) from err
    try:
        lock.acquire(pods)
        used = {_recorded(uuid, pods) for uuid in os.listdir(pods) if uuid != pod.uuid}
        level = selinux.free_level(int(pod.uuid.replace("-", ""), 16), used)
        atomic.write_file(const.SELINUX_LEVEL, f"{level}\n".encode(), durable=False)
    finally:
        os.close(pods)
    return level


def _recorded(uuid: str, pods: int) -> str:
    """Give the level of another pod, "" if it has none."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(f"{uuid}/{const.SELINUX_LEVEL}", flags, dir_fd=pods)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise KernelError("cannot read the SELinux level of a pod", err, uuid) from err
    try:
        return os.read(fd, _LIMIT).decode("ascii", "replace").strip()
    except IsADirectoryError:  # damaged
        return ""
    finally:
        os.close(fd)
