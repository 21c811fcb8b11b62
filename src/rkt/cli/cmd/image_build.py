"""`rkt image build`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag, invalid
from rkt.errors import RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

_COMPRESSIONS = ("gzip", "zstd", "xz", "bzip2", "none")

COMMAND = Command(
    "image build",
    "DIR OUTPUT_ACI_FILE",
    description="""\
Makes an image out of a directory with a `manifest` and a `rootfs`, checks both, and prints the
ID of the image.  The same files give the same image; times later than SOURCE_DATE_EPOCH are set to
it if it is in the environment.  To publish the image sign it:
`gpg --armor --detach-sign --output IMAGE.aci.asc IMAGE.aci`.""",
    flags=(
        Flag("compression", "how to compress: " + ", ".join(_COMPRESSIONS), default="gzip"),
        Flag("overwrite", "overwrite output ACI", kind="bool"),
    ),
)


def run(context: Context, args: Parsed) -> int:
    """Write an image archive; nothing is left of it after a failure."""
    import os

    from rkt.image.build import build_aci

    if len(args.words) != 2:
        raise UsageError("a directory and an output file are needed", command=COMMAND.name)
    compression = args.string("compression")
    if compression not in _COMPRESSIONS:
        raise invalid("compression", compression, "must be one of " + ", ".join(_COMPRESSIONS))
    target = args.words[1]
    extension = os.path.splitext(target)[1]
    if extension != ".aci":
        raise RktError(f"extension must be .aci (given {extension})")
    if os.path.lexists(target) and not args.flag("overwrite"):
        raise RktError("output ACI file exists (try --overwrite)")
    epoch = context.env.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdigit():
        raise RktError(f'SOURCE_DATE_EPOCH is "{epoch}", not a number of seconds')
    build_aci(
        args.words[0], target, compression=compression, overwrite=args.flag("overwrite"),
        source_date=int(epoch) if epoch else None,
    )  # fmt: skip
    output.line(_image_id(target))
    return 0


def _image_id(path: str) -> str:
    import hashlib

    from rkt.image.archive import decompress
    from rkt.store.records import image_key

    digest = hashlib.sha512()
    with open(path, "rb", buffering=0) as file:
        for chunk in decompress(file):
            digest.update(chunk)
    return image_key(digest.hexdigest())
