"""Values of flags that are a TIME: before now, a date, or seconds since 1970."""

from __future__ import annotations

from rkt.cli import duration
from rkt.cli.flags import converted, whole_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import Parsed


def given(args: Parsed, name: str, now: int) -> int | None:
    """Read the flag `name` as nanoseconds since 1970; None if it was not given."""
    text = args.string(name)
    if not text:
        return None
    value = converted(name, text, lambda word: parse(word, now))
    assert isinstance(value, int)
    return value


def parse(text: str, now: int) -> int:
    """Read a TIME as nanoseconds since 1970.  Raises ValueError."""
    try:
        return now - int(duration.parse(text) * 1e9)
    except ValueError:
        pass
    whole, dot, fraction = text.partition(".")
    seconds = whole_number(whole)
    if seconds is not None and (whole_number(fraction[:9]) is not None or not dot):
        return seconds * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(text)
        return int(moment.timestamp() * 10**6) * 1000
    except (ValueError, OverflowError):
        raise ValueError("is neither a duration nor a time") from None
