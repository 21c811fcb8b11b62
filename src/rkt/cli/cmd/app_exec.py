"""`rkt app exec`: the same as `rkt enter`."""

from __future__ import annotations

from rkt.cli.cmd import enter
from rkt.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app exec",
    "[--app=APPNAME] UUID [CMD [ARGS ...]]",
    description="Runs a command inside an app of a running pod; without a command, /bin/bash.",
    flags=enter.COMMAND.flags,
    interspersed=False,
)


def run(context: Context, args: Parsed) -> int:
    """Become a command inside an app."""
    return enter.run(context, args, "app exec")
