"""`rkt image export`."""

from __future__ import annotations

import os

from rkt import log
from rkt.cli.flags import Command, Flag
from rkt.cli.images import stored
from rkt.errors import RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image export",
    "IMAGE OUTPUT_ACI_FILE",
    description="Writes a stored image, uncompressed, byte for byte what its ID is the hash of.",
    flags=(Flag("overwrite", "overwrite output ACI", kind="bool"),),
)


def run(context: Context, args: Parsed) -> int:
    """Write an image to a file; nothing is left of it after a failure."""
    from rkt.image.export import export_tar
    from rkt.image.extract import has_layers
    from rkt.linux.newfile import new_file

    if len(args.words) != 2:
        raise UsageError("an image and an output file are needed", command="image export")
    target = args.words[1]
    extension = os.path.splitext(target)[1]
    if extension != ".aci":
        raise RktError(f"extension must be .aci (given {extension})")
    if os.path.lexists(target) and not args.flag("overwrite"):
        raise RktError("output ACI file exists (try --overwrite)")
    key = stored(context, args.words[0]).key
    with new_file(target) as file:
        export_tar(context.store(), key, file)
    context.store().touch(key)
    if has_layers(context.store().manifest(key)):
        log.warning("the files of this image are in its layers, which the ACI only names")
        log.plain("hint: for an ACI with all of them use rkt image render and rkt image build")
    return 0
