"""What the manifest asks of the supervisor: restarts, the time to stop in, logs, health checks.

They are annotations, so that the arguments of the contract stay as they are.  Stage0 has checked
what its flags gave; a manifest may come from elsewhere.
"""

from __future__ import annotations

from rkt import const, quickjson
from rkt.errors import SchemaError
from rkt.stage1.streams import applog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.manifest import App, Pod

NO, ON_FAILURE, ALWAYS = "no", "on-failure", "always"
STOP_TIMEOUT = 10.0
_LONGEST = 10 * 86400.0  # poll(2) counts milliseconds in 31 bits
_FIRST_DELAY = 0.1
_LAST_DELAY = 60.0
_SETTLED = 10.0  # an app that ran that long begins anew with the shortest delay


class PodPolicy:
    """What holds for all apps of a pod."""

    __slots__ = ("limit", "log_size", "restart", "stop_timeout")

    def __init__(self, annotations: dict[str, str]) -> None:
        where = "pod manifest"
        text = annotations.get(const.POD_RESTART, NO)
        self.restart, _, limit = text.partition(":")
        if self.restart not in (NO, ON_FAILURE, ALWAYS) or (
            limit and (self.restart != ON_FAILURE or _number(limit) < 0)
        ):
            raise SchemaError(f'{where}: invalid restart policy "{text}"')
        self.limit = _number(limit)
        self.stop_timeout = _seconds(annotations, const.POD_STOP_TIMEOUT, STOP_TIMEOUT, where)
        size = annotations.get(const.POD_LOG_SIZE, str(applog.DEFAULT_SIZE))
        self.log_size = _number(size)
        if self.log_size < 0:
            raise SchemaError(f'{where}: invalid log size "{size}"')


class Restarts:
    """Decides whether and when an app starts again."""

    __slots__ = ("_delay", "_policy", "count")

    def __init__(self, policy: PodPolicy) -> None:
        self.count = 0
        self._policy = policy
        self._delay = _FIRST_DELAY

    def after(self, status: int, ran: float) -> float | None:
        """Give the seconds to wait after an app that ran for `ran` seconds; None: no restart."""
        policy = self._policy
        if policy.restart == NO or (policy.restart == ON_FAILURE and status == 0):
            return None
        if 0 <= policy.limit <= self.count:
            return None
        self.count += 1
        if ran >= _SETTLED:
            self._delay = _FIRST_DELAY
        delay, self._delay = self._delay, min(self._delay * 2, _LAST_DELAY)
        return delay


class HealthPlan:
    """A command to run inside an app now and then, and what to make of it."""

    __slots__ = ("command", "interval", "retries", "start_period", "timeout")

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.interval = 30.0
        self.timeout = 30.0
        self.retries = 3
        self.start_period = 0.0


def health(app: App) -> HealthPlan | None:
    """Read the health check of an app; None if it has none.  Raises SchemaError."""
    where = f'app "{app.name}"'
    annotations = {**app.image_annotations, **app.annotations}
    text = annotations.get(const.HEALTH_CMD)
    if not text:
        return None
    try:
        command = quickjson.loads(text)
    except ValueError:
        command = None
    if not isinstance(command, list) or not command or not all(
        isinstance(word, str) and "\0" not in word for word in command
    ):  # fmt: skip
        raise SchemaError(f'{where}: health command "{text}" is not an array of words')
    plan = HealthPlan(command)
    plan.interval = _seconds(annotations, const.HEALTH_INTERVAL, plan.interval, where)
    plan.timeout = _seconds(annotations, const.HEALTH_TIMEOUT, plan.timeout, where)
    plan.start_period = _seconds(annotations, const.HEALTH_START, 0.0, where)
    retries = annotations.get(const.HEALTH_RETRIES, str(plan.retries))
    plan.retries = _number(retries)
    if plan.retries < 1:
        raise SchemaError(f'{where}: invalid number of health retries "{retries}"')
    return plan


def pod(manifest: Pod) -> PodPolicy:
    """Read what the pod manifest says.  Raises SchemaError."""
    return PodPolicy(manifest.annotations)


def _number(text: str) -> int:
    """Read a number of ASCII digits; -1 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1


def _seconds(annotations: dict[str, str], name: str, default: float, where: str) -> float:
    text = annotations.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _LONGEST:  # NaN is refused too
        raise SchemaError(f'{where}: annotation "{name}": invalid number of seconds "{text}"')
    return value
