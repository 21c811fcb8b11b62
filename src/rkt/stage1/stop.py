"""The `stop` entrypoint: end a running pod."""

from __future__ import annotations

import os
import time

from rkt.errors import PodStateError, UsageError
from rkt.linux import sig
from rkt.stage1 import contract, launch
from rkt.stage1.host import identity

_PAUSE = 0.02


def main(argv: list[str]) -> int:
    """Ask the supervisor to end the pod; with --force kill all of the pod."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    rest, flags = contract.split_flags(argv[1:], ("force", "debug"), ("force", "debug"))
    if len(rest) != 1:
        raise UsageError("stop: exactly one pod UUID is needed")
    state = _supervision(os.getcwd())
    force = any(name == "force" and value == "true" for name, value in flags)
    supervisor = identity.open_process(state.supervisor, state.supervisor_start, "the pod")
    try:
        if force:
            _kill(state)
        else:
            sig.pidfd_send_signal(supervisor, sig.SIGTERM)
        sig.pidfd_send_signal(supervisor, sig.SIGCONT)  # somebody may have suspended it
    finally:
        os.close(supervisor)
    return 0


def _supervision(pod_dir: str) -> identity.State:
    """Read who supervises the pod, once that is known of one that is being started.

    Raises PodStateError if it has ended.
    """
    state = identity.read(pod_dir)
    return _wait_for_supervision(pod_dir) if state is None else state


def _wait_for_supervision(pod_dir: str) -> identity.State:
    from rkt.linux import lock

    pod = lock.open_dir(pod_dir)
    try:
        while True:
            ends = not lock.is_locked(pod) or os.path.exists("pid")
            state = identity.read(pod_dir)
            if state is not None:
                return state
            if ends:
                raise PodStateError("the pod is not running")
            time.sleep(_PAUSE)
    finally:
        os.close(pod)


def _kill(state: identity.State) -> None:
    """Kill the pod's first process, and so all of the pod; if it is gone the end has begun."""
    try:
        init = identity.open_process(state.init, state.init_start, "the pod")
    except PodStateError:
        return
    try:
        sig.pidfd_send_signal(init, sig.SIGKILL)
    finally:
        os.close(init)
