"""`rkt logs`."""

from __future__ import annotations

import time

from rkt.cli import moment, output
from rkt.cli.flags import Command, Flag, invalid, whole_number
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuid
from rkt.errors import NotFound, PodStateError, RktError
from rkt.pod import logs, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod
    from rkt.pod.logs import Block

_STREAMS = {"stdout": logs.STDOUT, "stderr": logs.STDERR}

COMMAND = Command(
    "logs",
    "[--app=APPNAME] [--follow] UUID",
    description="""\
Prints what the apps of a pod wrote, each stream to the same stream, also after the pod's end and
until it is collected.  The lines of several apps begin with the name of the app.

A TIME is a duration before now ("10m"), a date and time ("2026-03-01T10:14:37Z", local time without
a zone), or seconds since 1970.""",
    flags=(
        Flag("app", "only this app; may be given several times", kind="list"),
        Flag("follow", "wait for more until the pod ends", kind="bool", short="f"),
        Flag("since", "only lines begun at or after this TIME"),
        Flag("stream", 'only this stream: "stdout" or "stderr"'),
        Flag("tail", "only that many lines before those that are to come", default="all"),
        Flag("timestamps", "begin each line with the time at which it was begun", kind="bool",
             short="t"),
        Flag("until", "only lines begun before this TIME"),
        UUID_FILE,
    ),
)  # fmt: skip


class _Selection:
    """Which lines are wanted."""

    def __init__(self, args: Parsed) -> None:
        now = time.time_ns()
        self.since = moment.given(args, "since", now)
        self.until = moment.given(args, "until", now)
        self.tail = _count(args.string("tail"))
        stream = args.string("stream")
        if stream and stream not in _STREAMS:
            raise invalid("stream", stream, 'must be "stdout" or "stderr"')
        self.stream = _STREAMS.get(stream)

    def has(self, block: Block) -> bool:
        """Say whether the lines of a block are wanted."""
        if self.stream is not None and block.stream != self.stream:
            return False
        if self.since is not None and block.time < self.since:
            return False
        return self.until is None or block.time < self.until

    def left(self) -> float | None:
        """Give the seconds until nothing more can be wanted; None: the end is open."""
        return None if self.until is None else (self.until - time.time_ns()) / 1e9


def run(context: Context, args: Parsed) -> int:
    """Print the logs of a pod."""
    selection = _Selection(args)
    with find_pod(context, given_uuid(args, "logs")) as pod:
        state = pod.state()
        if state != "running" and not view.has_ended(state):
            raise PodStateError(f'pod "{pod.uuid}" has not been started: it is {state}')
        wanted = args.all("app")
        known = _known_apps(pod, wanted, running=state == "running")
        several = len(known) > 1 and len(set(wanted)) != 1
        reader = logs.PodLog(pod, wanted)
        show = _Printer(prefixed=several, timestamps=args.flag("timestamps"))
        if args.flag("follow"):
            # Who follows must be able to tell the app of today from those that are yet to come.
            if not wanted and state == "running" and _may_grow(pod):
                show = _Printer(prefixed=True, timestamps=args.flag("timestamps"))
            _follow(pod, reader, selection, show)
        else:
            reader.look_for_more()
            found = filter(selection.has, reader.blocks(final=state != "running"))
            for block in found if selection.tail is None else logs.tail(found, selection.tail):
                show(block)
    return 0


def _may_grow(pod: Pod) -> bool:
    from rkt.pod.mutable import is_mutable

    try:
        return is_mutable(view.manifest(pod))
    except RktError:  # a damaged manifest is no reason to show nothing
        return False


def _known_apps(pod: Pod, wanted: list[str], *, running: bool) -> list[str]:
    """Give the names of all apps that the pod has or has logs of; makes sure of those wanted."""
    found = logs.apps(pod)
    known = list(dict.fromkeys([*view.app_names(pod), *found]))
    for name in wanted:
        if name not in known:
            hint = f"its apps are: {', '.join(known)}" if known else None
            raise NotFound(f'pod "{pod.uuid}": no app "{name}"', hint=hint)
    if not found and not running:
        raise NotFound(f'pod "{pod.uuid}": no logs were kept of it')
    return known


def _follow(pod: Pod, reader: logs.PodLog, selection: _Selection, show: _Printer) -> None:
    from rkt.pod.follow import Watch

    watch = Watch(pod)
    first = selection.tail is not None
    while True:
        ended = watch.ended  # whatever is read from now on is all there is
        reader.look_for_more(watch.add)
        found = filter(selection.has, reader.blocks(final=ended))
        for block in logs.tail(found, selection.tail or 0) if first else found:
            show(block)
        output.flush()
        first = False
        left = selection.left()
        if ended or (left is not None and left <= 0):
            return
        watch.wait(left)


class _Printer:
    """Writes blocks as they are, or each line with something before it."""

    def __init__(self, *, prefixed: bool, timestamps: bool) -> None:
        self._prefixed = prefixed
        self._timestamps = timestamps
        self._stderr = False

    def __call__(self, block: Block) -> None:
        data = block.data
        prefix = ""
        if self._timestamps:
            prefix = f"{_timestamp(block.time)} "
        if self._prefixed:
            prefix += f"{block.app}: "
        if block.stream == logs.NOTE:
            prefix += "rkt: "
        if prefix:
            start = prefix.encode()
            lines = data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            data = b"".join(start + line + b"\n" for line in lines)
        stderr = block.stream != logs.STDOUT
        if stderr != self._stderr:
            output.flush()  # so that both streams in one place keep their order
            self._stderr = stderr
        output.raw(data, stderr=stderr)


def _timestamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest:09d}Z", time.gmtime(seconds))


def _count(text: str) -> int | None:
    if text == "all":
        return None
    count = whole_number(text)
    if count is None:
        raise invalid("tail", text, 'must be a number or "all"')
    return count
