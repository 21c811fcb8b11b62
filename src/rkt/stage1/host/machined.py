"""Showing a pod to systemd-machined: `machinectl` lists it, and ends it.

The machine's leader is a process of its own: in its root `journalctl -M` and `machinectl` find what
they look for, its network is the pod's, and the signals that `machinectl poweroff`, `reboot` and
`terminate` send it become the orderly end of the pod.  The pod's PID 1 could not pass them on.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import describe
from rkt.linux import libc, sig
from rkt.stage1.host import dbus, sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.host.cgroup import Layout

_NAME = "org.freedesktop.machine1"
_PATH = "/org/freedesktop/machine1"
_MANAGER = f"{_NAME}.Manager"
STOP = sig.SIGTERM
"""What the apps get, whatever the leader was asked."""
POWEROFF = sig.SIGRTMIN + 4
REQUESTS = {
    sig.SIGTERM: "machinectl terminate or the service manager",
    POWEROFF: "machinectl poweroff",
    sig.SIGINT: "machinectl reboot",
}
_SPACES = (("uts", libc.CLONE_NEWUTS), ("ipc", libc.CLONE_NEWIPC), ("net", libc.CLONE_NEWNET))
_ROOT = "/sys/fs/cgroup"


class Leader:
    """The process that stands for the pod, and the pipe on which it says what it was asked."""

    __slots__ = ("alive", "pid", "pipe")

    def __init__(self, rootfs: str, init_pid: int, binds: dict[str, str]) -> None:
        """Start it.  `binds` are directories of the host, by their place below the root."""
        spaces = [
            (os.open(f"/proc/{init_pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag)
            for name, flag in _SPACES
        ]
        self.pipe, write = os.pipe()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _lead(rootfs, spaces, binds, write)
        finally:
            os.close(write)
            for fd, _ in spaces:
                os.close(fd)
        self.alive = True
        if os.read(self.pipe, 1) != b"\0":
            log.debug("the leader of the machine could not be started")

    def ended(self, _code: int) -> None:
        """Take note that it was reaped: its number may be another's from now on."""
        self.alive = False

    def end(self) -> None:
        """End it."""
        if self.alive:
            self.alive = False
            os.kill(self.pid, sig.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.pipe)


def _lead(rootfs: str, spaces: list[tuple[int, int]], binds: dict[str, str], pipe: int) -> None:
    """Become the leader; never returns."""
    try:
        sig.set_wakeup_fd(-1)
        sig.pthread_sigmask(sig.SIG_SETMASK, REQUESTS)
        for number in (sig.SIGTERM, sig.SIGINT):
            sig.signal(number, sig.SIG_DFL)
        for number in (sig.SIGHUP, sig.SIGQUIT):
            sig.signal(number, sig.SIG_IGN)  # those of a terminal are the supervisor's
        os.setsid()
        for fd, flag in spaces:
            libc.setns(fd, flag)
        _enter(rootfs, binds)
        libc.drop_bounding_capabilities()
        os.setgroups([])
        os.setresgid(sandbox.UID, sandbox.UID, sandbox.UID)
        os.setresuid(sandbox.UID, sandbox.UID, sandbox.UID)
        libc.clear_capabilities()
        libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
        os.dup2(pipe, 3)
        null = os.open("/", os.O_RDONLY)  # the pod's stage1 directory has no /dev/null
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(4, 1 << 16)
        os.write(3, b"\0")
        while True:
            os.write(3, bytes((sig.sigwait(REQUESTS),)))
    except BaseException:  # noqa: BLE001 - a forked child: the closed pipe says it
        pass
    finally:
        os._exit(1)


def _enter(rootfs: str, binds: dict[str, str]) -> None:
    """Have a root, read-only, with nothing but what the host's tools look for in a machine's.

    It cannot be the stage1 directory itself: `run` is a program there, and journalctl complains.
    """
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    top = f"{rootfs}/tmp"  # noqa: S108 - the pod's own
    flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
    libc.mount("machine", top, "tmpfs", flags, "mode=755,size=64k")
    for place in ("etc", "proc", "run", *binds):
        os.makedirs(f"{top}/{place}", 0o755)
    for name in ("os-release", "machine-id"):
        with open(f"{rootfs}/etc/{name}", "rb") as source, open(f"{top}/etc/{name}", "wb") as copy:
            copy.write(source.read())
    for place, directory in binds.items():
        libc.mount(directory, f"{top}/{place}", flags=libc.MS_BIND)
    # machined's own processes need it here, and in the PID namespace that the leader is in.
    libc.mount("proc", f"{top}/proc", "proc", flags, "hidepid=2")
    libc.mount("", top, flags=libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | flags)
    os.chdir(top)
    libc.pivot_root(".", ".")
    libc.umount(".", libc.MNT_DETACH)
    os.chdir("/")


def in_unit(own: str, *, main: bool) -> bool:
    """Say whether the pod's machine is to be the unit that rkt runs in, by its cgroup.

    That is so for the main process of a service, and in a service that delegates its cgroup; in a
    session, or below a daemon that only happens to start rkt, the machine gets a scope of its own.
    """
    service = own.rpartition("/")[2].endswith(".service") and "/user@" not in own
    return service and (main or delegates(own))


def delegates(own: str) -> bool:
    """Say whether systemd has left the cgroup of a unit to it."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            return os.getxattr(f"{_ROOT}{own}", name) == b"1"
        except OSError:
            continue
    return False


def register(uuid: str, leader: int, *, scope: bool, stop_timeout: float) -> bool:
    """Make the pod known as `rkt-UUID`; False, and a line of --debug, if that cannot be.

    With `scope` systemd makes one for it and moves the leader there.
    """
    arguments: tuple[dbus.Value, ...] = (
        ("s", f"rkt-{uuid}"), ("ay", bytes.fromhex(uuid.replace("-", ""))), ("s", "rkt"),
        ("s", "container"), ("u", leader), ("s", ""),
    )  # fmt: skip
    member = "RegisterMachine"
    if scope:
        member = "CreateMachine"
        properties = [("Description", "s", f"rkt pod {uuid}"),
                      ("TimeoutStopUSec", "t", int((stop_timeout + 5) * 1_000_000))]  # fmt: skip
        arguments += (("a(sv)", properties),)
    return _call(member, arguments, timeout=10.0)


def unregister(uuid: str) -> None:
    """Let the pod be forgotten; nobody there to hear it is as good."""
    _call("UnregisterMachine", (("s", f"rkt-{uuid}"),), timeout=5.0)


def _call(member: str, arguments: tuple[dbus.Value, ...], *, timeout: float) -> bool:
    try:
        bus = dbus.Bus(timeout=timeout)
    except dbus.CallError as err:
        log.debug(f"machined: {describe(err)}")
        return False
    try:
        bus.call(_NAME, _PATH, member, arguments, interface=_MANAGER)
    except dbus.CallError as err:
        log.debug(f"machined: {member}: {describe(err)}")
        return False
    finally:
        bus.close()
    return True


def use_scope(layout: Layout, leader: int) -> None:
    """Have the pod's cgroups below the scope of its machine, where the leader steps aside."""
    if not layout.unified:
        return
    with open(f"/proc/{leader}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    if not own.endswith(".scope"):
        return
    aside = f"{_ROOT}{own}/supervisor"
    try:
        os.makedirs(aside, 0o755, exist_ok=True)
        with open(f"{aside}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(leader))
    except OSError as err:
        log.debug(f'cannot use the scope "{own}": {err.strerror}')
        return
    layout.own = own
