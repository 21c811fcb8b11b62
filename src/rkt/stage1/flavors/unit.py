"""The program `unit` of stage1-nspawn: called as an OCI runtime, it asks the pod's systemd.

    unit --root DIR [--log FILE] run --detach --bundle DIR --pid-file FILE [--console-socket S]
         [--preserve-fds N] ID
    unit --root DIR exec [--detach --pid-file FILE] --process FILE ID
    unit --root DIR delete --force ID

An app is a transient unit; its streams are those that this program was started with.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from rkt.errors import KernelError, PodStateError, RktError, describe
from rkt.linux import atomic, libc, sig
from rkt.stage1.app import manifest
from rkt.stage1.flavors import called, flyexec, unitproperties
from rkt.stage1.host import dbus
from rkt.stage1.supervision import children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from rkt.stage1.flavors.unitproperties import Property

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_NAME}.Manager"
_SOCKET = "/run/systemd/private"
_PATIENCE = 60.0
_GONE = (1 << 31) - 1
"""A number that no process has: the app ended before it could be asked for."""
# systemd.exec(5), "Process Exit Codes": what went wrong before the app's program was there.
_STEPS = {
    200: "change to its working directory", 202: "close descriptors", 203: "execute its program",
    206: "lower its OOM score", 208: "take its terminal", 209: "have its standard output",
    214: "set a limit", 216: "become its group", 217: "become its user",
    218: "limit its capabilities", 225: "make a network namespace",
    226: "make its mount namespace", 227: "give up new privileges",
    228: "filter its system calls", 229: "have its SELinux context", 233: "make a directory",
}  # fmt: skip
_SPACES = (
    libc.CLONE_NEWNS
    | libc.CLONE_NEWUTS
    | libc.CLONE_NEWIPC
    | libc.CLONE_NEWNET
    | libc.CLONE_NEWCGROUP
)


def main(argv: list[str]) -> int:
    """Start an app, start or become a process beside it, or forget it."""
    return called.guarded("unit", _serve, argv)


def _serve(verb: str, ident: str, values: dict[str, str]) -> int:
    base = os.path.dirname(values["root"])
    bundle = values.get("bundle") or f"{base}/bundle/{ident}"
    config = manifest.read_json(f"{bundle}/config.json", f'configuration of "{ident}"')
    if verb == "exec":
        return _exec(bundle, values)
    if verb == "run":
        _run(ident, bundle, config, values)
    else:
        _delete(bundle, config)
    return 0


def _in_pod(init: int, ask: Callable[[Manager], int]) -> int:
    """Ask the pod's systemd as a child in its PID namespace: it hears nobody whom it cannot see.

    Gives the number that came out; the child's failure is raised.
    """
    read, write = os.pipe()
    try:
        pidfd = os.pidfd_open(init)
        libc.setns(pidfd, libc.CLONE_NEWPID)
        pid = os.fork()
    except OSError as err:
        raise KernelError("cannot join the PID namespace of the pod", err) from err
    if pid == 0:
        _ask(init, pidfd, ask, write)
    os.close(pidfd)
    os.close(write)
    answer = b""
    while piece := os.read(read, 4096):
        answer += piece
    os.waitpid(pid, 0)
    if not answer.isdigit():
        raise RktError(answer.decode("utf-8", "replace") or "the pod has ended")
    return int(answer)


def _ask(init: int, pidfd: int, ask: Callable[[Manager], int], write: int) -> NoReturn:
    try:
        libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
        # Apps see this process: there must be nothing of the host to be had from it.
        _enter(init, pidfd, libc.CLONE_NEWNS | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS)
        libc.drop_all_capabilities()
        manager = Manager()
        os.write(write, b"%d" % ask(manager))
    except (RktError, OSError) as err:
        os.write(write, describe(err).encode())
    finally:
        os._exit(0)


class Manager(dbus.Bus):
    """The systemd of a pod, reached by its own socket: there is no bus in the pod."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}
        super().__init__(timeout=_PATIENCE, path=_SOCKET, direct=True)
        self.what = "the pod's systemd"

    def heard(self, member: str) -> None:
        """Keep the results of jobs."""
        if member == "JobRemoved":
            job, at = _text(self.body, 4)
            _, at = _text(self.body, at)
            self.done[job], _ = _text(self.body, at)

    def start(self, name: str, properties: list[Property], fds: tuple[int, ...]) -> str:
        """Start a transient unit; gives the result of the job."""
        arguments: tuple[dbus.Value, ...] = (
            ("s", name), ("s", "fail"), ("a(sv)", properties), ("a(sa(sv))", []),
        )  # fmt: skip
        self.call(_NAME, _PATH, "StartTransientUnit", arguments, interface=_MANAGER, fds=fds)
        job, _ = _text(self.body, 0)
        while job not in self.done:
            self.wait_for_signal()
        return self.done[job]

    def number(self, unit: str, name: str) -> int:
        """Give a property of a service; 0 if there is no such unit any more."""
        path = f"{_PATH}/unit/{_escaped(unit)}"
        wanted = (("s", f"{_NAME}.Service"), ("s", name))
        try:
            self.call(_NAME, path, "Get", wanted, interface="org.freedesktop.DBus.Properties")
        except dbus.CallError as err:
            if err.name:
                return 0
            raise
        return int(struct.unpack_from("<I", self.body, 4)[0])

    def forget(self, unit: str) -> None:
        """Let a unit that failed be forgotten; one that is not known is no error."""
        try:
            self.call(_NAME, _PATH, "ResetFailedUnit", (("s", unit),), interface=_MANAGER)
        except dbus.CallError as err:
            if not err.name:
                raise


