"""`rkt events`."""

from __future__ import annotations

import select
import time

from rkt import log
from rkt.cli import formats, moment, output
from rkt.cli.flags import Command, Flag, invalid
from rkt.cli.uuids import find_pod
from rkt.errors import NotFound, one_line
from rkt.pod import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.events import Event, Images

_KEYS = ("app", "event", "image", "pod", "type")

COMMAND = Command(
    "events",
    "[--follow] [--filter=KEY=VALUE]",
    description="""\
Tells what happened to pods, apps and images, one line an event, oldest first: what can be seen
of the past, from the pods that were not collected yet and the images in the store; with
--follow what happens from now on, until Ctrl-C.

A filter is type=pod, app or image; event=STATUS; pod=UUID or name; app=NAME; image=NAME or ID.
Several of one key: any of them; of different keys: all of them.

A TIME is a duration before now ("10m"), a date and time ("2026-03-01T10:14:37Z", local time without
a zone), or seconds since 1970.""",
    flags=(
        Flag("filter", "only events that match KEY=VALUE; may be given several times",
             kind="list"),
        Flag("follow", "tell events as they happen; the past only with --since", kind="bool",
             short="f"),
        formats.FORMAT,
        Flag("since", "only events at or after this TIME"),
        Flag("until", "only events before this TIME; --follow ends then"),
    ),
    words=False,
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Print events."""
    selection = _Selection(context, args)
    form = formats.given_format(args, "events")
    images = None
    if selection.has_kind(events.IMAGE):
        images = events.Images(lambda: _stored(context))
    if args.flag("follow"):
        return _follow(context, selection, form, images)
    problems: list[str] = []
    found = events.past(context.data_dir, problem=problems.append)
    if images is not None:
        found += images.look()
        found.sort(key=lambda event: event.time)
    _print([event for event in found if selection.has(event)], form)
    if problems:
        output.flush()
        output.report_problems(problems, "events")
    return 0


class _Selection:
    """Which events are wanted."""

    def __init__(self, context: Context, args: Parsed) -> None:
        self._started = now = time.time_ns()
        self.since = moment.given(args, "since", now)
        self.until = moment.given(args, "until", now)
        self._wanted: dict[str, list[str]] = {}
        for text in args.all("filter"):
            key, is_pair, value = text.partition("=")
            if not is_pair or key not in _KEYS:
                raise invalid("filter", text, f"must be KEY=VALUE, KEY one of: {', '.join(_KEYS)}")
            if key == "type" and value not in events.STATUSES:
                raise invalid("filter", text, f"type must be one of: {', '.join(events.STATUSES)}")
            if key == "event" and not any(value in known for known in events.STATUSES.values()):
                names = sorted({name for known in events.STATUSES.values() for name in known})
                raise invalid("filter", text, f"event must be one of: {', '.join(names)}")
            if key == "pod":
                value = _uuid(context, value)
            self._wanted.setdefault(key, []).append(value)

    def has_kind(self, kind: str) -> bool:
        """Say whether events of a kind can be wanted."""
        if kind == events.IMAGE and ("pod" in self._wanted or "app" in self._wanted):
            return False
        return kind in self._wanted.get("type", events.STATUSES)

    def begin_now(self) -> None:
        """Leave out the past, unless it was asked for."""
        if self.since is None:
            self.since = self._started

    def left(self) -> float | None:
        """Give the seconds until nothing more can be wanted; None: the end is open."""
        return None if self.until is None else max(0.0, (self.until - time.time_ns()) / 1e9)

    def has(self, event: Event) -> bool:
        """Say whether an event is wanted."""
        if self.since is not None and event.time < self.since:
            return False
        if self.until is not None and event.time >= self.until:
            return False
        return all(_matches(event, key, values) for key, values in self._wanted.items())


def _matches(event: Event, key: str, values: list[str]) -> bool:
    if key == "type":
        return event.kind in values
    if key == "event":
        return event.status in values
    if key == "app":
        return event.kind == events.APP and event.name in values
    if key == "pod":
        pod = event.name if event.kind == events.POD else event.attributes.get("pod")
        return event.kind != events.IMAGE and any(
            event.id.startswith(value) or pod == value for value in values
        )
    if event.kind == events.IMAGE:
        name = event.name
        return any(event.id.startswith(v) or v in (name, name.partition(":")[0]) for v in values)
    return event.attributes.get("image") in values


def _uuid(context: Context, word: str) -> str:
    """Give the UUID that a word stands for; of a pod that is not there (yet), the word."""
    try:
        with find_pod(context, word) as pod:
            return pod.uuid
    except NotFound:
        if not word:
            raise
        return word


def _stored(context: Context) -> dict[str, tuple[str, int]]:
    found = {}
    for record in context.store().list(problems=[]):
        if not record.is_layer:
            version = record.label("version")
            name = f"{record.name}:{version}" if version else record.name
            found[str(record.key)] = (name, record.import_time)
    return found


def _follow(context: Context, selection: _Selection, form: str, images: Images | None) -> int:
    from rkt.pod.eventwatch import Follower

    follower = Follower(context.data_dir, images=images, problem=log.warning)
    poll = select.poll()
    poll.register(follower.fileno(), select.POLLIN)
    poll.register(1, 0)  # an error: nobody reads any more
    selection.begin_now()
    try:
        found = follower.start()
        while True:
            _print([event for event in found if selection.has(event)], form)
            output.flush()
            left = selection.left()
            if left == 0:
                return 0
            pauses = [seconds for seconds in (left, follower.timeout()) if seconds is not None]
            limit = min(int(min(pauses) * 1000) + 1, 1 << 30) if pauses else None
            if any(fd == 1 for fd, _ in poll.poll(limit)):
                raise BrokenPipeError
            found = follower.take()
    except KeyboardInterrupt:  # the way to end it
        return 0


def _print(found: list[Event], form: str) -> None:
    for event in found:
        if form:
            output.line(formats.text(_document(event), form).rstrip("\n"))
        else:
            output.line(_text(event))


def _document(event: Event) -> dict[str, object]:
    return {
        "time": event.time, "type": event.kind, "status": event.status,
        "id": event.id, "name": event.name, "attributes": event.attributes,
    }  # fmt: skip


def _text(event: Event) -> str:
    about = {event.kind if event.kind == events.APP else "name": event.name} if event.name else {}
    about.update(event.attributes)
    more = ", ".join(f"{key}={value}" for key, value in about.items())
    line = f"{output.time_text(event.time)} {event.kind} {event.status} {event.id}"
    return one_line(f"{line} ({more})" if more else line)
