"""Decode and encode wire documents; every failure is a SchemaError that says where.

Documents are untrusted: size and depth are bounded, text must be UTF-8.  Plain ones are read and
written by the C core of `json`; whatever that refuses goes to msgspec, which words the error.
"""

from __future__ import annotations

import sys

from rkt import quickjson
from rkt.errors import SchemaError, one_line
from rkt.schema.struct import Struct
from rkt.schema.types import SCALARS, BadValue, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias, TypeVar

    import msgspec

    T = TypeVar("T")
    JSON: TypeAlias = Any
    Reader = Callable[[Any], Any]
else:

    class JSON:
        """A JSON value as Python objects (numbers with a fraction are Decimal)."""


MAX_DOCUMENT = 4 << 20
_SMALL = 256 << 10
_MAX_VALUES = 400_000
"""Each may be one byte of a document, and take a hundred in memory."""
_NO_DESCENT = frozenset(("value", "userAnnotations", "userLabels"))


def _decimal(text: str) -> object:
    # Decimal keeps a number such as 1.5 exactly as it was written.
    from decimal import Decimal

    return Decimal(text)


_scanner = quickjson.scanner(_decimal)


class _Wrong(Exception):
    """A value of a document is not what its type says; `path` is gathered from the inside out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.path: list[str] = []


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
    value = parse(data, where, limit=limit)
    if keys is not None:
        _fold(value, keys)
    return convert(value, kind, where)


def parse(data: bytes, where: str, *, limit: int = MAX_DOCUMENT) -> JSON:
    """Read a JSON document of untrusted origin as it stands; raises SchemaError."""
    if len(data) > limit:
        raise _too_large(data, where, limit)
    if len(data) > _SMALL and sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise _too_many(where)
    try:
        text = data.decode()
        # Half of a character that is written as two escapes is no text: msgspec looks closer.
        if "\\u" not in text or ("\\ud" not in text and "\\uD" not in text):
            return quickjson.scan(text, _scanner)
    except (ValueError, ArithmeticError, RecursionError):
        pass
    return _by_msgspec(data, where, object)


def members(data: bytes, where: str, *, limit: int = MAX_DOCUMENT) -> dict[str, bytes]:
    """Give the members of a JSON object of untrusted origin as they stand; raises SchemaError."""
    import re
    from itertools import islice

    import msgspec

    if len(data) > limit:
        raise _too_large(data, where, limit)
    # A quote stands in no string: these are keys, whatever the strings say.
    keys = islice(re.finditer(rb'"\s*:', data), _MAX_VALUES + 1)
    if sum(1 for _ in keys) > _MAX_VALUES:
        raise _too_many(where)
    found = _by_msgspec(data, where, dict[str, msgspec.Raw])
    return {key: bytes(raw) for key, raw in found.items()}


def _too_large(data: bytes, where: str, limit: int) -> SchemaError:
    return SchemaError(f"{where}: document of {len(data)} bytes is larger than {limit} bytes")


def _too_many(where: str) -> SchemaError:
    return SchemaError(f"{where}: document of more than {_MAX_VALUES} values")


def _by_msgspec(data: bytes, where: str, kind: Any) -> JSON:
    from decimal import Decimal

    import msgspec

    try:
        return msgspec.json.Decoder(kind, float_hook=Decimal).decode(data)
    except msgspec.ValidationError as err:
        raise SchemaError(f"{where}: {_lower(str(err).replace(' - at `', ' - at '))}") from None
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
        result: T = _reader(kind)(value)
    except _Wrong as err:
        path = f" - at ${''.join(reversed(err.path))}" if err.path else ""
        raise SchemaError(f"{where}: {one_line(err.text + path)}") from None
    return result


def encode(value: object) -> bytes:
    """Encode as compact JSON, keys in the order of the schema.

    Raises SchemaError for what JSON cannot hold: text that is not UTF-8, extreme depth.
    """
    wire = getattr(value, "wire", None)
    try:
        plain = to_builtins(value) if wire is None else wire()
        try:
            return quickjson.encode(plain)
        except (TypeError, ValueError):
            return _encode_odd(plain)
    except RecursionError:
        raise SchemaError("cannot write JSON: value is nested too deeply") from None


def _encode_odd(plain: JSON) -> bytes:
    import msgspec

    try:
        return msgspec.json.Encoder(decimal_format="number").encode(plain)
    except UnicodeEncodeError as err:
        bad = quote(err.object[max(err.start - 40, 0) : err.end + 40])
        raise SchemaError(f"cannot write JSON: text is not UTF-8: {bad}") from None


def encode_pretty(value: object) -> bytes:
    """Encode as Go's json.MarshalIndent with one tab for each level; no final newline."""
    import msgspec

    text = msgspec.json.format(encode(value), indent=1)
    lines = []
    for line in text.split(b"\n"):
        body = line.lstrip(b" ")
        lines.append(b"\t" * (len(line) - len(body)) + body)
    return b"\n".join(lines)


