"""`rkt rm`."""

from __future__ import annotations

from rkt import log
from rkt.cli import output
from rkt.cli.flags import Command
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuids
from rkt.errors import LockedError, PodStateError, RktError, describe
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

COMMAND = Command(
    "rm",
    "--uuid-file=FILE | UUID ...",
    description="Unlike gc, rm allows users to remove specific pods, without a grace period.",
    flags=(UUID_FILE,),
)


def run(context: Context, args: Parsed) -> int:
    """Remove pods that do not run."""
    failures = 0
    for uuid in given_uuids(args, "rm"):
        try:
            with find_pod(context, uuid, "cannot get pod") as pod:
                _remove(context, pod)
                output.line(f'"{pod.uuid}"')
        except RktError as err:
            # The others are still to be removed; the exit code tells.
            log.info(describe(err))
            failures += 1
    if failures:
        raise RktError("failed to remove one or more pods")
    return 0


_BUSY = {
    state.RUN: "running",
    state.PREPARE: "being prepared",
    state.EXITED_GARBAGE: "being deleted",
    state.GARBAGE: "being deleted",
    state.PREPARED: "being run",
}


def _remove(context: Context, pod: Pod) -> None:
    from rkt.stage0.remove import discard

    try:
        pod.lock()
    except LockedError:
        busy = "being read" if pod.state() == "exited" else _BUSY[pod.where]
        raise PodStateError(f'pod "{pod.uuid}" is currently {busy}') from None
    if pod.where == state.RUN:
        pod.move(state.EXITED_GARBAGE)
    elif pod.where == state.PREPARE:
        log.info(f'moving failed prepare "{pod.uuid}" to garbage')
        pod.move(state.GARBAGE)
    elif pod.where == state.PREPARED:
        log.info(f'moving expired prepared pod "{pod.uuid}" to garbage')
        pod.move(state.GARBAGE)
    discard(pod, local_config=context.local_config, debug=context.debug)