def _text(body: bytes, at: int) -> tuple[str, int]:
    at += -at % 4
    try:
        (size,) = struct.unpack_from("<I", body, at)
        return body[at + 4 : at + 4 + size].decode("utf-8", "replace"), at + 5 + size
    except struct.error as err:
        raise dbus.CallError("", "something that is no message came by D-Bus") from err


def _escaped(unit: str) -> str:
    """Give the last part of a unit's D-Bus path."""
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):02x}" for c in unit)


def _place(config: dict[str, object]) -> tuple[int, str]:
    place = manifest.mapping(config, "machine", "configuration")
    init = manifest.integer(place, "init", "configuration")
    return init, manifest.string(place, "cgroup", "configuration")


def _run(ident: str, bundle: str, config: dict[str, object], values: dict[str, str]) -> None:
    init, group = _place(config)
    key = f"{ident}-{os.getpid()}"
    unit = f"{key}.service"
    process = manifest.mapping(config, "process", "configuration")
    properties = [
        (str(item[0]), str(item[1]), _typed(str(item[1]), item[2]))
        for item in manifest.sequence(config, "unit", "configuration")
        if isinstance(item, list)
    ]
    properties += unitproperties.of_process(process, key)
    sockets = int(values.get("preserve-fds", "0"))
    master = -1
    streams = {"Input": 0, "Output": 1, "Error": 2}
    if manifest.flag(process, "terminal", "process"):
        master, number = _terminal(init, process)
        properties += [
            ("StandardInput", "s", "tty-force"), ("StandardOutput", "s", "tty"),
            ("StandardError", "s", "tty"), ("TTYPath", "s", f"/dev/pts/{number}"),
        ]  # fmt: skip
        streams = {}
    if sockets:
        if master >= 0:  # systemd wants all three of them, or none
            slave = _slave(master)
            streams = {"Input": slave, "Output": slave, "Error": slave}
        streams["Error"] = _message([streams["Error"], *range(3, 3 + sockets)])
    fds = tuple(streams.values())
    properties += [
        (f"Standard{name}FileDescriptor", "h", number) for number, name in enumerate(streams)
    ]
    atomic.write_file(f"{bundle}/unit", key.encode(), durable=False)

    inside = _in_pod(init, lambda manager: start(manager, unit, properties, fds))
    if master >= 0:
        flyexec.send(values["console-socket"], master)
    pid = _outside(f"{group}/{unitproperties.slice_of(ident.partition('.')[0])}/{unit}", inside)
    atomic.write_file(values["pid-file"], b"%d" % pid, durable=False)


def start(
    manager: Manager, unit: str, properties: list[Property], fds: tuple[int, ...]
) -> int:  # fmt: skip
    """Start the unit; gives its process.  Raises RktError with the step that failed.

    systemd looks at a process that ended before it looks whether that had been executed: an app
    that fails at once may be told as a start that failed.
    """
    result = manager.start(unit, properties, fds)
    pid = manager.number(unit, "ExecMainPID")
    if result != "done":
        status = manager.number(unit, "ExecMainStatus")
        if result != "failed" or not pid or status in _STEPS:
            step = _STEPS.get(status, f"start it ({result}, status {status})")
            raise RktError(f"the pod's systemd could not {step}")
    return pid


def _message(fds: list[int]) -> int:
    """Give a unix socket on which a message with descriptors waits.

    systemd gives a service its streams, and no others that were opened before: the program that
    announces the sockets (listen.c) takes them from there, and the app's standard error with them.
    """
    import _socket

    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    data = b"".join(fd.to_bytes(4, "little") for fd in fds)
    ours.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)])
    ours.close()
    return theirs.detach()


