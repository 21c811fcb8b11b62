"""`rkt image cat-manifest`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.errors import UsageError
from rkt.schema import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image cat-manifest",
    "IMAGE",
    description="IMAGE is an image ID, a unique beginning of one, or an image name.",
    flags=(Flag("pretty-print", "apply indent to format the output", kind="bool", default="true"),),
)


def run(context: Context, args: Parsed) -> int:
    """Print an image's manifest."""
    if len(args.words) != 1:
        raise UsageError("exactly one image is needed", command="image cat-manifest")
    key = context.finder("never").find(args.words[0]).key
    manifest = context.store().manifest(key)
    encode = codec.encode_pretty if args.flag("pretty-print") else codec.encode
    output.line(encode(manifest).decode())
    return 0
