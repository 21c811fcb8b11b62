"""`rkt image rm`."""

from __future__ import annotations

from rkt import log
from rkt.cli.flags import Command
from rkt.errors import RktError, UsageError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image rm",
    "IMAGE...",
    description="IMAGE is an image ID, a unique beginning of one, or an image name.",
)


def run(context: Context, args: Parsed) -> int:
    """Remove images from the store."""
    if not args.words:
        raise UsageError("must provide at least one image ID", command="image rm")
    store, finder = context.store(), context.finder("never")
    removed = failed = 0
    for word in args.words:
        try:
            key = finder.find(word).key
            store.remove(key)
        except RktError as err:
            # The others are still to be removed; the summary and the exit code tell.
            log.info(describe(err))
            failed += 1
        else:
            log.info(f'successfully removed aci for imageID: "{key}"')
            removed += 1
    if removed:
        log.info(f"{removed} image(s) successfully removed")
    if failed:
        raise RktError(f"{failed} image(s) cannot be removed")
    return 0
