"""The pod's namespaces and their first process.

PID 1 of a pod is catatonit, which only reaps orphans.  It sees nothing but its own directory in
the stage1, read-only, runs without capabilities under a user ID of its own (so that root in an app
may not look through /proc/1), and the kernel kills it, and with it every process of the pod, when
the supervisor dies.
"""

from __future__ import annotations

import os

from rkt.errors import KernelError, RktError
from rkt.linux import libc, sig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range

INIT = "/catatonit"  # in what is left of the file system
_BIN = "usr/bin"
UID = 0x7FFFFF99  # in no range that useradd, containers or systemd hand out
_READY = b"r"
_UNMAPPED = b"u"
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_WORD = 4096


class Sandbox:
    """A started first process; `wait_ready` must be called before anything joins."""

    __slots__ = ("_ready", "_release", "pid")

    def __init__(self, pid: int, ready: int, release: int) -> None:
        self.pid = pid
        self._ready = ready
        self._release = release

    def wait_ready(self) -> None:
        """Finish the handshake, once.  Raises RktError with the failure of the child."""
        if self._ready < 0:
            return
        try:
            word = os.read(self._ready, 1)
            if word == _READY:
                # From here on the death signal is armed while we are alive: the race is closed.
                os.write(self._release, b"g")
                word = b""
            text = word + os.read(self._ready, _WORD)
        except BrokenPipeError:
            text = os.read(self._ready, _WORD)
        finally:
            os.close(self._ready)
            os.close(self._release)
            self._ready = self._release = -1
        if text:
            raise RktError(f"cannot make the pod's namespaces: {text.decode('utf-8', 'replace')}")


def start(rootfs: str, hostname: str, flags: int, users: Range | None = None) -> Sandbox:
    """Make the namespaces in `flags` and start the pod's first process in them.

    With `users` they belong to a user namespace with those IDs, which is made first.
    """
    if users is not None:
        return _start_private(rootfs, hostname, flags, users)
    ready_r, ready_w = os.pipe()
    release_r, release_w = os.pipe()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os.close(ready_r)
            os.close(release_w)
            _child(rootfs, hostname, flags, ready_w, release_r)
        libc.setns(own, libc.CLONE_NEWPID)  # our later children belong to our own namespace
    except OSError as err:
        raise KernelError("cannot make the pod's namespaces", err) from err
    finally:
        os.close(own)
        os.close(ready_w)
        os.close(release_r)
    return Sandbox(pid, ready_r, release_w)


def _start_private(rootfs: str, hostname: str, flags: int, users: Range) -> Sandbox:
    """Do the same in two steps: the PID namespace must be made from within the user namespace.

    The process that makes them ends, and the first process becomes ours, a subreaper's; only then
    may it ask for the death signal, which would come at the end of the other one too.
    """
    from rkt.linux import userns

    ready_r, ready_w = os.pipe()
    release_r, release_w = os.pipe()
    sandbox = Sandbox(0, ready_r, release_w)
    pid = os.fork()
    if pid == 0:
        os.close(ready_r)
        os.close(release_w)
        _maker(rootfs, hostname, flags, ready_w, release_r)
    os.close(ready_w)
    os.close(release_r)
    try:
        text = os.read(ready_r, _WORD)
        if text == _UNMAPPED:
            # The first process has an ID beside the pod's: no app can be given it by mistake.
            userns.write_maps(pid, f"0 {users.shift} {users.count}\n{UID} {UID} 1\n")
            os.write(release_w, b"m")
            text = os.read(ready_r, _WORD)
        os.waitpid(pid, 0)
        number, _, failed = text.partition(b"\n")
        if failed or not number.isdigit():
            raise RktError(f"cannot make the pod's namespaces: {text.decode('utf-8', 'replace')}")
        sandbox.pid = int(number)
        os.write(release_w, b"a")
    except OSError as err:
        raise KernelError("cannot make the pod's user namespace", err) from err
    return sandbox


