"""`rkt app add`."""

from __future__ import annotations

from rkt.cli.flags import Command, Flag
from rkt.cli.lifeflags import HEALTH_FLAGS
from rkt.cli.podapp import saying
from rkt.cli.podflags import APP_FLAGS, app_request
from rkt.cli.uuids import find_pod
from rkt.errors import RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app add",
    "UUID IMAGEID [APP FLAGS] [-- image-args...]",
    description="""\
Adds an app to a running pod of "rkt app sandbox", without starting it.  The image must be in the
local store.  Arguments replace all but the first word of the image's command.""",
    flags=(
        *APP_FLAGS,
        *HEALTH_FLAGS,
        Flag("mnt-volume", "a volume and where it is mounted (example: "
             "'--mnt-volume=name=NAME,kind=host,source=/a,target=/b')", app=True),
    ),
    images=True,
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Add an app to a pod."""
    from rkt.stage0 import app

    if len(args.apps) < 2:
        raise RktError("must provide the pod UUID and an IMAGEID")
    if len(args.apps) > 2:
        raise RktError("must give only one app")
    first, image = args.apps  # the grammar takes every word for an image
    if "mnt-volume" in first.flags:
        raise UsageError("an image is required before any MountVolumes", command="app add")
    if first.flags or args.given("mount"):
        raise UsageError(f"--{next(iter(first.flags), 'mount')} must follow an image",
                         command="app add")  # fmt: skip
    if first.args:
        raise UsageError("error parsing app image arguments: an image is required before any app "
                         "arguments", command="app add")  # fmt: skip
    request = app_request(image)
    with find_pod(context, first.image) as pod:
        app.check_accepts(pod)
        with saying("error adding app to pod"):
            app.add(pod, request, context.store(), context.finder("never"), debug=context.debug)
    return 0