def to_builtins(value: object) -> JSON:
    """Give a value as dicts, lists and scalars, without its own `wire` rules."""
    if isinstance(value, Struct):
        fields, omitted = value.__dict__, value.struct_omitted
        return {
            key: to_builtins(fields[name])
            for name, key in value.struct_keys.items()
            if name not in omitted or fields[name] != omitted[name]
        }
    if isinstance(value, (list, tuple)):
        return [to_builtins(item) for item in value]
    if isinstance(value, dict):
        return {key: to_builtins(item) for key, item in value.items()}
    return value


def key_table(*kinds: type[Struct]) -> dict[str, str]:
    """Collect the keys of document types for the `keys` of `decode`."""
    return {key.lower(): key for kind in kinds for key in kind.struct_keys.values()}


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


def json_type(value: object) -> str:
    """Name the JSON type of a decoded value, in msgspec's words."""
    if value is None:
        return "null"
    for kind, name in ((bool, "bool"), (int, "int"), (str, "str"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object" if isinstance(value, dict) else "float"


# -- readers: functions that check a value against a type, and give it in that type

_readers: dict[object, Reader] = {}


def _reader(kind: Any) -> Reader:
    """Give the reader of a type: a struct, a scalar, `X | None`, a tuple, list or dict of such."""
    found = _readers.get(kind)
    if found is None:
        found = _readers[kind] = _make_reader(kind)
    return found


def _make_reader(kind: Any) -> Reader:
    if kind in SCALARS:
        return _checked(SCALARS[kind])
    if kind is JSON or kind is object:
        return _anything
    if kind is float:
        return _float
    if kind in (int, str, bool):
        return _exactly(kind)
    origin = getattr(kind, "__origin__", None)
    inner: tuple[Any, ...] = getattr(kind, "__args__", ())
    if origin is None and type(None) in inner:
        (some,) = (item for item in inner if item is not type(None))
        return _optional(_reader(some))
    if origin is dict:
        return _mapping(_reader(inner[1]))
    if origin is list:
        return _sequence(_reader(inner[0]), list)
    if origin is tuple and inner[1] is ...:
        return _sequence(_reader(inner[0]), tuple)
    if origin is tuple:
        return _row([_reader(item) for item in inner])
    if issubclass(kind, Struct):
        return _struct(kind)
    raise TypeError(f"no reader for {kind}")


def _expected(what: str, value: object) -> _Wrong:
    return _Wrong(f"expected `{what}`, got `{json_type(value)}`")


def _anything(value: Any) -> Any:
    return value


def _float(value: Any) -> float:
    if json_type(value) not in ("int", "float"):
        raise _expected("float", value)
    return float(value)


def _exactly(kind: type) -> Reader:
    name = kind.__name__

    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _expected(name, value)
        return value

    return read


def _checked(check: Callable[[str], str]) -> Reader:
    def read(value: Any) -> str:
        if type(value) is not str:
            raise _expected("str", value)
        try:
            return check(value)
        except BadValue as err:
            raise _Wrong(err.message) from None

    return read


def _optional(some: Reader) -> Reader:
    def read(value: Any) -> Any:
        if value is None:
            return None
        try:
            return some(value)
        except _Wrong as err:
            if not err.path:
                err.text = err.text.replace("`, got ", " | null`, got ", 1)
            raise

    return read


def _sequence(item: Reader, kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not list and type(value) is not tuple:
            raise _expected("array", value)
        found: list[object] = []
        try:
            for one in value:
                found.append(item(one))
        except _Wrong as err:
            err.path.append(f"[{len(found)}]")
            raise
        return kind(found)

    return read


def _row(items: list[Reader]) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list and type(value) is not tuple:
            raise _expected("array", value)
        if len(value) != len(items):
            raise _Wrong(f"expected `array` of length {len(items)}, got {len(value)}")
        found: list[object] = []
        try:
            for item, one in zip(items, value, strict=True):
                found.append(item(one))
        except _Wrong as err:
            err.path.append(f"[{len(found)}]")
            raise
        return tuple(found)

    return read


def _mapping(item: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _expected("object", value)
        try:
            return {key: item(one) for key, one in value.items()}
        except _Wrong as err:
            err.path.append("[...]")
            raise

    return read


def _struct(kind: type[Struct]) -> Reader:
    names = sys.modules[kind.__module__].__dict__
    fields: list[tuple[str, str, Reader]] = []
    optional = {*kind.struct_defaults, *kind.struct_factories}

    def read(value: Any) -> Struct:
        if type(value) is not dict:
            raise _expected("object", value)
        if not fields:  # types may refer to themselves and to later ones
            for name, key in kind.struct_keys.items():
                annotation = kind.__annotations__[name]
                fields.append((name, key, _reader(eval(annotation, names))))
        found = {}
        for name, key, item in fields:
            if key in value:
                try:
                    found[name] = item(value[key])
                except _Wrong as err:
                    err.path.append(f".{key}")
                    raise
            elif name not in optional:
                raise _Wrong(f"object missing required field `{key}`")
        if kind.struct_strict:
            for key in value.keys() - set(kind.struct_keys.values()):
                raise _Wrong(f"object contains unknown field `{key}`")
        try:
            return kind(**found)
        except BadValue as err:
            raise _Wrong(err.message) from None

    return read


# -- texts for what msgspec refused


def _lower(text: str) -> str:
    text = text.rstrip("`")
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
