"""Which processes are the pod's: a PID counts only together with its start time."""

from __future__ import annotations

import os

from rkt import quickjson
from rkt.errors import KernelError, PodStateError
from rkt.linux import atomic
from rkt.stage1.app import manifest

_FILE = "oci-state"
_PF_EXITING = 0x4


class State:
    """What the supervisor records for `enter`, `stop` and `gc`."""

    __slots__ = ("init", "init_start", "runtime", "supervisor", "supervisor_start")

    def __init__(self, raw: dict[str, object]) -> None:
        where = _FILE
        self.supervisor = manifest.integer(raw, "supervisor", where)
        self.supervisor_start = manifest.integer(raw, "supervisorStart", where)
        self.init = manifest.integer(raw, "init", where)
        self.init_start = manifest.integer(raw, "initStart", where)
        self.runtime = manifest.string(raw, "runtime", where)


def record(pod_dir: str, init_pid: int, runtime: str) -> None:
    """Write the state of this supervisor."""
    own = os.getpid()
    raw = {
        "supervisor": own,
        "supervisorStart": start_time(own),
        "init": init_pid,
        "initStart": start_time(init_pid),
        "runtime": runtime,
    }
    atomic.write_file(f"{pod_dir}/{_FILE}", quickjson.dumps(raw).encode() + b"\n", durable=False)


def read(pod_dir: str) -> State | None:
    """Read the recorded state; None when the pod never came that far."""
    path = f"{pod_dir}/{_FILE}"
    if not os.path.exists(path):
        return None
    return State(manifest.read_json(path, _FILE))


def start_time(pid: int) -> int:
    """Give a process's start time in ticks since boot; 0 when it has gone or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return int(fields[19]) if len(fields) > 19 and fields[0] not in (b"Z", b"X") else 0


def is_ending(pid: int) -> bool:
    """Say whether a process of this pod has gone, or is on its way out."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    return len(fields) <= 6 or fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def open_process(pid: int, started: int, what: str) -> int:
    """Give a pidfd of a process that is still the recorded one.  Raises PodStateError."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError):  # gone, or no PID at all
        fd = -1
    except OSError as err:
        raise KernelError(f"cannot open {what}", err) from err
    if fd >= 0 and started and start_time(pid) == started:
        return fd
    if fd >= 0:
        os.close(fd)
    raise PodStateError(f"{what} is not running")
