"""`rkt app rm`."""

from __future__ import annotations

from rkt.cli.flags import Command
from rkt.cli.podapp import APP, given_app, given_pod, saying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app rm",
    "UUID --app=NAME",
    description="Removes an app from a pod, with its files; one that runs is stopped first.",
    flags=(APP,),
)


def run(context: Context, args: Parsed) -> int:
    """Remove an app."""
    from rkt.stage0 import app

    with given_pod(context, args) as pod:
        name = given_app(args, "remove")
        app.check_app(pod, name)
        with saying("error removing app"):
            app.remove(pod, name, debug=context.debug)
    return 0
