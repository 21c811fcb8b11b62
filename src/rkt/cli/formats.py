"""Answers as JSON: the flag --format, and texts as Go's encoder writes them."""

from __future__ import annotations

from rkt.cli.flags import Flag
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import Parsed

FORMAT = Flag("format", 'choose the output format: "json" or "json-pretty"')
JSON = "json"
PRETTY = "json-pretty"

# Besides what Go escapes: control characters that terminals know and JSON allows (CSI is U+009B).
_ESCAPES = {n: f"\\u{n:04x}" for n in (*map(ord, "<>&\u2028\u2029"), *range(0x7F, 0xA0))}


def given_format(args: Parsed, command: str) -> str:
    """Give the value of --format, empty for a table.  Raises UsageError."""
    form = args.string("format")
    if form not in ("", JSON, PRETTY):
        raise UsageError(f"Invalid format option: {form}", command=command)
    return form


def text(value: object, form: str) -> str:
    """Write a value; an empty list is `null`, and what HTML would notice is escaped, as in Go."""
    from rkt.schema import codec

    encode = codec.encode_pretty if form == PRETTY else codec.encode
    # These characters are in strings only: JSON's own signs are others.
    return encode(None if value == [] else value).decode().translate(_ESCAPES)
