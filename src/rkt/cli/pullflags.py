"""The flags that say whether an image is looked for in the store, at its source, or both."""

from __future__ import annotations

from rkt.cli.flags import Flag, invalid
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import Parsed

_POLICIES = ("never", "new", "update")


def flags(default: str) -> tuple[Flag, ...]:
    """Give the flags of a command with its own default policy."""
    return (
        Flag("pull-policy", 'when to pull an image: "never", "new" or "update"', default=default),
        Flag("store-only", "use only available images in the store", kind="bool", hidden=True,
             use="--pull-policy=never"),
        Flag("no-store", "fetch images, ignoring the local store", kind="bool", hidden=True,
             use="--pull-policy=update"),
        Flag("local", "use only images in the local store", kind="bool", hidden=True,
             use="--pull-policy=never"),
    )  # fmt: skip


def policy(args: Parsed) -> str:
    """Give the pull policy, in its own or one of the deprecated spellings."""
    never = args.flag("store-only") or args.flag("local")
    update = args.flag("no-store")
    if never and update:
        raise RktError("both --store-only and --no-store specified")
    if never:
        return "never"
    found = "update" if update else args.string("pull-policy")
    if found not in _POLICIES:
        raise invalid("pull-policy", found, 'must be "never", "new" or "update"')
    return found
