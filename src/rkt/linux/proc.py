"""Other programs: run and wait, or spawn.  The only user of `subprocess`."""

from __future__ import annotations

import os

from rkt.errors import CommandError
from rkt.linux import sig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_RESET = (sig.SIGPIPE, sig.SIGINT, sig.SIGTERM, sig.SIGHUP, sig.SIGCHLD)


class Finished:
    """What a program left: exit status (minus the signal if killed) and its two streams."""

    __slots__ = ("status", "stderr", "stdout")

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    input: bytes = b"",  # noqa: A002
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    timeout: float | None = None,
) -> Finished:
    """Run a program without a shell, with an explicit environment, and collect its output.

    Raises CommandError if it cannot be started, exceeds `timeout` seconds, or (with `check`) fails.
    """
    import subprocess

    name = os.path.basename(argv[0])
    try:
        done = subprocess.run(
            list(argv), input=input, capture_output=True, check=False, timeout=timeout,
            env=dict(BASE_ENV if env is None else env), cwd=cwd, pass_fds=tuple(pass_fds),
        )  # fmt: skip
    except FileNotFoundError as err:
        raise CommandError(f'"{name}": no such program', status=127) from err
    except OSError as err:
        raise CommandError(f'"{name}": cannot be run: {err.strerror}', status=126) from err
    except subprocess.TimeoutExpired as err:
        raise CommandError(f'"{name}": no answer in {timeout:g} s', status=-9) from err
    finished = Finished(done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        last = tail.splitlines()[-1] if tail else ""
        text = f'"{name}" {ending(done.returncode)}' + (f": {last}" if last else "")
        raise CommandError(text, status=done.returncode, stderr=tail)
    return finished


def ending(status: int) -> str:
    """Say in words how a program ended."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {sig.name(-status)}"
    except ValueError:
        return f"was killed by signal {-status}"


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdio: tuple[int, int, int],
    keep: Sequence[int] = (),
    passed: Sequence[int] = (),
    new_session: bool = False,
) -> int:
    """Start a program at an absolute path and give its PID; the caller waits for it.

    `stdio` become its descriptors 0, 1 and 2, those in `passed` 3 and up (they must not lie among
    these themselves); each descriptor in `keep` stays open under its own number.  Signals are
    reset and unblocked.  Raises OSError.
    """
    actions: list[tuple[int, int, int]] = []
    for target, source in enumerate(stdio):
        actions.append((os.POSIX_SPAWN_DUP2, source, target))
    actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(passed)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep]
    return os.posix_spawn(
        argv[0], list(argv), dict(env), file_actions=actions,
        setsigdef=_RESET, setsigmask=(), setsid=new_session,
    )  # fmt: skip


def close_on_exec(first: int = 3) -> None:
    """Let no program that this process becomes have a descriptor from a number on."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) >= first:
                os.set_inheritable(int(name), False)
        except OSError:  # that of the list itself
            continue


def spawn_tied(
    argv: Sequence[str], *, env: Mapping[str, str], stdio: tuple[int, int, int], keep: int
) -> int:
    """Start a program as `spawn` does, in a session of its own; it does not outlive its parent.

    The kernel kills it when this process ends, however that comes.  Status 127: it could not be
    executed.
    """
    from rkt.linux import libc

    parent = os.getpid()

    def body() -> int:
        libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
        if os.getppid() != parent:  # it has gone already
            return 1
        try:
            os.setsid()
            for number in _RESET:
                sig.signal(number, sig.SIG_DFL)
            sig.pthread_sigmask(sig.SIG_SETMASK, ())
            for target, source in enumerate(stdio):
                os.dup2(source, target)
            os.set_inheritable(keep, True)
            os.execve(argv[0], list(argv), dict(env))
        except OSError:
            return 127

    return fork(body)


def fork(body: Callable[[], int]) -> int:
    """Run a function in a child of this single-threaded process and give the child's PID.

    The function's result is the exit status; it must raise nothing.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 255
    try:
        status = body()
    finally:
        os._exit(status)


def find_program(name: str, path: str = BASE_ENV["PATH"]) -> str | None:
    """Find an executable along a search path; a name with a slash is taken as it is."""
    if "/" in name:
        return name if os.access(name, os.X_OK) else None
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
