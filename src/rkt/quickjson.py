"""JSON with the C core of `json` alone.

The package around it loads `re`, `enum` and `functools`: a sixth of what stage1 takes to start.
Whatever the core refuses goes to the package, which decides and words the error; so the results
and the failures are those of `json.loads` and `json.dumps`.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Scanner = Callable[[str, int], tuple[Any, int]]

_SPACE = " \t\n\r"


def _refuse(value: object) -> object:
    raise ValueError(value)


class _Reading:
    """What the scanner asks of a decoder, set as `json.JSONDecoder` does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float: Callable[[str], object] = float
    parse_int = int
    parse_constant = staticmethod(_refuse)  # NaN and the infinities


def scanner(fraction: Callable[[str], object]) -> Scanner:
    """Make what `scan` needs to give numbers with a fraction another type than `float`."""

    class Reading(_Reading):
        parse_float = staticmethod(fraction)

    # The stub takes the context for a scanner.
    return _json.make_scanner(Reading)  # type: ignore[arg-type]


_floats: Scanner = _json.make_scanner(_Reading)  # type: ignore[arg-type]


def _encoder(
    string: Callable[[str], str], colon: str, comma: str
) -> Callable[[object, int], tuple[str, ...]]:
    # In order: markers of what is being written, default, encoder, indent, the two separators,
    # sort_keys, skipkeys, allow_nan.
    return _json.make_encoder(None, _refuse, string, None, colon, comma, False, False, False)


_spaced = _encoder(_json.encode_basestring_ascii, ": ", ", ")
_compact = _encoder(_json.encode_basestring_ascii, ":", ",")
_unicode = _encoder(_json.encode_basestring, ":", ",")


def scan(text: str, scanner: Scanner = _floats) -> Any:
    """Read one JSON value; raises ValueError or RecursionError, without a word that helps."""
    text = text.strip(_SPACE)
    try:
        value, end = scanner(text, 0)
    except (StopIteration, SystemError):
        # CPython 3.11 fails to find the error's class while the package is not loaded.
        raise ValueError(text) from None
    if end != len(text):
        raise ValueError(text)
    return value


def loads(data: bytes | str) -> Any:
    """Read one JSON value, as `json.loads` does.  Raises ValueError, also if it is too deep."""
    try:
        return scan(data if isinstance(data, str) else data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    import json

    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("document is nested too deeply") from None


def dumps(value: object, *, compact: bool = False) -> str:
    """Write a value, as `json.dumps` does; `compact` leaves out the spaces."""
    try:
        return "".join((_compact if compact else _spaced)(value, 0))
    except (TypeError, ValueError, RecursionError):
        pass
    import json

    return json.dumps(value, separators=(",", ":") if compact else None)


def encode(value: object) -> bytes:
    """Write a value compactly, its text as UTF-8.

    Raises ValueError for what is no plain value or not UTF-8, and RecursionError.
    """
    return "".join(_unicode(value, 0)).encode()
