"""The `stop` entrypoint: end a running pod."""

from __future__ import annotations

import os

from rkt.errors import PodStateError, UsageError
from rkt.linux import sig
from rkt.stage1 import contract, launch
from rkt.stage1.host import identity


def main(argv: list[str]) -> int:
    """Ask the supervisor to end the pod; with --force kill all of the pod."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    rest, flags = contract.split_flags(argv[1:], ("force", "debug"), ("force", "debug"))
    if len(rest) != 1:
        raise UsageError("stop: exactly one pod UUID is needed")
    state = identity.read(os.getcwd())
    if state is None:
        raise PodStateError("the pod is not running")
    force = any(name == "force" and value == "true" for name, value in flags)
    if force:
        target, number = (state.init, state.init_start), sig.SIGKILL
    else:
        target, number = (state.supervisor, state.supervisor_start), sig.SIGTERM
    try:
        pidfd = identity.open_process(*target, "the pod")
    except PodStateError:
        if force and identity.start_time(state.supervisor) == state.supervisor_start:
            return 0  # its first process is gone: the supervisor is about to end too
        raise
    try:
        sig.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    return 0
