"""`rkt stop`."""

from __future__ import annotations

import os

from rkt import log
from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuids
from rkt.errors import PodStateError, RktError, describe
from rkt.pod import view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

COMMAND = Command(
    "stop",
    "--uuid-file=FILE | UUID ...",
    description="""\
Asks the apps of running pods to end, and kills those that take longer than the pod's
--stop-timeout; does not wait for it: "rkt status --wait" does.""",
    flags=(
        Flag("force", "kill the apps at once", kind="bool"),
        UUID_FILE,
    ),
)


def run(context: Context, args: Parsed) -> int:
    """Stop pods; those that already ended count as stopped."""
    failures = 0
    for uuid in given_uuids(args, "stop", file_status=1):
        try:
            with find_pod(context, uuid, "cannot get pod") as pod:
                _stop(pod, force=args.flag("force"))
        except RktError as err:
            # The others are still to be stopped; the exit code tells.
            log.info(describe(err))
            failures += 1
    if failures:
        raise RktError(f"failed to stop {failures} pod(s)")
    return 0


def _stop(pod: Pod, *, force: bool) -> None:
    from rkt.stage0.control import stop

    state = pod.state()
    if view.has_ended(state):
        output.line(f'pod "{pod.uuid}" is already stopped')
        return
    if state != "running":
        raise PodStateError(f'pod "{pod.uuid}" is not running')
    try:
        stop(pod, force=force)
    except RktError:
        if not view.has_ended(pod.state()):  # else it came to its end by itself just now
            if os.geteuid() == 0:
                raise
            text = f'error stopping "{pod.uuid}": only root can stop a pod that runs'
            raise RktError(text) from None
    output.line(f'"{pod.uuid}"')
