"""`rkt image list`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag, invalid
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.store.images import ImageRecord

_FIELDS = ("key", "appname", "importtime", "latest", "size", "lastused", "verified")
_OTHER_NAMES = {"id": "key", "name": "appname"}

COMMAND = Command(
    "image list",
    "",
    description="Lists the images of the local store with their keys, names and import times.",
    flags=(
        Flag("fields", "comma-separated list of fields to display: " + ", ".join(_FIELDS),
             kind="list", default=",".join(_FIELDS)),
        Flag("no-legend", "suppress a legend with the list", kind="bool"),
        Flag("order", "choose the sorting order: asc or desc", default="asc"),
        Flag("sort", "sort by these fields: importtime, appname, lastused, size", kind="list",
             default="importtime"),
    ),
)  # fmt: skip

_SORT: dict[str, Callable[[ImageRecord], str | int]] = {
    "importtime": lambda record: record.import_time,
    "appname": lambda record: record.name,
    "lastused": lambda record: record.last_used,
    "size": lambda record: record.size + record.tree_size,
}


def run(context: Context, args: Parsed) -> int:
    """Print the table of stored images."""
    fields = [_known("fields", name, _FIELDS) for name in _listed(args, "fields")]
    keys = [_known("sort", name, tuple(_SORT)) for name in _listed(args, "sort")]
    order = args.string("order").lower()
    if order not in ("asc", "desc"):
        raise UsageError(f'wrong sort order "{order}"', command="image list")
    records = context.store().list()
    records.sort(key=lambda r: [_SORT[key](r) for key in keys], reverse=order == "desc")
    rows = [[_cell(record, field) for field in fields] for record in records]
    if not args.flag("no-legend"):
        rows.insert(0, [field.upper() for field in fields])
    output.write(output.table(rows))
    return 0


def _listed(args: Parsed, name: str) -> list[str]:
    return args.all(name) or args.string(name).split(",")


def _known(flag: str, name: str, names: tuple[str, ...]) -> str:
    name = _OTHER_NAMES.get(name, name)
    if name not in names:
        raise invalid(flag, name, f'unknown option "{name}"')
    return name


def _cell(record: ImageRecord, field: str) -> str:
    if field == "key":
        return record.key
    if field == "appname":
        version = record.label("version")
        return f"{record.name}:{version}" if version else record.name
    if field == "latest":
        return "true" if record.latest else "false"
    if field == "size":
        return output.size_text(record.tree_size or record.size)
    if field == "verified":
        return record.verification.status
    return output.time_text(record.import_time if field == "importtime" else record.last_used)
