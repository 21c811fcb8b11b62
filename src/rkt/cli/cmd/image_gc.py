"""`rkt image gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rkt import log
from rkt.cli import duration
from rkt.cli.cmd.image_rm import remove
from rkt.cli.flags import Command, Flag, converted
from rkt.errors import one_line

if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "image gc",
    "[--grace-period=24h0m0s]",
    description="""\
This is intended to be run periodically from a timer or cron job.

Removes images that were not used for the grace period, unless a pod uses them or another image
needs them; layers that no image needs; rendered trees that no pod uses; and what interrupted
commands left in the store.""",
    flags=(
        Flag("grace-period", "duration to wait since an image was last used before removing it",
             kind="value", default="24h0m0s"),
    ),
    words=False,
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Make one pass of garbage collection over the image store."""
    from rkt.stage0.usage import Remover
    from rkt.store.gc import sweep

    grace = cast(
        "float", converted("grace-period", args.string("grace-period"), duration.parse)
    )  # the parser gives a float
    store = context.store()
    with store.guard(exclusive=True):
        remover = Remover(store)
        remove(remover, remover.unused(grace))
        remove(remover, remover.orphans())
        for tree in remover.sweep_trees():
            log.info(f'removed treestore "{tree}"')
        for left in sweep(store):
            log.info(f'removed "{one_line(left)}", which an interrupted command left')
    return 0