def _maker(rootfs: str, hostname: str, flags: int, ready: int, release: int) -> None:
    step = "start"
    try:
        _reset_signals()
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        step = "enter the stage1 root file system"
        libc.unshare(libc.CLONE_NEWNS)
        _enter_root(rootfs)
        step = "make a user namespace"
        libc.unshare(libc.CLONE_NEWUSER)
        os.write(ready, _UNMAPPED)
        if not os.read(release, 1):
            os._exit(0)
        step = "unshare"
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        libc.unshare(flags | libc.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            os.write(ready, b"%d\n" % pid)
            os._exit(0)
        if not os.read(release, 1):  # the maker is gone and buried
            os._exit(0)
        if flags & libc.CLONE_NEWUTS:
            step = f'set hostname "{hostname}"'
            libc.sethostname(hostname)
        if flags & libc.CLONE_NEWNET:
            step = "bring up the loopback interface"
            _loopback_up()
        step = "drop privileges"
        libc.drop_bounding_capabilities()
        _become_init(null, ready, release)
    except BaseException as err:  # noqa: BLE001 - a forked child: its only way out is the pipe
        _tell(ready, step, err)
    finally:
        os._exit(1)


def _become_init(null: int, ready: int, release: int) -> None:
    """Give up what is left of root, arm the death signal, and become the first process."""
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    libc.clear_capabilities()
    libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
    os.write(ready, _READY)
    if os.read(release, 1):
        for target in (0, 1, 2):
            os.dup2(null, target)
        try:
            os.execve(INIT, ["rkt-init", "-P"], {})
        except OSError as err:
            _tell(ready, f'execute "{INIT}"', err)
    os._exit(0)


def _tell(ready: int, step: str, err: BaseException) -> None:
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    os.write(ready, f"{step}: {reason}".encode("utf-8", "replace")[:_WORD])


def _reset_signals() -> None:
    sig.set_wakeup_fd(-1)
    for number in (
        sig.SIGINT, sig.SIGTERM, sig.SIGHUP, sig.SIGQUIT, sig.SIGCHLD, sig.SIGUSR1, sig.SIGUSR2,
    ):  # fmt: skip
        sig.signal(number, sig.SIG_DFL)


def _child(rootfs: str, hostname: str, flags: int, ready: int, release: int) -> None:
    step = "start"
    try:
        _reset_signals()
        os.setsid()  # a terminal's Ctrl-C is for the supervisor
        step = "unshare"
        libc.unshare(flags | libc.CLONE_NEWNS)
        if flags & libc.CLONE_NEWUTS:
            step = f'set hostname "{hostname}"'
            libc.sethostname(hostname)
        if flags & libc.CLONE_NEWNET:
            step = "bring up the loopback interface"
            _loopback_up()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        step = "drop privileges"
        libc.drop_bounding_capabilities()
        step = "enter the stage1 root file system"
        _enter_root(rootfs)
        step = "drop privileges"
        _become_init(null, ready, release)
    except BaseException as err:  # noqa: BLE001 - a forked child: its only way out is the pipe
        _tell(ready, step, err)
    finally:
        os._exit(1)


def _enter_root(rootfs: str) -> None:
    """Make its own program, read-only, all that the first process can ever reach.

    OCI runtimes still have their privileges when they change to an app's working directory: a path
    through /proc/1/root, or through a link to it that another app makes, must lead to nothing.
    """
    rootfs = f"{rootfs}/{_BIN}"
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount(rootfs, rootfs, flags=libc.MS_BIND)
    flags = libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV
    libc.mount("", rootfs, flags=flags)
    os.chdir(rootfs)
    libc.pivot_root(".", ".")
    libc.umount(".", libc.MNT_DETACH)
    os.chdir("/")


def _loopback_up() -> None:
    import _socket
    from fcntl import ioctl

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    request = b"lo".ljust(16, b"\0") + _IFF_UP_RUNNING.to_bytes(2, "little") + bytes(22)
    ioctl(sock.fileno(), _SIOCSIFFLAGS, request)
    sock.close()
