"""Flags about the life of a pod: its name, restarts, the time to stop in, logs, health checks.

They travel to the pod's supervisor as annotations of the pod manifest.
"""

from __future__ import annotations

from rkt import const, quickjson
from rkt.cli import duration
from rkt.cli.flags import Flag, converted, invalid, whole_number
from rkt.errors import RktError, SchemaError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import AppWords, Parsed

_LONGEST = 10 * 86400

LIFE_FLAGS = (
    Flag("log-max-size", "how much is kept of each app's output (example: '--log-max-size=1Gi'); "
         "0 for nothing", kind="value", default="32Mi"),
    Flag("pod-name", "name of the pod, to be used wherever its UUID is"),
    Flag("restart", "when apps that ended start again: no, on-failure, on-failure:N (N times at "
         "most) or always", default="no"),
    Flag("stop-timeout", "how long apps may take to end before they are killed",
         kind="value", default="10s"),
)  # fmt: skip

HEALTH_FLAGS = (
    Flag("health-cmd", "command that says by its exit status whether the preceding image's app is "
         "well: for /bin/sh, or a JSON array", app=True),
    Flag("health-interval", "time between two health checks (30s)", app=True),
    Flag("health-retries", "failures in a row that make an app unhealthy (3)", app=True),
    Flag("health-start-period", "time at the start in which failures do not count (0s)", app=True),
    Flag("health-timeout", "time after which a health check has failed (30s)", app=True),
)  # fmt: skip

DETACH = Flag("detach", "run the pod in the background: print its UUID once its apps run",
              kind="bool", short="d")  # fmt: skip


def pod_annotations(args: Parsed) -> dict[str, str]:
    """Give the pod's annotations for the flags that were given.  Raises UsageError."""
    found = {}
    if args.given("restart"):
        found[const.POD_RESTART] = _restart(args.string("restart"))
    if args.given("stop-timeout"):
        found[const.POD_STOP_TIMEOUT] = _seconds("stop-timeout", args.string("stop-timeout"))
    if args.given("log-max-size"):
        found[const.POD_LOG_SIZE] = _size(args.string("log-max-size"))
    return found


def app_annotations(app: AppWords) -> dict[str, str]:
    """Give an app's annotations for its health check.  Raises UsageError."""
    given = {flag.name: app.last(flag.name) for flag in HEALTH_FLAGS}
    found = {}
    for name, value in given.items():
        if value is None:
            continue
        if given["health-cmd"] is None:
            raise UsageError(f"--{name} is of no use without --health-cmd")
        if name == "health-cmd":
            text = _command(value)
        elif name == "health-retries":
            if not whole_number(value):
                raise invalid(name, value, "must be a positive number")
            text = value
        else:
            text = _seconds(name, value)
        found[f"{const.HEALTH_PREFIX}{name.removeprefix('health-')}"] = text
    return found


def check_restart(args: Parsed, *, interactive: bool) -> None:
    """Refuse what goes not together with a pod's end being somebody's at a terminal."""
    if interactive and args.given("restart") and args.string("restart") != "no":
        raise RktError("cannot use --restart with --interactive")


def _restart(text: str) -> str:
    name, colon, limit = text.partition(":")
    if name not in ("no", "on-failure", "always") or (
        colon and (name != "on-failure" or whole_number(limit) is None)
    ):
        raise invalid("restart", text, "must be no, on-failure, on-failure:N or always")
    return text


def _seconds(name: str, text: str) -> str:
    value = converted(name, text, duration.parse)
    assert isinstance(value, float)
    if not 0 <= value <= _LONGEST:
        raise invalid(name, text, "must be between 0s and 240h")
    return f"{value:g}"


def _size(text: str) -> str:
    from rkt.schema.types import Quantity

    try:
        size = Quantity.parse(text).bytes()
    except (SchemaError, ValueError) as err:
        raise invalid("log-max-size", text, str(err)) from err
    if size < 0:
        raise invalid("log-max-size", text, "must not be negative")
    return str(size)


def _command(text: str) -> str:
    if not text.startswith("["):
        if not text.strip():
            raise invalid("health-cmd", text, "must not be empty")
        return quickjson.dumps(["/bin/sh", "-c", text])
    try:
        words = quickjson.loads(text)
    except ValueError as err:
        raise invalid("health-cmd", text, "begins like a JSON array but is none") from err
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise invalid("health-cmd", text, "must be an array of words")
    return text
