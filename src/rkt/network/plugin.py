"""Programs that stage1 runs for a network: CNI plugins and the firewall's tools.

They get files in memory as their streams: whatever they write, and whoever keeps it open after
them, nobody can block.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from rkt.errors import NetworkError, PluginError, one_line
from rkt.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TIMEOUT = 60.0
_MAX_OUTPUT = 4 << 20
_TICK_MS = 100


_APART = (
    "/usr/bin/unshare", "--mount", "--propagation", "unchanged", "/bin/sh", "-c",
    'umount --lazy "$0" 2>/dev/null; cd / && exec "$@"',
)  # fmt: skip


class Interrupted(NetworkError):
    """The caller was told to end while a program ran; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted while the network was set up")
        self.number = number
        self.exit_code = 128 + number


class Child:
    """A running program; `wait` must be called once.

    It does not see what is mounted at `apart_from`, so it may leave a daemon: one that lived on in
    the pod's mount namespace would keep all that the pod has mounted.
    """

    __slots__ = ("_deadline", "_err", "_out", "name", "pid", "pidfd", "timeout")

    def __init__(
        self, argv: Sequence[str], data: bytes, env: Mapping[str, str], *,
        keep: Sequence[int] = (), timeout: float = TIMEOUT, apart_from: str = "",
    ) -> None:  # fmt: skip
        self.name = os.path.basename(argv[0])
        if apart_from:
            argv = [*_APART, apart_from, *argv]
        source = os.memfd_create("stdin")
        self._out = os.memfd_create("stdout")
        self._err = os.memfd_create("stderr")
        try:
            os.write(source, data)
            os.lseek(source, 0, os.SEEK_SET)
            self.pid = proc.spawn(
                argv, env=env, stdio=(source, self._out, self._err), keep=keep, new_session=True
            )
            self.pidfd = os.pidfd_open(self.pid)
        except OSError as err:
            os.close(self._out)
            os.close(self._err)
            raise NetworkError(f'cannot run "{argv[0]}": {err.strerror}') from err
        finally:
            os.close(source)
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout

    def wait(self, interrupted: Callable[[], int] | None = None) -> tuple[int | None, bytes, bytes]:
        """Wait for the end; gives status (None if somebody else reaped it), stdout and stderr.

        Raises NetworkError when it takes too long, Interrupted when the callback gives a signal.
        """
        try:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            while not poll.poll(_TICK_MS):
                number = interrupted() if interrupted else 0
                if number:
                    self._kill()
                    raise Interrupted(number)
                if time.monotonic() > self._deadline:
                    self._kill()
                    raise NetworkError(f'"{self.name}": no answer in {self.timeout:g} s')
            return self._reap(), self._read(self._out), self._read(self._err)
        finally:
            for fd in (self.pidfd, self._out, self._err):
                os.close(fd)

    def _kill(self) -> None:
        # It leads a process group of its own: what it started goes too.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._reap()

    def _reap(self) -> int | None:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return None

    def _read(self, fd: int) -> bytes:
        data = os.pread(fd, _MAX_OUTPUT + 1, 0)
        if len(data) > _MAX_OUTPUT:
            raise NetworkError(f'"{self.name}" wrote more than {_MAX_OUTPUT} bytes')
        return data


def find(kind: str, path: Sequence[str]) -> str:
    """Find a plugin's program.  Raises NetworkError."""
    for directory in path:
        candidate = f"{directory}/{kind}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise NetworkError(
        f'Could not find plugin "{kind}"', hint=f"looked in {', '.join(path)} (Debian: apt install "
        "containernetworking-plugins)",
    )  # fmt: skip


def answer(name: str, status: int | None, out: bytes, err: bytes) -> dict[str, object]:
    """Read what a CNI plugin answered; raises PluginError with what it says went wrong."""
    raw: object = None
    text = out.strip()
    if text:
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            if status == 0:
                raise PluginError(f"its answer is no JSON: {error}", plugin=name) from None
    failed = status not in (0, None) or (isinstance(raw, dict) and "msg" in raw and "code" in raw)
    if not failed:
        if raw is not None and not isinstance(raw, dict):
            raise PluginError("its answer is not an object", plugin=name)
        return raw or {}
    if isinstance(raw, dict) and isinstance(raw.get("msg"), str):
        code, details = raw.get("code"), raw.get("details")
        raise PluginError(
            _tidy(raw["msg"]), plugin=name, code=code if isinstance(code, int) else 0,
            details=_tidy(details) if isinstance(details, str) else "",
        )  # fmt: skip
    tail = err.decode("utf-8", "replace").strip().splitlines()
    last = f": {_tidy(tail[-1])}" if tail else ""
    raise PluginError(f'plugin "{name}" {proc.ending(status or 0)}{last}', plugin=name)


def _tidy(text: str) -> str:
    return one_line(" ".join(text.split()))[:2000]
