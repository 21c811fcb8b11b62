"""`rkt image inspect`."""

from __future__ import annotations

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag
from rkt.cli.images import IMAGE, stored
from rkt.errors import RktError, UsageError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord, Verification

COMMAND = Command(
    "image inspect",
    "IMAGE...",
    description=f"""\
{IMAGE}

Prints as JSON what the store knows of images.  Times are ns since 1970, sizes bytes; `sizeOnDisk`
counts the images it depends on, `sharedSize` is what of it other images use as well.  Both are
null if only root could tell.""",
    flags=(Flag("pretty-print", "apply indent to format the output", kind="bool", default="true"),),
)


def run(context: Context, args: Parsed) -> int:
    """Print a list with one object an image."""
    from rkt.stage0 import usage

    if not args.words:
        raise UsageError("at least one image is needed", command=COMMAND.name)
    store = context.store()
    records = [stored(context, word) for word in args.words]
    used = usage.find(store.data_dir)
    used.add_dependencies(store)
    found = [_describe(store, record, used.pods(record.key)) for record in records]
    form = formats.PRETTY if args.flag("pretty-print") else formats.JSON
    output.line(formats.text(found, form))
    return 0


def _describe(store: Store, record: ImageRecord, pods: list[str]) -> dict[str, object]:
    from rkt.image import space

    try:
        parts = space.parts(store, record.key)
        problem = None
    except RktError as err:
        parts, problem = [], describe(err)
    sizes = None if problem else space.sizes(store, record.key, parts)
    return {
        "key": record.key,
        "id": f"sha512-{record.digest}",
        "name": record.name,
        "labels": [{"name": name, "value": value} for name, value in record.labels],
        "source": record.source,
        "importTime": record.import_time,
        "lastUsedTime": record.last_used,
        "latest": record.latest,
        "unpacked": record.unpacked,
        "size": record.size,
        "treeSize": record.tree_size if record.unpacked else None,
        "sizeOnDisk": sizes[0] if sizes else None,
        "sharedSize": sizes[1] if sizes else None,
        "verification": _verification(store.proof(record.key) or record.verification),
        "dependencies": [{"key": one.key, "name": one.name} for one in parts],
        "problem": problem,
        "pods": pods,
    }


def _verification(found: Verification) -> dict[str, object]:
    return {
        "status": found.status,
        "fingerprint": found.fingerprint,
        "identity": found.identity,
        "prefix": found.prefix,
        "time": found.when,
    }
