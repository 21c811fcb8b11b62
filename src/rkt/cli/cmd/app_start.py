"""`rkt app start`."""

from __future__ import annotations

from rkt.cli.flags import Command
from rkt.cli.podapp import APP, given_app, given_pod, saying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app start",
    "UUID --app=NAME",
    description="Starts an app that was added to a running pod, or again one that ended.",
    flags=(APP,),
)


def run(context: Context, args: Parsed) -> int:
    """Start an app; it runs when this returns."""
    from rkt.stage0 import app

    with given_pod(context, args) as pod:
        name = given_app(args, "start")
        app.check_accepts(pod)
        app.check_app(pod, name)
        with saying("error starting app"):
            app.start(pod, name, debug=context.debug)
    return 0
