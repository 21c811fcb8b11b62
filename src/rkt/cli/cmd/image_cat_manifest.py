"""`rkt image cat-manifest`."""

from __future__ import annotations

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag
from rkt.cli.images import IMAGE, given_image

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
    from rkt.schema.image import decode_image_manifest

    key = given_image(context, args, COMMAND.name).key
    manifest = decode_image_manifest(context.store().manifest_bytes(key))
    form = formats.PRETTY if args.flag("pretty-print") else formats.JSON
    output.line(formats.text(manifest, form))
    return 0
