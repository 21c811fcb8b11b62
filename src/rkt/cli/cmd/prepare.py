"""`rkt prepare`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.podflags import PREPARE_FLAGS, pod_request, preparer
from rkt.pod import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "prepare",
    "[--volume=name,kind=host,...] IMAGE [-- image-args...[---]]...",
    description="""\
Does everything that "rkt run" does before it starts the pod, and prints the pod's UUID, with
which "rkt run-prepared" starts it.""",
    flags=(
        *PREPARE_FLAGS,
        Flag("quiet", "suppress superfluous output on stdout, print only the UUID", kind="bool"),
    ),
    images=True,
)


def run(context: Context, args: Parsed) -> int:
    """Prepare a pod and print its UUID."""
    with preparer(context, args).prepare(pod_request(context, args, "prepare")) as pod:
        pod.move(state.PREPARED)
        output.line(pod.uuid)
    return 0
