"""`rkt image cat-manifest`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.images import IMAGE, given_image
from rkt.schema import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image cat-manifest",
    "IMAGE",
    description=IMAGE,
    flags=(Flag("pretty-print", "apply indent to format the output", kind="bool", default="true"),),
)


def run(context: Context, args: Parsed) -> int:
    """Print an image's manifest."""
    manifest = context.store().manifest(given_image(context, args, COMMAND.name).key)
    encode = codec.encode_pretty if args.flag("pretty-print") else codec.encode
    output.line(encode(manifest).decode())
    return 0
