"""`rkt config`."""

from __future__ import annotations

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "config",
    "",
    description="""\
Prints the configuration as the directories of the vendor, the operator and the user give it
together. Passwords and tokens are shown in clear.""",
    flags=(Flag("pretty-print", "apply indent to format the output", kind="bool", default="true"),),
    words=False,
)


def run(context: Context, args: Parsed) -> int:
    """Print the merged configuration; each element is a complete document."""
    from rkt.config import auth, settings

    stage1 = settings.stage1(context.layers)
    documents = [
        *auth.documents(context.layers),
        {
            "rktVersion": "v1", "rktKind": "paths",
            "data": context.data_dir, "stage1-images": context.stage1_images,
        },
        {
            "rktVersion": "v1", "rktKind": "stage1",
            "name": stage1.name, "version": stage1.version, "location": stage1.location,
        },
    ]  # fmt: skip
    form = formats.PRETTY if args.flag("pretty-print") else formats.JSON
    output.line(formats.text({"stage0": documents}, form))
    return 0
