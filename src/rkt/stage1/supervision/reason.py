"""Why an app ended: found out at its end, kept as a small JSON file beside its exit code."""

from __future__ import annotations

import os
import time

from rkt import quickjson
from rkt.linux import atomic, sig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.host.cgroup import Layout

CANNOT_START = 126
_RESERVED = 4096
_LONGEST = 400
_NOT_EXECUTED = b"rkt: cannot execute "  # listen.c
_CRUN_EXEC = '{"msg":"exec container process '
_LOADERS = (
    b"error while loading shared libraries: ",  # glibc: NAME: cannot open shared object file
    b"Error loading shared library ",  # musl: NAME: No such file or directory (needed by ...)
)


class End:
    """How an app ended: its exit code (128 and more for a signal) and why, in words."""

    __slots__ = ("kind", "signal", "status", "text")

    def __init__(self, status: int, kind: str, text: str, *, number: int = 0) -> None:
        self.status = status
        self.kind = kind
        self.text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        self.signal = number

    def encode(self, *, restarts: int, again: bool) -> bytes:
        """Give the file's content; `again` says that the app is going to be started anew."""
        return quickjson.dumps({
            "kind": self.kind, "text": self.text, "status": self.status, "signal": self.signal,
            "restarts": restarts, "again": again, "time": time.time_ns(),
        }).encode() + b"\n"  # fmt: skip


def of_main(
    code: int, *, oom: bool, memory: int, filtered: bool, tail: bytes, announced: bool = False,
    program: str = "",
) -> End:  # fmt: skip
    """Explain the end of an app's main process.

    `code` is its exit code or minus the signal; `oom` says that the kernel killed for lack of
    memory in the app's cgroup, whose limit is `memory` (0 for none); `tail` is what it wrote last;
    `announced` says that it began as the program that announces sockets; `program` is what the
    runtime was to execute.
    """
    limit = f"the limit is {_size(memory)}" if memory else "no limit of its own"
    if code < 0:
        name = _signal_name(-code)
        status = 128 - code
        if oom and -code == sig.SIGKILL:
            return End(status, "oom", f"killed by {name}: out of memory ({limit})", number=-code)
        if filtered and -code == sig.SIGSYS:
            text = f"killed by {name}: it made a system call that its seccomp filter forbids"
            return End(status, "seccomp", text, number=-code)
        return End(status, "signal", f"killed by {name}", number=-code)
    text = f"exited with status {code}"
    if code and oom:
        return End(code, "oom", f"{text}: a process of it was killed, out of memory ({limit})")
    if announced and code == CANNOT_START:
        line = last_line(tail)
        if line.startswith(_NOT_EXECUTED):
            text = "".join(c for c in line[5:].decode("utf-8", "replace") if c.isprintable())
            return End(code, "start", f"could not be started: {text}")
    if code == 1 and program:
        why = not_executed(last_line(tail), program)
        if why:
            return End(code, "start", f'could not be started: cannot execute "{program}": {why}')
    if code == 127:
        library = missing_library(tail)
        if library:
            return End(code, "library", f'{text}: library "{library}" is missing')
    return End(code, "exited", text)


def of_handler(step: str, code: int, *, tail: bytes = b"", program: str = "") -> End:
    """Explain the end of an app whose pre-start handler failed; as `of_main` does."""
    if code < 0:
        text = f"{step} handler was killed by {_signal_name(-code)}"
        return End(128 - code, "handler", text, number=-code)
    why = not_executed(last_line(tail), program) if code == 1 and program else ""
    if why:
        text = f'{step} handler could not be started: cannot execute "{program}": {why}'
        return End(code, "handler", text)
    return End(code, "handler", f"{step} handler exited with status {code}")


def of_stop(end: End, why: str) -> End:
    """Explain the end of an app that was asked to end."""
    return End(end.status, "stopped", f"{end.text}: {why}", number=end.signal)


def last_line(tail: bytes) -> bytes:
    """Give the last line of a text."""
    return tail.rstrip(b"\n").rpartition(b"\n")[2]


def not_executed(line: bytes, program: str) -> str:
    """Find why a runtime could not execute an app's program, in its last words; "" if it did."""
    text = line.decode("utf-8", "surrogateescape")
    if text.startswith(f"exec {program}: "):  # runc
        why = text[len(f"exec {program}: ") :]
    elif text.startswith(_CRUN_EXEC):
        try:
            entry = quickjson.loads(line)
        except ValueError:
            return ""
        text = str(entry.get("msg")) if isinstance(entry, dict) else ""
        why = text.rpartition(f"`{program}`: ")[2] if f"`{program}`: " in text else ""
    else:
        return ""
    return "".join(c for c in why if c.isprintable()).lower()[:200]


def missing_library(tail: bytes) -> str:
    """Find the shared library that a dynamic loader complains about; "" if it does not."""
    for mark in _LOADERS:
        at = tail.rfind(mark)
        if at >= 0:
            name = tail[at + len(mark) :].split(b"\n", 1)[0].split(b":", 1)[0].strip()
            text = name.decode("utf-8", "replace")
            return "".join(c for c in text if c.isprintable())[:200]
    return ""


def _signal_name(number: int) -> str:
    try:
        return sig.name(number)
    except ValueError:
        return f"signal {number}"


def _size(count: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift and not count & ((1 << shift) - 1):
            return f"{count >> shift} {unit}"
    return f"{count} bytes"


def oom_kills(layout: Layout, path: str) -> int:
    """Count the processes of a cgroup that the kernel killed for lack of memory."""
    for hierarchy in layout.hierarchies:
        for name in ("memory.oom_control", "memory.events"):
            try:
                with open(f"{hierarchy}{path}/{name}", encoding="ascii") as file:
                    words = file.read().split()
            except OSError:
                continue
            for key, value in zip(words[::2], words[1::2], strict=False):
                if key == "oom_kill" and value.isdigit():
                    return int(value)
    return 0


class Slot:
    """A small file to be written later, also when the disk has become full by then."""

    __slots__ = ("_fd", "_path", "_temporary")

    def __init__(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        self._path = path
        self._temporary = f"{directory}/.{name}.reserved"
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._temporary, flags, 0o644)
        try:
            os.posix_fallocate(self._fd, 0, _RESERVED)
        except OSError:  # not on this file system, or full already: then as it comes
            pass

    def commit(self, data: bytes) -> None:
        """Write it; the file appears whole.  Raises OSError."""
        if self._fd < 0:
            atomic.write_file(self._path, data, durable=False)
            return
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
            os.rename(self._temporary, self._path)
        finally:
            self._close()

    def discard(self) -> None:
        """Give the room back."""
        if self._fd >= 0:
            self._close()
            try:
                os.unlink(self._temporary)
            except FileNotFoundError:  # somebody took the pod's directory away
                pass

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