def _typed(kind: str, value: object) -> object:
    """Give a property that came as JSON, which has no tuples, the form that `dbus` takes."""
    if kind.startswith("("):
        return tuple(value) if isinstance(value, list) else value
    if kind.startswith("a(") and isinstance(value, list):
        return [tuple(item) for item in value]
    return value


def _outside(group: str, inside: int) -> int:
    """Give the number that a process of the pod has on the host."""
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            pids = [int(word) for word in file.read().split()]
    except OSError:
        return _GONE
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                line = next((line for line in file if line.startswith("NSpid:")), "")
        except OSError:
            continue
        if inside and line.split()[-1:] == [str(inside)]:
            return pid
    return _GONE


def _terminal(init: int, process: dict[str, object]) -> tuple[int, int]:
    """Make a terminal in the pod's /dev/pts; gives its master side and its number."""
    path = f"/proc/{init}/root/dev/pts/ptmx"
    try:
        master = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = int(struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0])
        size = process.get("consoleSize")
        if isinstance(size, dict):
            form = struct.pack("HHHH", int(size["height"]), int(size["width"]), 0, 0)
            fcntl.ioctl(master, termios.TIOCSWINSZ, form)
    except OSError as err:
        raise KernelError("cannot make a terminal", err, path) from err
    return master, number


def _slave(master: int) -> int:
    try:
        return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as err:
        raise KernelError("cannot open a terminal", err) from err


_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431


def _delete(bundle: str, config: dict[str, object]) -> None:
    try:
        with open(f"{bundle}/unit", encoding="ascii") as file:
            key = file.read()
    except FileNotFoundError:
        return

    def forget(manager: Manager) -> int:
        manager.forget(f"{key}.service")
        return 0

    _in_pod(_place(config)[0], forget)


def _exec(bundle: str, values: dict[str, str]) -> int:
    """Start a process in the namespaces and the control group of an app's main process."""
    process = manifest.read_json(values["process"], "process", follow=True)
    config = manifest.read_json(f"{bundle}/config.json", "configuration")
    start = Joined(process, _place(config)[0], f"{bundle}/pid")
    if "detach" in values:
        flyexec.start_beside(start, values["pid-file"], values.get("console-socket", ""))
        return 0
    return _beside(start)


class Joined(flyexec.Start):
    """A process to be, beside the main process of an app."""

    def __init__(self, process: dict[str, object], init: int, pid_file: str) -> None:
        super().__init__({"root": {"path": "/"}, "fly": {"cgroup": ""}}, {"process": process})
        self.process = process
        self.init = init
        try:
            with open(pid_file, encoding="ascii") as file:
                self.pid = int(file.read())
            self.pidfd = os.pidfd_open(self.pid)
            libc.setns(self.pidfd, libc.CLONE_NEWPID)  # for children of this process
        except (OSError, ValueError):
            raise PodStateError("the app is not running") from None

    def open_terminal(self) -> tuple[int, int]:
        """Have the terminal in the pod's /dev/pts, where the app can find its name."""
        master, _ = _terminal(self.init, self.process)
        return master, _slave(master)

    def become(self, supervisor: int = 0) -> NoReturn:
        """Join the app, then replace this process.  Raises RktError."""
        del supervisor  # it cannot be seen from here; the end of the pod ends all that is in it
        step = "join the app's control group"
        try:
            _enter_group(self.pid)
            step = "join the app's namespaces"
            _enter(self.pid, self.pidfd, _SPACES)
        except OSError as err:
            raise KernelError(f"cannot {step}", err) from err
        super().become()


def _enter(pid: int, pidfd: int, spaces: int) -> None:
    """Join namespaces of a process, and have its root."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    libc.setns(pidfd, spaces)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)


def _enter_group(pid: int) -> None:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        group = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        path = f"{top}{group}/cgroup.procs"
        if group and os.path.exists(path):
            with open(path, "w", encoding="ascii") as procs:
                procs.write("0")
            return


def _beside(start: Joined) -> int:
    """Have a child be the process, for only children are in the PID namespace; give its status."""
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
            start.become()
        except (RktError, OSError) as err:
            os.write(2, f"rkt: {describe(err)}\n".encode())
        finally:
            os._exit(254)
    for number in (sig.SIGTERM, sig.SIGINT, sig.SIGHUP, sig.SIGQUIT):
        sig.signal(number, lambda got, _: children.kill(pid, got))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - status if status < 0 else status
