"""`rkt list`."""

from __future__ import annotations

import time

from rkt import const, log
from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.errors import NotFound, RktError, describe
from rkt.pod import lifecycle, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

_HEADERS = ("UUID", "APP", "ACI", "STATE", "NETWORKS", "CREATED", "STARTED")

COMMAND = Command(
    "list",
    "",
    description="Lists the pods of this host, one line an app.",
    flags=(
        Flag("full", "use long output format", kind="bool"),
        Flag("no-legend", "suppress a legend with the list", kind="bool"),
    ),
)


def run(context: Context, args: Parsed) -> int:
    """Print the table of pods; what cannot be read is reported after it."""
    full = args.flag("full")
    rows: list[tuple[str, ...]] = []
    problems: list[str] = []
    for pod in lifecycle.every(context.data_dir):
        try:
            rows += _rows(pod, full=full)
        except NotFound:
            continue  # deleted meanwhile
        except RktError as err:
            problems.append(f"Unable to read pod {pod.uuid} manifest:\n  {describe(err)}")
    if not args.flag("no-legend"):
        rows.insert(0, _HEADERS)
    output.write(output.table(rows))
    if problems:
        _report(problems)
    return 0


def _rows(pod: Pod, *, full: bool) -> list[tuple[str, ...]]:
    state = pod.state()
    created, started = pod.created(), pod.started()
    apps = view.app_names(pod) if state not in ("preparing", "aborted prepare") else []
    first = apps[0] if apps else "-"
    image = view.image_name(pod, first) if apps else "-"
    rows: list[tuple[str, ...]] = [(
        pod.uuid if full else pod.uuid[:8], first, image, state, view.networks(pod),
        _when(created, full=full), _when(started, full=full),
    )]  # fmt: skip
    rows += [("", app, view.image_name(pod, app), "", "", "", "") for app in apps[1:]]
    return rows


def _when(nanoseconds: int | None, *, full: bool) -> str:
    if nanoseconds is None:
        return ""
    return output.time_text(nanoseconds) if full else output.ago(nanoseconds, time.time_ns())


def _report(problems: list[str]) -> None:
    rule = "-" * 40
    log.info(f"{len(problems)} error(s) encountered when listing pods:")
    log.info(rule)
    for problem in problems:
        log.info(problem)
    log.info(rule)
    log.info("misc:")
    log.info(f"  rkt's appc version: {const.APPC_VERSION}")
