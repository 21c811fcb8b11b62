"""`rkt app stop`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command
from rkt.cli.podapp import APP, given_app, given_pod, saying
from rkt.pod import view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app stop",
    "UUID --app=NAME",
    description="Stops an app of a running pod and waits for its end; the pod goes on.",
    flags=(APP,),
)


def run(context: Context, args: Parsed) -> int:
    """Stop an app; in a pod that has ended it counts as stopped."""
    from rkt.stage0 import app

    with given_pod(context, args) as pod:
        name = given_app(args, "remove")  # the reference's own slip
        if view.has_ended(pod.state()):
            output.line(f'pod "{pod.uuid}" is already stopped')
            return 0
        app.check_accepts(pod)
        app.check_app(pod, name)
        with saying("error stopping app"):
            app.stop(pod, name, debug=context.debug)
    return 0
