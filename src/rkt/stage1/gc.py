"""The `gc` entrypoint: remove what a crashed supervisor could not."""

from __future__ import annotations

import os

from rkt import log
from rkt.const import JOURNALS
from rkt.errors import RktError, UsageError
from rkt.linux import regular
from rkt.stage1 import contract, launch
from rkt.stage1.app import files
from rkt.stage1.host import cgroup, identity, runtime

_LONGEST = 1 << 12  # of the name of a cgroup


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
        cgroup.kill_members(layout, path)
        left = [f'cannot remove cgroup "{group}"' for group in cgroup.remove(layout, path)]
    if os.path.exists(f"{pod_dir}/net/state.json"):
        from rkt.network.reclaim import reclaim

        left += reclaim(pod_dir, uuid)
    if any(os.path.isdir(f"{place}/{uuid.replace('-', '')}") for place in JOURNALS):
        from rkt.stage1.host import journal

        left += journal.remove(uuid)
    _forget(pod_dir)
    for name in ("runtime", "bundle"):
        files.remove_tree(f"{pod_dir}/{name}")
    if left:
        raise RktError("; ".join(left))
    return 0


def _recorded_cgroup(pod_dir: str, uuid: str) -> str:
    try:
        data = regular.read(f"{pod_dir}/subcgroup", _LONGEST)
    except FileNotFoundError:
        return ""
    except OSError as err:
        log.warning(f"cannot read the name of the pod's cgroup, left alone: {err.strerror}")
        return ""
    path = data.decode("utf-8", "surrogateescape").rstrip("\n")
    if not cgroup.is_pod_path(path, uuid):
        log.warning(f'cgroup "{path}" is not one of pod {uuid}, left alone')
        return ""
    return path


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
