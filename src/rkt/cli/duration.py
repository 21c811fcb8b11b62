"""Durations in Go's syntax: `1h30m`, `90s`, `500ms`, `0`."""

from __future__ import annotations

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = float(1 << 63) / 1e9  # Go counts nanoseconds in 64 bits


def parse(text: str) -> float:
    """Read a duration in seconds; raises ValueError."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = len(rest) - len(rest.lstrip("nuµmsh"))
        unit, rest = rest[:letters], rest[letters:]
        if not number or number.count(".") > 1 or number == "." or unit not in _UNITS:
            raise ValueError(f'invalid duration "{text}"')
        total += float(number) * _UNITS[unit]
    if not text.lstrip("+-") or total > _LONGEST:
        raise ValueError(f'invalid duration "{text}"')
    return sign * total


def format(seconds: float) -> str:  # noqa: A001
    """Write a duration as Go does: `30m0s`, `24h0m0s`, `1.5s`, `500ms`, `0s`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
