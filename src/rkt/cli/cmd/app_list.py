"""`rkt app list`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.podapp import exit_code, given_pod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app list",
    "UUID",
    description="Lists the apps of a pod and their states: created, running, exited, unknown.",
    flags=(Flag("no-legend", "suppress a legend with the list", kind="bool"),),
)


def run(context: Context, args: Parsed) -> int:
    """Print the table of a pod's apps."""
    from rkt.pod import report

    with exit_code(1), given_pod(context, args) as pod:
        rows = [(app.name, app.state) for app in report.pod(pod).apps]
    if not args.flag("no-legend"):
        rows.insert(0, ("NAME", "STATE"))
    output.write(output.table(rows))
    return 0
