"""Decode and encode wire documents; every failure is a SchemaError that says where.

Documents are untrusted: size and depth are bounded, text must be UTF-8.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rkt.errors import SchemaError, one_line
from rkt.schema.types import SCALARS, BadValue, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
JSON = Any
"""A JSON value as Python objects (numbers with a fraction are Decimal)."""

MAX_DOCUMENT = 4 << 20
_NO_DESCENT = frozenset(("value", "userAnnotations", "userLabels"))

# Decimal keeps a number such as 1.5 exactly as it was written.
_plain = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode(
    data: bytes,
    kind: type[T],
    where: str,
    *,
    limit: int = MAX_DOCUMENT,
    keys: Mapping[str, str] | None = None,
) -> T:
    """Decode a JSON document of untrusted origin.

    With `keys` (lower-case key -> key of the schema) it is read as Go's encoding/json does it: keys
    match in any case, and `null` is the same as an absent key.  Raises SchemaError, its text begun
    by `where`.
    """
    if len(data) > limit:
        raise SchemaError(f"{where}: document of {len(data)} bytes is larger than {limit} bytes")
    try:
        if keys is None:
            return msgspec.json.decode(data, type=kind, dec_hook=_dec_hook)
        value = _plain.decode(data)
        _fold(value, keys)
        return msgspec.convert(value, kind, dec_hook=_dec_hook)
    except msgspec.ValidationError as err:
        raise SchemaError(f"{where}: {_validation_text(err)}") from None
    except msgspec.DecodeError as err:
        raise SchemaError(f"{where}: {_syntax_text(err, data)}") from None
    except UnicodeDecodeError:
        raise SchemaError(f"{where}: {_utf8_text(data)}") from None
    except RecursionError:
        raise SchemaError(f"{where}: document is nested too deeply") from None
    except ArithmeticError:
        # decimal: an exponent of more than 18 digits
        raise SchemaError(f"{where}: number out of range") from None


def convert(value: JSON, kind: type[T], where: str) -> T:
    """Check a value that is already Python objects against a type; raises SchemaError."""
    try:
        return msgspec.convert(value, kind, dec_hook=_dec_hook)
    except msgspec.ValidationError as err:
        raise SchemaError(f"{where}: {_validation_text(err)}") from None
    except RecursionError:
        raise SchemaError(f"{where}: document is nested too deeply") from None


def encode(value: object) -> bytes:
    """Encode as compact JSON, keys in the order of the schema.

    Raises SchemaError for what JSON cannot hold: text that is not UTF-8, extreme depth.
    """
    wire = getattr(value, "wire", None)
    try:
        return _encoder.encode(value if wire is None else wire())
    except UnicodeEncodeError as err:
        bad = quote(err.object[max(err.start - 40, 0) : err.end + 40])
        raise SchemaError(f"cannot write JSON: text is not UTF-8: {bad}") from None
    except RecursionError:
        raise SchemaError("cannot write JSON: value is nested too deeply") from None


def encode_pretty(value: object) -> bytes:
    """Encode as Go's json.MarshalIndent with one tab for each level; no final newline."""
    text = msgspec.json.format(encode(value), indent=1)
    lines = []
    for line in text.split(b"\n"):
        body = line.lstrip(b" ")
        lines.append(b"\t" * (len(line) - len(body)) + body)
    return b"\n".join(lines)


def to_builtins(value: object) -> JSON:
    """Give a value as dicts, lists and scalars, without its own `wire` rules."""
    return msgspec.to_builtins(value, builtin_types=(Decimal,))


def key_table(*kinds: type[msgspec.Struct]) -> dict[str, str]:
    """Collect the keys of document types for the `keys` of `decode`."""
    return {key.lower(): key for kind in kinds for key in kind.__struct_encode_fields__}


def fold_object(value: dict[str, JSON], keys: Mapping[str, str]) -> dict[str, JSON]:
    """Give an object's keys the schema's spelling, and leave out those that are null."""
    return {keys.get(key.lower(), key): item for key, item in value.items() if item is not None}


def _fold(value: JSON, keys: Mapping[str, str]) -> None:
    # In place and without recursion: a hostile document may be nested deeply.
    known = frozenset(keys.values())
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(child for child in item if isinstance(child, (dict, list)))
        elif isinstance(item, dict):
            folded = fold_object(item, keys)
            item.clear()
            item.update(folded)
            stack.extend(
                child
                for key, child in folded.items()
                if key in known and key not in _NO_DESCENT and isinstance(child, (dict, list))
            )


def _dec_hook(kind: type, value: object) -> object:
    check = SCALARS.get(kind)
    if check is None:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise BadValue(f"expected `str`, got `{json_type(value)}`")
    return check(value)


def json_type(value: object) -> str:
    """Name the JSON type of a decoded value, in msgspec's words."""
    if value is None:
        return "null"
    for kind, name in ((bool, "bool"), (int, "int"), (str, "str"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object" if isinstance(value, dict) else "float"


def _validation_text(err: msgspec.ValidationError) -> str:
    text, at, path = str(err).rpartition(" - at `")
    text = f"{text} - at {path.rstrip('`')}" if at else path
    for opening in ("Expected", "Object", "Invalid", "Integer"):
        if text.startswith(opening):
            text = opening.lower() + text[len(opening) :]
    return one_line(text)


def _syntax_text(err: msgspec.DecodeError, data: bytes) -> str:
    text = str(err).removeprefix("JSON is malformed: ")
    text, _, tail = text.partition(" (byte ")
    offset = int(tail[:-1]) if tail[:-1].isdigit() else len(data)
    if text == "trailing characters":
        offset -= 1  # msgspec counts the first of them as read
    text = "unexpected end of JSON input" if text == "Input data was truncated" else text
    return f"error at {_position(data, offset)}: {one_line(text)}"


def _utf8_text(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as err:
        return f"error at {_position(data, err.start)}: text is not UTF-8"
    return "text is not UTF-8"


def _position(data: bytes, offset: int) -> str:
    before = data[:offset]
    column = offset - (before.rfind(b"\n") + 1) + 1
    line = before.count(b"\n") + 1
    return f"line {line}, column {column}"
