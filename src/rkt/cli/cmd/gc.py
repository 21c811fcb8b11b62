"""`rkt gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rkt import log
from rkt.cli import duration, output
from rkt.cli.flags import Command, Flag, converted

if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "gc",
    "[--grace-period=30m0s]",
    description="""\
This is intended to be run periodically from a timer or cron job.

Garbage collection is a 2-step process. First, stopped pods are moved to the garbage by one
invocation of the gc command. A subsequent invocation will clean up the pod, assuming the pod
has been in the garbage longer than the grace period.""",
    flags=(
        Flag("expire-prepared", "duration to wait before expiring prepared pods",
             kind="value", default="24h0m0s"),
        Flag("grace-period", "duration to wait before discarding inactive pods from garbage",
             kind="value", default="30m0s"),
        Flag("mark-only", "only mark pods as garbage, do not remove them", kind="bool"),
    ),
    words=False,
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Make one pass of garbage collection."""
    from rkt.stage0.collect import Collector

    grace = _seconds(args, "grace-period")
    expiry = _seconds(args, "expire-prepared")
    failures: list[str] = []

    def failed(text: str) -> None:
        failures.append(text)
        log.info(text)

    collector = Collector(
        context.data_dir, local_config=context.local_config, debug=context.debug,
        moved=log.plain, deleted=output.line, failed=failed,
    )  # fmt: skip
    collector.mark()
    if not args.flag("mark-only"):
        collector.expire_prepared(expiry)
        collector.sweep(grace, duration.format(grace))
    return 254 if failures else 0


def _seconds(args: Parsed, name: str) -> float:
    return cast("float", converted(name, args.string(name), duration.parse))
