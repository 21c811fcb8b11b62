"""`rkt run`."""

from __future__ import annotations

from rkt.cli import lifeflags, output
from rkt.cli.flags import Command, Flag
from rkt.cli.podflags import PREPARE_FLAGS, START_FLAGS, pod_request, preparer, run_request
from rkt.errors import RktError
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod
    from rkt.stage0.request import RunRequest

COMMAND = Command(
    "run",
    "[--volume=name,kind=host,...] [--mount volume=VOL,target=PATH] "
    "IMAGE [-- image-args...[---]]...",
    description="""\
IMAGE should be a string referencing an image: a hash, a local file on disk, or a URL.
They will be checked in that order and the first match will be used.

Volumes are made available to the pod via --volume and are mounted where the images'
manifests say, or where --mount says.

An "image-args" section starts with "--" and ends with "---" or the end of the line:
rkt run example.com/app1 -- --option1 --- example.com/app2 -- --option2""",
    flags=(
        *PREPARE_FLAGS,
        *START_FLAGS,
        Flag("uuid-file-save", "write out pod UUID to specified file"),
    ),
    images=True,
)


def run(context: Context, args: Parsed) -> int:
    """Prepare a pod and become its stage1."""
    start_request = run_request(context, args)
    if start_request.interactive and len(args.apps) > 1:
        raise RktError("interactive option only supports one image")
    lifeflags.check_restart(args, interactive=start_request.interactive)
    pod = preparer(context, args).prepare(pod_request(context, args))
    accept_or_remove(pod, args)
    # A pod that a power cut loses between two states has ended all the same: gc finds it in either.
    pod.move(state.RUN, durable=False)
    return begin(pod, start_request, detached=args.flag("detach"))


def accept_or_remove(pod: Pod, args: Parsed) -> None:
    """Do what can still fail before a new pod runs, and remove the pod then.  Raises RktError."""
    from rkt.stage0.remove import remove

    try:
        if args.flag("detach"):
            from rkt.stage0 import detach

            detach.check(pod)
        if args.string("uuid-file-save"):
            from rkt.stage0.prepare import save_uuid

            save_uuid(args.string("uuid-file-save"), pod.uuid)
    except RktError:
        remove(pod)
        raise


def begin(pod: Pod, request: RunRequest, *, detached: bool) -> int:
    """Become the stage1 of a pod; detached, print the UUID of the pod once its apps run."""
    from rkt.stage0.run import run as start

    uuid, status = pod.uuid, None
    if detached:
        from rkt.stage0 import detach

        status = detach.part(pod, request)
    if status is None:
        start(pod, request)
    if status == 0:
        output.line(uuid)
    return status
