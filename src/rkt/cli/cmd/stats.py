"""`rkt stats`."""

from __future__ import annotations

import os
import sys
import time

from rkt import log
from rkt.cli import duration, formats, output
from rkt.cli.flags import Command, Flag, converted, invalid
from rkt.cli.uuids import find_pod
from rkt.errors import NotFound, PodStateError, RktError, describe
from rkt.pod import lifecycle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.stats import PodStats, Trees, Usage

COMMAND = Command(
    "stats",
    "[--follow] [UUID ...]",
    description="""\
Shows what running pods use: CPU, memory, processes, block devices, network. On a terminal the
table is renewed until Ctrl-C; else, and with --follow=false, it is printed once.

CPU% is that of one processor since the table before, in the first one since the start of the
pod.""",
    flags=(
        Flag("follow", "renew the table (the default on a terminal)", kind="bool"),
        formats.FORMAT,
        Flag("interval", "time between two tables", kind="value", default="1s"),
        Flag("no-legend", "suppress a legend with the list", kind="bool"),
    ),
)  # fmt: skip

_HEADERS = (
    "UUID", "APPS", "CPU%", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN",
    "RECEIVED", "SENT",
)  # fmt: skip
_CLEAR = "\x1b[H\x1b[2J"
_LONGEST = 1e9  # seconds; the kernel takes no time beyond the year 2262


def run(context: Context, args: Parsed) -> int:
    """Print what pods use, once or again and again."""
    form = formats.given_format(args, "stats")
    interval = converted("interval", args.string("interval"), duration.parse)
    assert isinstance(interval, float)
    if interval <= 0:
        raise invalid("interval", args.string("interval"), "must be positive")
    is_screen = not form and sys.stdout.isatty()
    follow = args.flag("follow") if args.given("follow") else is_screen
    uuids = [_resolve(context, word) for word in args.words]
    watch = _Watch(context, uuids)
    if not follow:
        _show(watch, form, args)
        return 0
    try:
        while True:
            if is_screen:
                output.write(_CLEAR)
            running = _show(watch, form, args)
            if uuids and not running:
                return 0
            output.flush()
            time.sleep(min(interval, _LONGEST))
    except KeyboardInterrupt:  # the way to end it; there is no state of the terminal to restore
        return 0


def _resolve(context: Context, word: str) -> str:
    with find_pod(context, word) as pod:
        if pod.state() != "running":
            raise PodStateError(f'pod "{pod.uuid}" isn\'t currently running')
        return pod.uuid


class _Watch:
    """The pods that are looked at, and what they had used the last time."""

    def __init__(self, context: Context, uuids: list[str]) -> None:
        self._data_dir = context.data_dir
        self._uuids = uuids
        self._trees: Trees | None = None
        self._before: dict[str, PodStats] = {}

    def look(self) -> list[tuple[PodStats, float | None]]:
        """Give each running pod and its share of one processor in percent."""
        from rkt.pod import stats

        self._trees = self._trees or stats.read_trees()
        found = []
        for pod in lifecycle.every(self._data_dir, ("run",)):
            if self._uuids and pod.uuid not in self._uuids:
                continue
            try:
                if pod.state() == "running":
                    found.append(stats.read(pod, self._trees))
            except NotFound:
                continue
            except (RktError, OSError) as err:
                log.warning(describe(err))
        shares = [(now, _share(now, self._before.get(now.uuid))) for now in found]
        self._before = {now.uuid: now for now in found}
        return shares


def _share(now: PodStats, before: PodStats | None) -> float | None:
    if now.usage.cpu is None:
        return None
    if before is not None and before.usage.cpu is not None:
        used, passed = now.usage.cpu - before.usage.cpu, now.when - before.when
    elif now.started is not None:
        used, passed = now.usage.cpu, time.time_ns() - now.started
    else:
        return None
    return 100 * used / passed if passed > 0 else None


def _show(watch: _Watch, form: str, args: Parsed) -> bool:
    """Print one table; says whether there was a pod."""
    found = watch.look()
    if form:
        output.line(formats.text([_document(stats, share) for stats, share in found], form))
        return bool(found)
    rows = [_row(stats, share) for stats, share in found]
    if not args.flag("no-legend"):
        rows.insert(0, _HEADERS)
    text = output.table(rows)
    output.write(_fitting(text) if sys.stdout.isatty() else text)
    return bool(found)


def _fitting(text: str) -> str:
    """Cut lines and columns that the terminal has no room for: a wrapped table cannot be read."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return text
    lines = text.splitlines()[: max(size.lines - 1, 1)] if size.lines else text.splitlines()
    width = size.columns or 80
    return "".join(line.expandtabs(8)[:width].rstrip() + "\n" for line in lines)


def _row(stats: PodStats, share: float | None) -> tuple[str, ...]:
    usage = stats.usage
    return (
        stats.uuid[:8], ",".join(app.name for app in stats.apps),
        "-" if share is None else f"{share:.1f}",
        "-" if usage.cpu is None else duration.format(round(usage.cpu / 1e9, 2)),
        _size(usage.memory), _size(_limit(stats)),
        "-" if usage.pids is None else str(usage.pids),
        _size(usage.io_read), _size(usage.io_written), _size(stats.received), _size(stats.sent),
    )  # fmt: skip


def _limit(stats: PodStats) -> int | None:
    """Give the pod's own limit, or that of all its apps together if each has one."""
    limits = [app.usage.memory_limit for app in stats.apps]
    if stats.usage.memory_limit is not None or not limits or None in limits:
        return stats.usage.memory_limit
    return sum(limit for limit in limits if limit is not None)


def _size(value: int | None) -> str:
    return "-" if value is None else output.size_text(value)


def _document(stats: PodStats, share: float | None) -> dict[str, object]:
    document: dict[str, object] = {"name": stats.uuid}
    if stats.name:
        document["pod_name"] = stats.name
    document["cpu_percent"] = None if share is None else round(share, 2)
    document.update(_usage(stats.usage))
    document["memory_limit"] = _limit(stats)
    document["network_received"] = stats.received
    document["network_sent"] = stats.sent
    document["apps"] = [{"name": app.name, **_usage(app.usage)} for app in stats.apps]
    return document


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "cpu_nanoseconds": usage.cpu, "memory": usage.memory, "memory_limit": usage.memory_limit,
        "pids": usage.pids, "io_read": usage.io_read, "io_written": usage.io_written,
    }  # fmt: skip
