"""Take a pod away: its mounts, its stage1, then the rest."""

from __future__ import annotations

import os

from rkt import log
from rkt.const import NETWORKS, RELEASED
from rkt.errors import RktError, describe
from rkt.linux import mounts, proc, tree
from rkt.pod import naming, state
from rkt.stage0 import registration
from rkt.stage0.entrypoint import Stage1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod


def clean_up(pod: Pod, *, local_config: str, debug: bool = False) -> None:
    """Let the pod's own stage1 release what it holds on the host (cgroups, networks, journals).

    A stage1 that ended in order and left nothing has said so.  Failures are reported and do not
    stop the removal (rkt-internals section 11).
    """
    registration.unregister(pod)
    if pod.exists(RELEASED):
        return
    try:
        _run_gc(pod, local_config, debug=debug)
    except (RktError, OSError) as err:
        log.warning(f'pod "{pod.uuid}": stage1 cannot clean up: {describe(err)}')


def _run_gc(pod: Pod, local_config: str, *, debug: bool) -> None:
    stage1 = Stage1(pod)
    argv = [stage1.program("gc"), *(["--debug"] if debug else [])]
    if stage1.interface >= 5:
        argv += ["--local-config", local_config]
    done = proc.run([*argv, pod.uuid], cwd=pod.path, check=False)
    text = done.stderr.decode("utf-8", "replace").rstrip()
    if text:
        log.plain(text)
    if done.status != 0:
        log.warning(f'pod "{pod.uuid}": stage1 gc {proc.ending(done.status)}')


def remove(pod: Pod) -> None:
    """Unmount everything below the pod's directory and delete it; the caller holds the lock.

    Raises RktError if something stays mounted: then nothing below it is deleted.
    """
    stuck = mounts.detach_below(pod.path)
    if stuck:
        raise RktError(f'pod "{pod.uuid}": cannot unmount "{stuck[0]}"')
    parent = os.open(f"{pod.pods_dir}/{pod.where}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    naming.release(pod)
    try:
        # stage1 goes first: a pod without it is never run, whatever a kill leaves of the rest.
        tree.remove_at(pod.fd, "stage1")
        tree.remove_at(parent, pod.uuid)
    finally:
        os.close(parent)


def discard(pod: Pod, *, local_config: str, debug: bool = False) -> None:
    """Delete a pod that ended or never ran, whatever it left behind."""
    if pod.where in (state.RUN, state.EXITED_GARBAGE):
        clean_up(pod, local_config=local_config, debug=debug)
        _check_networks(pod)
    remove(pod)


def _check_networks(pod: Pod) -> None:
    """Keep a pod whose stage1 could not release its networks: what it has recorded of them is all
    that anybody knows.  Raises RktError.
    """
    if pod.exists(NETWORKS):
        raise RktError(
            f'pod "{pod.uuid}": its networks are not released yet; to give up what they hold, '
            f'remove "{pod.path}/{NETWORKS}"'
        )
