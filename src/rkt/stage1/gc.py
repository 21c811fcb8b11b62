"""The `gc` entrypoint: remove what a crashed supervisor could not."""

from __future__ import annotations

import os
import signal
import time

from rkt import log
from rkt.errors import RktError, UsageError
from rkt.stage1 import cgroup, contract, files, identity, launch, runtime

_PATIENCE = 2.0


def main(argv: list[str]) -> int:
    """Clean up after a pod that has ended; safe to repeat."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    known = ("debug", "local-config")
    rest, flags = contract.split_flags(argv[1:], known, ("debug",))
    if len(rest) != 1:
        raise UsageError("gc: exactly one pod UUID is needed")
    log.configure(debug=any(name == "debug" for name, _ in flags))
    pod_dir, uuid = os.getcwd(), rest[0]
    left: list[str] = []
    path = _recorded_cgroup(pod_dir, uuid)
    if path:
        layout = cgroup.read_layout()
        _kill_members(layout, path)
        left = cgroup.remove(layout, path)
    _forget(pod_dir)
    for name in ("runtime", "bundle"):
        files.remove_tree(f"{pod_dir}/{name}")
    if left:
        raise RktError(f'cannot remove cgroup "{left[0]}"')
    return 0


def _recorded_cgroup(pod_dir: str, uuid: str) -> str:
    try:
        with open(f"{pod_dir}/subcgroup", encoding="utf-8", errors="surrogateescape") as file:
            path = file.read().rstrip("\n")
    except FileNotFoundError:
        return ""
    if not cgroup.is_pod_path(path, uuid):
        log.warning(f'cgroup "{path}" is not one of pod {uuid}, left alone')
        return ""
    return path


def _kill_members(layout: cgroup.Layout, path: str) -> None:
    """Kill what still runs in the pod's own cgroups: usually nothing, they die with the pod."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        pids = cgroup.members(layout, path)
        if not pids:
            return
        for pid in pids:
            _kill_if_member(pid, path)
        time.sleep(0.02)


def _kill_if_member(pid: int, path: str) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The pidfd is open: what /proc now says is about the process that will get the signal.
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            paths = [line.rstrip("\n").split(":", 2)[2] for line in file]
        if any(own == path or own.startswith(f"{path}/") for own in paths):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:  # gone in the meantime
        pass
    finally:
        os.close(pidfd)


def _forget(pod_dir: str) -> None:
    """Let a runtime with state outside of the pod directory forget its containers."""
    state = identity.read(pod_dir)
    if state is None or not state.runtime:
        return
    chosen = runtime.Runtime(state.runtime, pod_dir)
    if chosen.forgets_by_removal or not os.path.isdir(f"{pod_dir}/bundle"):
        return
    for ident in os.listdir(f"{pod_dir}/bundle"):
        chosen.delete(ident)
