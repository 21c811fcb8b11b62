"""`rkt image render`."""

from __future__ import annotations

from rkt.cli.cmd.image_extract import FLAGS
from rkt.cli.flags import Command
from rkt.cli.images import IMAGE, check_output, stored
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image render",
    "IMAGE OUTPUT_DIR",
    description=f"""\
{IMAGE}

Writes the image to a new directory as an app would see it: its own files over those of the images
that it depends on.  The files are copies, `rm -rf` removes them.""",
    flags=FLAGS,
)


def run(context: Context, args: Parsed) -> int:
    """Write a rendered image to a directory; nothing is left of it after a failure."""
    from rkt.image.extract import write_rendered

    if len(args.words) != 2:
        raise UsageError("an image and an output directory are needed", command=COMMAND.name)
    target = check_output(context, args.words[1], overwrite=args.flag("overwrite"))
    store = context.store()
    with store.guard(exclusive=False):
        record = stored(context, args.words[0])
        write_rendered(store, record, target, rootfs_only=args.flag("rootfs-only"))
    return 0
