"""Whether a pod's apps may come and go, and whether its supervisor listens yet."""

from __future__ import annotations

import os
import time

from rkt import const
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.schema.pod import PodManifest

_LINK, _READY = "rkt/supervisor-status", "ready"
_PAUSE = 0.02


def is_mutable(manifest: PodManifest) -> bool:
    """Say whether apps may be added to the pod and taken from it."""
    return manifest.annotation(const.STAGE1_MUTABLE) == "true"


def is_ready(pod: Pod) -> bool:
    """Say whether the pod's supervisor has got so far as to accept apps."""
    try:
        return os.readlink(f"{pod.stage1_rootfs()}/{_LINK}", dir_fd=pod.fd) == _READY
    except OSError:  # none yet
        return False


def wait_ready(pod: Pod, seconds: float) -> None:
    """Wait until the supervisor accepts apps, at most that long; for ever if it is negative.

    Raises RktError when the time is over, or when the pod ends before.
    """
    deadline = time.monotonic() + seconds
    while not is_ready(pod):
        state = pod.state()
        if state not in ("preparing", "prepared", "running"):
            raise RktError(f'error waiting for pod readiness: pod "{pod.uuid}" is {state}')
        left = deadline - time.monotonic() if seconds >= 0 else _PAUSE
        if left <= 0:
            raise RktError("error waiting for pod readiness: context deadline exceeded")
        time.sleep(min(_PAUSE, left))
