"""`rkt status`."""

from __future__ import annotations

import signal
import time

from rkt.cli import duration, formats, output
from rkt.cli.flags import FALSE, TRUE, Command, Flag
from rkt.cli.uuids import UUID_FILE, find_pod, given_uuid
from rkt.errors import RktError, UsageError, one_line
from rkt.linux import lock
from rkt.pod import view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

_PAUSE = 0.1

COMMAND = Command(
    "status",
    "[--wait] UUID",
    description="Prints assorted information about a pod such as its state, pid and exit status.",
    flags=(
        formats.FORMAT,
        UUID_FILE,
        Flag("wait", "wait for the pod to exit: true, false, or how long at most", default="false",
             bare="true"),
        Flag("wait-ready", "wait until apps can be added to the pod: true, false, or how long at "
             "most", default="false", bare="true"),
    ),
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Print what is known of a pod, after its end with --wait."""
    limit = _wait_limit("wait", args.string("wait"))
    ready_limit = _wait_limit("wait-ready", args.string("wait-ready"))
    form = formats.given_format(args, "status")
    with find_pod(context, given_uuid(args, "status", file_status=1)) as pod:
        if ready_limit != 0:
            from rkt.pod.mutable import wait_ready

            wait_ready(pod, ready_limit)
        if limit != 0:
            _wait(pod, limit)
        if form:
            from rkt.pod import report

            output.line(formats.text(report.pod(pod), form))
        else:
            _print(pod)
    return 0


def _wait_limit(name: str, text: str) -> float:
    """Give the seconds to wait: 0 for not at all, negative for ever."""
    if text in TRUE:
        return -1
    if text in FALSE:
        return 0
    try:
        return duration.parse(text)
    except ValueError as err:
        raise UsageError(f'invalid value "{text}" for --{name}', command="status") from err


class _Timeout(Exception):
    pass


def _wait(pod: Pod, seconds: float) -> None:
    """Wait for the end of the pod: of one that was only prepared, until it was run."""

    def expire(_signal: int, _frame: object) -> None:
        raise _Timeout

    if seconds > 0:
        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        while True:
            lock.acquire(pod.fd, exclusive=False)
            lock.release(pod.fd)
            if pod.state() != "prepared":
                break
            time.sleep(_PAUSE)
    except _Timeout:
        raise RktError("error waiting for pod to finish: context deadline exceeded") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _print(pod: Pod) -> None:
    state = pod.state()
    output.line(f"state={state}")
    running = state == "running"
    apps: list[str] = []
    codes: dict[str, int] = {}
    if running or view.has_ended(state):
        pid = pod.pid() if running else None
        output.line(f"pid={-1 if pid is None else pid}")
        output.line(f"exited={'false' if running else 'true'}")
        apps = view.app_names(pod)
        codes = pod.exit_codes(apps)
        for app, code in codes.items():
            output.line(f"{app}={code}")
    created, started = pod.created(), pod.started()
    if created is not None:
        output.line(f"created={output.time_text(created)}")
    if started is not None:
        output.line(f"started={output.time_text(started)}")
    if running or view.has_ended(state):
        output.line(f"networks={view.networks(pod)}")
        for app, code in codes.items() if not running else ():
            output.line(f"app-{app}={code}")
        _print_reasons(pod, state, apps)
    if pod.name():
        output.line(f"name={one_line(pod.name())}")


def _print_reasons(pod: Pod, state: str, apps: list[str]) -> None:
    """Say why apps ended; of one that is to run again, how often it did and why the last time."""
    from rkt.pod import reason

    for app, found in reason.of_apps(pod, state, apps).items():
        word = "last-reason" if found.again and state == "running" else "reason"
        output.line(f"{app}-{word}={one_line(found.text)}")
        if found.restarts:
            output.line(f"{app}-restarts={found.restarts}")
    for app in apps if state == "running" else ():
        health = reason.health(pod, app)
        if health:
            output.line(f"{app}-health={health}")
