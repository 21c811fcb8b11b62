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

_SPACE = " \t\n\r"


def _refuse(value: object) -> object:
    raise ValueError(value)


class _Reading:
    """What the scanner asks of a decoder, set as `json.JSONDecoder` does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)  # NaN and the infinities


# The stub takes the context for a scanner.
_scan: Callable[[str, int], tuple[Any, int]] = _json.make_scanner(_Reading)  # type: ignore[arg-type]


def _encoder(colon: str, comma: str) -> Callable[[object, int], tuple[str, ...]]:
    # In order: markers of what is being written, default, encoder, indent, the two separators,
    # sort_keys, skipkeys, allow_nan.
    return _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, colon, comma, False, False, False
    )


_spaced = _encoder(": ", ", ")
_compact = _encoder(":", ",")


def loads(data: bytes | str) -> Any:
    """Read one JSON value, as `json.loads` does.  Raises ValueError."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8", "surrogatepass")
        text = text.strip(_SPACE)
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, StopIteration, RecursionError):
        pass
    import json

    return json.loads(data)


def dumps(value: object, *, compact: bool = False) -> str:
    """Write a value, as `json.dumps` does; `compact` leaves out the spaces."""
    try:
        return "".join((_compact if compact else _spaced)(value, 0))
    except (TypeError, ValueError, RecursionError):
        pass
    import json

    return json.dumps(value, separators=(",", ":") if compact else None)
