"""`rkt fetch`."""

from __future__ import annotations

from rkt.cli import output, pullflags
from rkt.cli.flags import Command, Flag
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

_SHORT_ID = 39  # sha512- and 32 hex digits

COMMAND = Command(
    "fetch",
    "IMAGE...",
    description="""\
Finds the images, checks their signatures and stores them; prints their IDs.

An IMAGE is a name (found by meta discovery), a URL, a file or the ID of a stored image.  An image
whose signer nobody trusts is stored unverified and will not be run.""",
    flags=(
        Flag("full", "print the full image hash after fetching", kind="bool"),
        Flag("signature", "local signature file or URL to use in validating the preceding image",
             app=True),
        *pullflags.flags("update"),
    ),
    images=True,
    app_args=False,
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Fetch the images in the order given; stop at the first failure."""
    if not args.apps:
        raise UsageError("must provide at least one image", command=COMMAND.name)
    finder = context.finder(pullflags.policy(args))
    for app in args.apps:
        record = finder.find(app.image, signature=app.last("signature"))
        output.line(record.key if args.flag("full") else record.key[:_SHORT_ID])
    return 0
