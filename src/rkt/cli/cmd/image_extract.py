"""`rkt image extract`."""

from __future__ import annotations

from rkt.cli.flags import Command, Flag
from rkt.cli.images import IMAGE, check_output, stored
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

FLAGS = (
    Flag("overwrite", "overwrite output directory", kind="bool"),
    Flag("rootfs-only", "extract rootfs only", kind="bool"),
)

COMMAND = Command(
    "image extract",
    "IMAGE OUTPUT_DIR",
    description=f"""\
{IMAGE}

Writes manifest and root file system of the image itself to a new directory; what it depends on is
left out, but not the layers of a docker or OCI image.  Owners are kept when root does it.""",
    flags=FLAGS,
)


def run(context: Context, args: Parsed) -> int:
    """Write a stored image to a directory; nothing is left of it after a failure."""
    from rkt.image.extract import extract

    if len(args.words) != 2:
        raise UsageError("an image and an output directory are needed", command=COMMAND.name)
    target = check_output(context, args.words[1], overwrite=args.flag("overwrite"))
    store = context.store()
    with store.guard(exclusive=False):
        record = stored(context, args.words[0])
        extract(store, record, target, rootfs_only=args.flag("rootfs-only"))
    return 0
