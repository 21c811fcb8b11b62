"""`rkt cat-manifest`."""

from __future__ import annotations

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuid
from rkt.pod import view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "cat-manifest",
    "UUID",
    description="Prints the pod manifest, for debugging and inspection.",
    flags=(
        UUID_FILE,
        Flag("pretty-print", "apply indent to format the output", kind="bool", default="true"),
    ),
)


def run(context: Context, args: Parsed) -> int:
    """Print a pod's manifest."""
    with find_pod(context, given_uuid(args, "cat-manifest")) as pod:
        manifest = view.manifest(pod)
    form = formats.PRETTY if args.flag("pretty-print") else formats.JSON
    output.line(formats.text(manifest, form))
    return 0
