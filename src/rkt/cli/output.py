"""stdout: tables, texts, times.  The only module that prints."""

from __future__ import annotations

import sys

from rkt import const, log
from rkt.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TAB = 8


def write(text: str) -> None:
    """Write text to stdout as it is."""
    sys.stdout.write(text)


def raw(data: bytes, *, stderr: bool) -> None:
    """Write bytes of an app to the stream that they came from.  Raises KernelError."""
    try:
        (sys.stderr if stderr else sys.stdout).buffer.write(data)
    except OSError as err:
        raise _unwritten(err) from err


def flush() -> None:
    """Let what was written be seen.  Raises KernelError."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as err:
        raise _unwritten(err) from err


def _unwritten(err: OSError) -> Exception:
    is_pipe = isinstance(err, BrokenPipeError)  # who reads no more wants no message
    return err if is_pipe else KernelError("cannot write the output", err)


def line(text: str = "") -> None:
    """Write one line to stdout."""
    sys.stdout.write(text + "\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows as Go's text/tabwriter does (cell padding 1, tab width 8, padded by tabs).

    A column is as wide as its longest cell over consecutive rows that have it; the last cell of a
    row is not padded.
    """
    widths: list[list[int]] = [[0] * max(len(row) - 1, 0) for row in rows]
    columns = max((len(row) for row in rows), default=0)
    for column in range(columns - 1):
        block: list[int] = []
        for index in range(len(rows) + 1):
            if index < len(rows) and column < len(rows[index]) - 1:
                block.append(index)
            elif block:
                widest = max(len(rows[i][column]) for i in block) + 1
                for i in block:
                    widths[i][column] = -(-widest // _TAB) * _TAB
                block = []
    lines = []
    for row, sizes in zip(rows, widths, strict=True):
        cells = [
            cell + "\t" * -(-(size - len(cell)) // _TAB)
            for cell, size in zip(row[:-1], sizes, strict=True)
        ]
        lines.append("".join(cells) + (row[-1] if row else ""))
    return "\n".join(lines) + "\n" if lines else "\n"


def time_text(nanoseconds: int) -> str:
    """Write a time as `2006-01-02 15:04:05.999 -0700 MST`, local, without trailing zeros."""
    import time

    seconds, rest = divmod(nanoseconds, 10**9)
    local = time.localtime(seconds)
    fraction = f"{rest // 10**6:03d}".rstrip("0")
    dot = "." if fraction else ""
    return time.strftime(f"%Y-%m-%d %H:%M:%S{dot}{fraction} %z %Z", local)


_STEPS = (
    (1, "now", ""), (2, "1 second", ""), (60, "{} seconds", 1), (120, "1 minute", ""),
    (3600, "{} minutes", 60), (7200, "1 hour", ""), (86400, "{} hours", 3600),
    (172800, "1 day", ""), (604800, "{} days", 86400), (1209600, "1 week", ""),
    (2592000, "{} weeks", 604800), (5184000, "1 month", ""), (31104000, "{} months", 2592000),
    (46656000, "1 year", ""), (62208000, "2 years", ""), (1152921504, "{} years", 31104000),
)  # fmt: skip


def ago(nanoseconds: int, now: int) -> str:
    """Write a time relative to another one: `3 minutes ago`."""
    seconds = abs(now - nanoseconds) // 10**9
    suffix = "ago" if nanoseconds <= now else "from now"
    for limit, text, unit in _STEPS:
        if seconds < limit:
            if text == "now":
                return text
            return f"{text.format(seconds // unit) if isinstance(unit, int) else text} {suffix}"
    return f"a long while {suffix}"


def size_text(size: int) -> str:
    """Write a size in IEC units: `5B`, `1.2MiB`, `15MiB`."""
    value = float(size)
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    unit = units[0]
    if unit != "B" and value < 10:
        return f"{value:.1f}{unit}"
    return f"{value:.0f}{unit}"


def report_problems(problems: Sequence[str], what: str) -> None:
    """Write to stderr what could not be listed (rkt-cli section 8.1)."""
    rule = "-" * 40
    log.info(f"{len(problems)} error(s) encountered when listing {what}:")
    log.info(rule)
    for problem in problems:
        log.info(problem)
    log.info(rule)
    log.info("misc:")
    log.info(f"  rkt's appc version: {const.APPC_VERSION}")
