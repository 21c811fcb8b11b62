"""`rkt list`."""

from __future__ import annotations

import time

from rkt.cli import formats, output
from rkt.cli.flags import Command, Flag
from rkt.errors import NotFound, RktError, describe, one_line
from rkt.pod import lifecycle, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

    T = TypeVar("T")

_HEADERS = ("UUID", "APP", "ACI", "STATE", "NETWORKS", "CREATED", "STARTED", "NAME")
_ID_LENGTH = len("sha512-") + 12

COMMAND = Command(
    "list",
    "",
    description="Lists the pods of this host, one line an app.",
    flags=(
        formats.FORMAT,
        Flag("full", "use long output format", kind="bool"),
        Flag("no-legend", "suppress a legend with the list", kind="bool"),
    ),
    words=False,
)


def run(context: Context, args: Parsed) -> int:
    """Print the pods; those that cannot be read are reported after them."""
    form, full = formats.given_format(args, "list"), args.flag("full")
    problems: list[str] = []
    if form:
        from rkt.pod import report

        output.line(formats.text(_each(context, report.pod, problems), form))
    else:
        now = time.time_ns()
        blocks = _each(context, lambda pod: _rows(pod, problems, full=full, now=now), problems)
        rows = [row for block in blocks for row in block]
        if not args.flag("no-legend"):
            rows.insert(0, (*_HEADERS, "IMAGE ID") if full else _HEADERS)
        output.write(output.table(rows))
    if problems:
        output.report_problems(problems, "pods")
    return 0


def _each(context: Context, look: Callable[[Pod], T], problems: list[str]) -> list[T]:
    found = []
    for pod in lifecycle.every(context.data_dir):
        try:
            found.append(look(pod))
        except NotFound:
            continue  # deleted meanwhile
        except (RktError, OSError) as err:
            problems.append(f"Unable to read pod {pod.uuid} manifest:\n  {describe(err)}")
    return found


def _rows(pod: Pod, problems: list[str], *, full: bool, now: int) -> list[tuple[str, ...]]:
    state = pod.state()
    created, started = pod.created(), pod.started()
    apps = view.app_names(pod) if state not in ("preparing", "aborted prepare") else []
    try:
        networks = view.networks(pod)
    except RktError as err:  # not worth hiding the pod for
        networks = ""
        problems.append(describe(err))
    first = apps[0] if apps else "-"
    image = view.image_name(pod, first) if apps else "-"
    rows: list[tuple[str, ...]] = [(
        pod.uuid if full else pod.uuid[:8], first, image, state, networks,
        _when(created, full=full, now=now), _when(started, full=full, now=now),
        one_line(pod.name()),
    )]  # fmt: skip
    rows += [("", app, view.image_name(pod, app), "", "", "", "", "") for app in apps[1:]]
    if full:
        found = view.manifest(pod).apps if apps else ()
        ids = {app.name: app.image.id[:_ID_LENGTH] for app in found}
        rows = [(*row, ids.get(row[1], "-")) for row in rows]
    return rows


def _when(nanoseconds: int | None, *, full: bool, now: int) -> str:
    if nanoseconds is None:
        return ""
    return output.time_text(nanoseconds) if full else output.ago(nanoseconds, now)
