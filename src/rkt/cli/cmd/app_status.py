"""`rkt app status`."""

from __future__ import annotations

import time

from rkt.cli import formats, output
from rkt.cli.flags import Command
from rkt.cli.podapp import APP, exit_code, given_app, given_pod
from rkt.errors import NotFound, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.report import AppReport

COMMAND = Command(
    "app status",
    "UUID --app=NAME",
    description="Prints what is known of one app of a pod.",
    flags=(APP, formats.FORMAT),
)


def run(context: Context, args: Parsed) -> int:
    """Print the status of an app."""
    from rkt.pod import report

    form = formats.given_format(args, "app status")
    with exit_code(1), given_pod(context, args) as pod:
        name = given_app(args, "show")
        found = {app.name: app for app in report.pod(pod).apps}
        if name not in found:
            raise NotFound(f'cannot find app "{name}" in the pod')
    if form:
        output.line(formats.text(found[name], form))
    else:
        _print(found[name])
    return 0


def _print(app: AppReport) -> None:
    output.line(f"name={app.name}")
    output.line(f"state={app.state}")
    output.line(f"image_id={app.image_id}")
    for key in ("created_at", "started_at", "finished_at"):
        moment = getattr(app, key)
        if moment is not None:
            output.line(f"{key}={_go_time(moment)}")
    if app.exit_code is not None:
        output.line(f"exit_code={app.exit_code}")
    mounts = [
        f"{m.host_path}:{m.container_path}:(read_only:{str(m.read_only).lower()})"
        for m in app.mounts
    ]
    _block("mounts", mounts)
    _block("user_annotations", [f"{key}:{value}" for key, value in app.user_annotations.items()])
    _block("user_labels", [f"{key}:{value}" for key, value in app.user_labels.items()])
    for key in ("reason", "last_reason", "restarts", "health"):
        value = getattr(app, key)
        if value:
            output.line(f"{key}={value}")


def _block(key: str, values: list[str]) -> None:
    if values:
        output.line(f"{key}=")
        output.line(",".join(one_line(value) for value in values))
        output.line()


def _go_time(nanoseconds: int) -> str:
    """Write a time as Go does by itself: `2006-01-02 15:04:05.999999999 -0700 MST`."""
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime(f"%Y-%m-%d %H:%M:%S{fraction} %z %Z", time.localtime(seconds))
