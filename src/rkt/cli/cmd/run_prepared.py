"""`rkt run-prepared`."""

from __future__ import annotations

from rkt.cli.cmd.run import begin
from rkt.cli.flags import Command
from rkt.cli.podflags import START_FLAGS, run_request
from rkt.cli.uuids import find_pod
from rkt.errors import LockedError, PodStateError, RktError, UsageError
from rkt.linux.mounts import overlay_obstacle
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "run-prepared",
    "UUID",
    description='UUID is the one that "rkt prepare" printed, or a unique beginning of it.',
    flags=START_FLAGS,
)


def run(context: Context, args: Parsed) -> int:
    """Start a prepared pod: become its stage1."""
    from rkt.pod.view import app_names

    if len(args.words) != 1:
        raise UsageError("exactly one UUID is needed", command="run-prepared")
    request = run_request(context, args)
    pod = find_pod(context, args.words[0])
    try:
        pod.lock()
    except LockedError:
        if pod.where == state.PREPARED:
            raise
    if pod.where != state.PREPARED:
        raise PodStateError(f'pod "{pod.uuid}" is not prepared')
    if request.interactive and len(app_names(pod)) != 1:
        raise PodStateError("interactive option only supports pods with one app")
    if pod.exists("overlay-prepared") and overlay_obstacle(context.data_dir):
        raise RktError("unable to run prepared overlay-enabled pod: overlay not supported",
                       hint="prepare it again with --no-overlay")  # fmt: skip
    if args.flag("detach"):
        from rkt.stage0 import detach

        detach.check(pod)
    pod.move(state.RUN)
    return begin(pod, request, detached=args.flag("detach"))
