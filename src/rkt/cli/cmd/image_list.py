"""`rkt image list`."""

from __future__ import annotations

import time

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag, invalid
from rkt.errors import UsageError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.store.records import ImageRecord

_DEFAULT = ("key", "appname", "importtime", "latest", "size", "lastused", "verified")
_FIELDS = ("id", "name", *_DEFAULT)
_HEADERS = {"lastused": "LAST USED"}
_SHORT_ID = 19  # sha512- and 12 hex digits
_FULL_ID = 71

COMMAND = Command(
    "image list",
    "",
    description="""\
Lists the images of the local store with their keys, names and import times.

Layers of converted docker and OCI images are shown with --all only.""",
    flags=(
        Flag("all", "show layers of converted images too", kind="bool"),
        Flag("fields", "comma-separated list of fields to display: " + ", ".join(_FIELDS),
             kind="list", default=",".join(_DEFAULT)),
        formats.FORMAT,
        Flag("full", "use long output format", kind="bool"),
        Flag("no-legend", "suppress a legend with the list", kind="bool"),
        Flag("order", "choose the sorting order: asc or desc", default="asc"),
        Flag("sort", "sort by these fields: importtime, name, appname, lastused, size", kind="list",
             default="importtime"),
    ),
    words=False,
)  # fmt: skip

_SORT: dict[str, Callable[[ImageRecord], str | int]] = {
    "importtime": lambda record: record.import_time,
    "appname": lambda record: record.name,
    "name": lambda record: record.name,
    "lastused": lambda record: record.last_used,
    "size": lambda record: record.tree_size or record.size,
}


def run(context: Context, args: Parsed) -> int:
    """Print the table of stored images; rows that cannot be read are reported before it."""
    fields = [_known("fields", name, _FIELDS) for name in _listed(args, "fields")]
    keys = [_known("sort", name, tuple(_SORT)) for name in _listed(args, "sort")]
    order = args.string("order").lower()
    if order not in ("asc", "desc"):
        raise UsageError(f'wrong sort order "{order}"', command="image list")
    form = formats.given_format(args, COMMAND.name)
    problems: list[str] = []
    records = context.store().list(problems=problems)
    if not args.flag("all"):
        records = [record for record in records if not record.is_layer]
    records.sort(key=lambda r: [_SORT[key](r) for key in keys], reverse=order == "desc")
    if problems:
        output.report_problems(problems, "images")
    if form:
        output.line(formats.text([_values(record) for record in records], form))
        return 0
    full, now = args.flag("full"), time.time_ns()
    rows = [[_cell(record, field, full=full, now=now) for field in fields] for record in records]
    if not args.flag("no-legend"):
        rows.insert(0, [_HEADERS.get(field, field.upper()) for field in fields])
    output.write(output.table(rows))
    return 0


def _listed(args: Parsed, name: str) -> list[str]:
    return args.all(name) or args.string(name).split(",")


def _known(flag: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise invalid(flag, name, f'unknown option "{name}"')
    return name


def _cell(record: ImageRecord, field: str, *, full: bool, now: int) -> str:
    if field == "key":
        return record.key
    if field == "id":
        return record.key[: _FULL_ID if full else _SHORT_ID]
    if field in ("appname", "name"):
        return _name(record)
    if field == "latest":
        return "true" if record.latest else "false"
    if field == "verified":
        return one_line(record.verification.status)
    if field == "importtime":
        return output.time_text(record.import_time)
    if field == "lastused":
        return output.time_text(record.last_used) if full else output.ago(record.last_used, now)
    size = record.tree_size or record.size
    return str(size) if full else output.size_text(size)


def _name(record: ImageRecord) -> str:
    version = record.label("version")
    return one_line(f"{record.name}:{version}" if version else record.name)


def _values(record: ImageRecord) -> dict[str, object]:
    return {
        "id": record.key,
        "name": _name(record),
        "import_time": record.import_time,
        "last_used_time": record.last_used,
        "size": record.tree_size or record.size,
    }
