"""The program `fly` of stage1-fly: called as an OCI runtime, it changes the root and no more.

    fly --root DIR [--log FILE …] run --detach --bundle DIR --pid-file FILE [--console-socket S]
        [--preserve-fds N] ID
    fly --root DIR exec [--detach --pid-file FILE] --process FILE ID
    fly --root DIR delete --force ID

A started process is a child of the supervisor, not of this program, and the kernel kills it when
the supervisor dies.
"""

from __future__ import annotations

import os

from rkt.errors import KernelError, RktError, UsageError, describe
from rkt.linux import atomic, caps, libc, proc, sig
from rkt.stage1.app import manifest
from rkt.stage1.flavors import called

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_WORD = 4096


def main(argv: list[str]) -> int:
    """Start a process, become one, or forget one."""
    return called.guarded("fly", _serve, argv)


def _serve(verb: str, ident: str, values: dict[str, str]) -> int:
    if verb == "run":
        bundle = values["bundle"]
        config = manifest.read_json(f"{bundle}/config.json", f'configuration of "{ident}"')
        start = Start(config, config)
        if "preserve-fds" in values:
            start.sockets, start.socket_names = _sockets(config)
        start_beside(start, values["pid-file"], values.get("console-socket", ""))
    elif verb == "exec":
        base = os.path.dirname(values["root"])
        path = f"{base}/bundle/{ident}/config.json"
        config = manifest.read_json(path, f'configuration of "{ident}"')
        process = manifest.read_json(values["process"], "process", follow=True)
        start = Start(config, {"process": process})
        if "detach" not in values:
            start.become()
        start_beside(start, values["pid-file"], "")
    return 0


def _sockets(config: dict[str, object]) -> tuple[int, str]:
    own = manifest.mapping(config, "fly", "configuration")
    return (
        manifest.integer(own, "sockets", "configuration"),
        manifest.string(own, "socketNames", "configuration"),
    )  # fmt: skip


class Start:
    """A process to be, from the parts of an OCI configuration that `spec.process` writes."""

    def __init__(self, config: dict[str, object], wanted: dict[str, object]) -> None:
        where = "configuration"
        process = manifest.mapping(wanted, "process", where)
        user = manifest.mapping(process, "user", where)
        self.root = manifest.string(manifest.mapping(config, "root", where), "path", where)
        self.group = manifest.string(manifest.mapping(config, "fly", where), "cgroup", where)
        self.args = manifest.strings(process, "args", where)
        self.cwd = manifest.string(process, "cwd", where)
        self.env = {
            name: value
            for name, _, value in (
                item.partition("=") for item in manifest.strings(process, "env", where)
            )
        }
        self.uid = manifest.integer(user, "uid", where)
        self.gid = manifest.integer(user, "gid", where)
        self.groups = [
            gid for gid in manifest.sequence(user, "additionalGids", where) if isinstance(gid, int)
        ]
        limits = manifest.mapping(process, "capabilities", where)
        keep = set(manifest.strings(limits, "bounding", where))
        self.bounding = {n for n, name in enumerate(caps.NAMES) if name in keep}
        self.no_new_privileges = bool(manifest.flag(process, "noNewPrivileges", where))
        self.terminal = bool(manifest.flag(process, "terminal", where))
        self.sockets = 0  # its descriptors from 3 on
        self.socket_names = ""
        if not self.args or not self.root:
            raise UsageError("fly: nothing to execute")

    def open_terminal(self) -> tuple[int, int]:
        """Give the two sides of a terminal."""
        return os.openpty()

    def become(self, supervisor: int = 0) -> NoReturn:
        """Replace this process; with `supervisor` as one that dies with it.  Raises RktError."""
        step, path = "close what the caller left open", ""
        try:
            proc.close_on_exec(3 + self.sockets)
            step, path = "join the control group", self.group
            if self.group:
                with open(f"{self.group}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(f"{os.getpid()}\n")
            step, path = "change the root", self.root
            os.chroot(self.root)
            step, path = "change the directory", self.cwd
            os.chdir(self.cwd or "/")
            step, path = f"become user {self.uid} and group {self.gid}", ""
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid)
            # What the kernel knows and we do not is kept too: nothing is to be taken away.
            known = set(range(len(caps.NAMES)))
            libc.limit_bounding_capabilities(self.bounding | (set(range(64)) - known))
            os.setresuid(self.uid, self.uid, self.uid)
            if self.no_new_privileges:
                libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
            if supervisor:
                # After the change of user, which clears it.
                libc.prctl(libc.PR_SET_PDEATHSIG, sig.SIGKILL)
                if os.getppid() != supervisor:
                    os._exit(128 + sig.SIGKILL)
            os.umask(0o022)
            for number in (sig.SIGPIPE, sig.SIGXFSZ):
                sig.signal(number, sig.SIG_DFL)
            if self.sockets:
                self.env["LISTEN_FDS"] = str(self.sockets)
                self.env["LISTEN_PID"] = str(os.getpid())
                if self.socket_names:
                    self.env["LISTEN_FDNAMES"] = self.socket_names
            step, path = "execute", self.args[0]
            os.execvpe(self.args[0], self.args, self.env)
        except OSError as err:
            raise KernelError(f"cannot {step}", err, path) from err


def start_beside(start: Start, pid_file: str, console: str) -> None:
    """Start the process beside this one; returns when it executes its program, or raises."""
    supervisor = os.getppid()
    master = slave = -1
    if start.terminal:
        master, slave = start.open_terminal()
    read, write = os.pipe()
    try:
        pid = libc.fork_sibling()
    except OSError as err:
        raise KernelError("cannot start a process", err) from err
    if pid == 0:
        _child(start, write, slave, supervisor)
    os.close(write)
    text = b""
    while piece := os.read(read, _WORD):
        text += piece
    if text:
        raise RktError(text.decode("utf-8", "replace"))
    if console:
        send(console, master)
    atomic.write_file(pid_file, b"%d" % pid, durable=False)


def _child(start: Start, report: int, slave: int, supervisor: int) -> NoReturn:
    try:
        os.setsid()
        if slave >= 0:
            import fcntl
            import termios

            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.fchown(slave, start.uid, start.gid)
        start.become(supervisor)
    except (RktError, OSError) as err:
        os.write(report, describe(err).encode())
    finally:
        os._exit(255)


def send(path: str, fd: int) -> None:
    """Hand the terminal's master side to the supervisor."""
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        data = fd.to_bytes(4, "little")
        sock.sendmsg([b"terminal"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)])
    except OSError as err:
        raise KernelError("cannot hand over the terminal", err, path) from err
    finally:
        sock.close()
