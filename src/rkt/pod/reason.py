"""Why the apps of a pod ended, as its supervisor recorded it or as can be told without it."""

from __future__ import annotations

from rkt.const import BOOT_ID, NOT_STARTED
from rkt.errors import SchemaError, one_line
from rkt.pod.state import ENDED
from rkt.schema import codec
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.pod.lifecycle import Pod

_LONGEST = 400
_BOOT_FILE = "/proc/sys/kernel/random/boot_id"


class Reason(Struct):
    """How an app ended.  `again`: it was to be started once more."""

    kind: str
    text: str
    status: int = 0
    signal: int = 0
    restarts: int = 0
    again: bool = False
    time: int = 0


def of_apps(pod: Pod, state: str, apps: Sequence[str]) -> dict[str, Reason]:
    """Give the reasons of those apps that have one; of a pod that has ended all have."""
    base = f"{pod.stage1_rootfs()}/rkt"
    codes = pod.exit_codes(apps) if state in ENDED else {}
    found = {}
    for app in apps:
        recorded = _recorded(pod, f"{base}/status/{app}.reason")
        if recorded is not None and (state not in ENDED or not recorded.again or app in codes):
            found[app] = recorded
        elif app in codes:
            found[app] = Reason("exited", f"exited with status {codes[app]}", codes[app])
        elif state in ENDED:
            started = pod.exists(f"{base}/status/{app}.pid")
            if not started and pod.exists(f"{base}/status/{app}-created"):
                found[app] = Reason("created", "was not started")  # nobody asked for it
            else:
                found[app] = _derived(pod, started=started)
    return found


def health(pod: Pod, app: str) -> str:
    """Give `starting`, `healthy` or `unhealthy`; "" for an app without a health check."""
    return one_line(pod.read_text(f"{pod.stage1_rootfs()}/rkt/health/{app}") or "")


def _recorded(pod: Pod, path: str) -> Reason | None:
    data = pod.read(path)
    if not data:
        return None
    try:
        return codec.decode(data, Reason, "reason")
    except SchemaError:
        return None


def _derived(pod: Pod, *, started: bool) -> Reason:
    """Tell what happened to an app of whose end nothing was recorded: nobody was there to."""
    failure = pod.read_text(NOT_STARTED)
    if failure:
        return Reason("start", f"was not started: {failure[:_LONGEST]}")
    boot = pod.read_text(BOOT_ID)
    if boot and boot != _present_boot():
        text = "the host was rebooted, or crashed,"
        text = f"{text} while it ran" if started else f"was not started: {text} before"
        return Reason("rebooted", text)
    if started:
        return Reason("supervisor", "its supervisor was killed while it ran")
    if pod.started() is None:
        return Reason("supervisor", "was not started: its supervisor was killed before")
    return Reason("unknown", "no exit status was recorded")


def _present_boot() -> str:
    with open(_BOOT_FILE, encoding="ascii") as file:
        return file.read().strip()
