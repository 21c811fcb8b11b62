"""Names of pods: `<data>/podnames/<name>` is a link to a UUID; the pod's file `name` confirms it.

A link without such a pod is stale and may be replaced: whatever is killed, no name is lost.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from rkt.const import POD_NAMES
from rkt.errors import PodStateError, RktError, UsageError
from rkt.linux import lock
from rkt.pod import lifecycle
from rkt.schema.types import DIGITS, LOWER, UPPER, is_made_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.pod.lifecycle import Pod

_START = LOWER + UPPER + DIGITS
_MAX_NAME = 63


def _is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME and is_made_of(text, _START + "_.-") and text[0] in _START


def check(name: str) -> str:
    """Give the name back if a pod may have it.  Raises UsageError."""
    if not _is_name(name):
        raise UsageError(f'invalid pod name "{name}": letters, digits, "_", "." and "-" only, '
                         "63 at most, the first a letter or a digit")  # fmt: skip
    if lifecycle.is_uuid(name.lower()):
        raise UsageError(f'invalid pod name "{name}": it looks like a UUID')
    return name


def claim(pod: Pod, name: str) -> None:
    """Give a new pod, which the caller holds locked, its name.

    Raises PodStateError if another pod that was not collected yet has it.
    """
    data_dir = os.path.dirname(pod.pods_dir)
    with _locked(data_dir) as directory:
        other = lifecycle.named(data_dir, name)
        if other is not None:
            hint = f"rkt rm {name}"
            if other.state() == "running":
                hint = f"rkt stop {name}; rkt status --wait {name}; {hint}"
            other.close()
            raise PodStateError(f'pod name "{name}" is in use by pod "{other.uuid}"', hint=hint)
        # The pod's own file first: whoever collects a pod that was killed here finds the links.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open("name", flags, 0o644, dir_fd=pod.fd), "w") as file:
            file.write(f"{name}\n")
        temporary = f"{directory}/{_temporary(pod)}"
        os.symlink(pod.uuid, temporary)
        os.rename(temporary, f"{directory}/{name}")


def release(pod: Pod) -> None:
    """Let a pod that is being deleted lose its name; others may have it from now on."""
    try:
        name = pod.name()
    except RktError:  # no file: the link is a stale one, which the next pod of that name replaces
        return
    if not name or not _is_name(name):
        return
    with _locked(os.path.dirname(pod.pods_dir)) as directory:
        for path in (f"{directory}/{name}", f"{directory}/{_temporary(pod)}"):
            try:
                if os.readlink(path) == pod.uuid:
                    os.unlink(path)
            except OSError:  # no such link: another pod has the name by now, or nobody
                pass


def _temporary(pod: Pod) -> str:
    """Name a pod's link before it takes the place of a stale one; no pod has such a name."""
    return f".{pod.uuid}"


@contextmanager
def _locked(data_dir: str) -> Iterator[str]:
    directory = f"{data_dir}/{POD_NAMES}"
    os.makedirs(directory, mode=0o755, exist_ok=True)
    fd = lock.open_dir(directory)
    try:
        lock.acquire(fd, what=directory)
        yield directory
    finally:
        os.close(fd)
