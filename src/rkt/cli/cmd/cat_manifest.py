"""`rkt cat-manifest`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuid
from rkt.pod import view
from rkt.schema import codec

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
    encode = codec.encode_pretty if args.flag("pretty-print") else codec.encode
    output.line(encode(manifest).decode())
    return 0
