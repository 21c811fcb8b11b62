"""`rkt export`."""

from __future__ import annotations

import os

from rkt.cli.cmd.enter import choose_app
from rkt.cli.flags import Command, Flag
from rkt.cli.uuids import find_pod
from rkt.errors import RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "export",
    "[--app=APPNAME] UUID OUTPUT_ACI_FILE",
    description="""\
Makes an image of an app of an exited pod: the manifest of its image, and its root file system
as the app left it.""",
    flags=(
        Flag("app", "name of the app to export within the specified pod"),
        Flag("overwrite", "overwrite output ACI", kind="bool"),
    ),
)


def run(context: Context, args: Parsed) -> int:
    """Write an app to an image archive."""
    if len(args.words) != 2:
        raise UsageError("a pod UUID and an output file are needed", command="export")
    uuid, target = args.words[0], os.path.abspath(args.words[1])
    extension = os.path.splitext(target)[1]
    if extension != ".aci":
        raise RktError(f"extension must be .aci (given {extension})")
    if os.path.lexists(target) and not args.flag("overwrite"):
        raise RktError("target file exists (try --overwrite)")
    with find_pod(context, uuid) as pod:
        from rkt.stage0.export import export, refuse_unless_exited

        refuse_unless_exited(pod)
        app = choose_app(pod, args, "export")
        export(context.store(), pod, app, target, overwrite=args.flag("overwrite"))
    return 0
