"""The machine of a pod: systemd-nspawn and the host's own systemd in a root made for the pod.

Its root is a tmpfs with the host's /usr in it, read-only, without the host's units: what runs in
it is systemd and what this stage1 asks it for.
"""

from __future__ import annotations

import os

from rkt.errors import KernelError, NotFound, RktError, one_line
from rkt.linux import libc, proc, sig
from rkt.linux.caps import NAMES
from rkt.stage1.flavors import unitproperties
from rkt.stage1.host import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.app.spec import AppPlan
    from rkt.stage1.host.cgroup import Layout
    from rkt.stage1.supervision.children import Children
    from rkt.stage1.supervision.supervisor import Supervisor

OLDEST = 250
_BOOTED = "/run/systemd/system"
_INIT = "/usr/lib/systemd/systemd"
_READY = b"ready"
_PATIENCE = 90.0
_NSPAWN = "/run/systemd/nspawn"
_TARGET = "rkt.target"
_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_DIRECTORIES = ("dev", "etc", "etc/systemd/system", "opt/stage2", "proc", "rkt/volumes", "run",
                "sys", "tmp", "usr", "var")  # fmt: skip
# Units and generators of the host have no business in a pod.
_HIDDEN = ("system", "system-generators", "system-environment-generators", "system-preset",
           "system-shutdown", "system.conf.d")  # fmt: skip
_UNITS = {
    _TARGET: "[Unit]\nDefaultDependencies=no\nWants=rkt-ready.service\n",
    "rkt-ready.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n"
    f"ExecStart=/bin/sh -c 'echo ready >{unitproperties.ENDS}'\n",
}
_ENTER_GROUPS = (
    'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'
)


class Tools:
    """What the host has of systemd.  Raises RktError, in one line, for a host without it."""

    def __init__(self) -> None:
        if not os.path.isdir(_BOOTED):
            raise RktError("stage1-nspawn needs a host that systemd runs, and this one has another "
                           f'init ("{_BOOTED}" is missing)')  # fmt: skip
        nspawn = proc.find_program("systemd-nspawn")
        if nspawn is None:
            raise NotFound('stage1-nspawn: "systemd-nspawn" is not installed '
                           "(Debian: systemd-container)")  # fmt: skip
        if not os.access(_INIT, os.X_OK):
            raise NotFound(f'stage1-nspawn: "{_INIT}": no such program on this host')
        self.nspawn = nspawn
        done = proc.run([nspawn, "--version"], check=False, timeout=30)
        self.version = read_version(done.stdout)
        if self.version < OLDEST:
            raise RktError(f'stage1-nspawn: "{nspawn}" is of systemd {self.version}, at least '
                           f"{OLDEST} is needed")  # fmt: skip


def read_version(text: bytes) -> int:
    """Read what `systemd-nspawn --version` says; 0 if it is something else."""
    words = text.split()
    digits = words[1].split(b".")[0].split(b"~")[0] if len(words) > 1 else b""
    return int(digits) if words[:1] == [b"systemd"] and digits.isdigit() else 0


class Machine:
    """The root of the pod's systemd, and its process."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.pid = 0  # of the pod's systemd, as the host sees it
        self.alive = False
        self.ready = False
        self.on_end: Callable[[str, int], None] = lambda _key, _code: None
        self._nspawn = 0
        self._ends = -1
        self._partial = b""
        self._failure = ""

    # The root

    def make_root(self, os_release: str, uuid: str) -> None:
        """Make all that is there before the apps.  Raises KernelError."""
        try:
            os.makedirs(self.root, 0o755, exist_ok=True)
            flags = libc.MS_NOSUID | libc.MS_NODEV
            libc.mount("machine", self.root, "tmpfs", flags, "mode=755,size=16m")
            for name in _DIRECTORIES:
                os.makedirs(f"{self.root}/{name}", 0o755, exist_ok=True)
            self._lend("/usr", "usr", read_only=True)
            for name in _HIDDEN:
                path = f"{self.root}/usr/lib/systemd/{name}"
                if os.path.isdir(path):
                    libc.mount("none", path, "tmpfs", flags | libc.MS_RDONLY, "mode=755,size=4k")
            for name in _LINKS:
                if os.path.islink(f"/{name}"):
                    os.symlink(os.readlink(f"/{name}"), f"{self.root}/{name}")
                elif os.path.isdir(f"/{name}"):
                    os.mkdir(f"{self.root}/{name}", 0o755)
                    self._lend(f"/{name}", name, read_only=True)
            with open(os_release, "rb") as file:
                self._write("etc/os-release", file.read())
            self._write("etc/machine-id", f"{uuid.replace('-', '')}\n".encode())
            for name, text in _UNITS.items():
                self._write(f"etc/systemd/system/{name}", text.encode())
            path = f"{self.root}{unitproperties.ENDS}"
            os.mkfifo(path, 0o600)
            self._ends = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as err:
            raise KernelError("cannot make the root of the pod's systemd", err) from err

    def _write(self, path: str, data: bytes) -> None:
        with open(f"{self.root}/{path}", "wb") as file:
            file.write(data)

    def _lend(
        self, source: str, place: str, *, read_only: bool, recursive: bool = False,
        dev: bool = False,
    ) -> None:  # fmt: skip
        """Mount a clone; without `dev` the device nodes in it are none."""
        flags = libc.OPEN_TREE_CLONE | (libc.AT_RECURSIVE if recursive else 0)
        tree = libc.open_tree(source, flags)
        try:
            if read_only:
                libc.read_only_mount(tree, recursive=recursive)
            if not dev:
                libc.no_devices_mount(tree, recursive=recursive)
            libc.move_mount(tree, f"{self.root}/{place}")
        finally:
            os.close(tree)

    def add_app(self, plan: AppPlan) -> None:
        """Put an app's root and what is mounted in it where the pod's systemd finds them."""
        place = f"opt/stage2/{plan.name}"
        step, path = "lend the root file system", plan.root
        try:
            os.mkdir(f"{self.root}/{place}", 0o755)
            dev = plan.unprotected_paths
            self._lend(plan.root, place, read_only=plan.read_only_root, dev=dev)
            os.mkdir(f"{self.root}{unitproperties.VOLUMES}/{plan.name}", 0o755)
            step = "lend a volume"
            for number, bind in enumerate(plan.binds):
                place = f"{unitproperties.VOLUMES}/{plan.name}/{number}".lstrip("/")
                path = bind.source
                if os.path.isdir(path):
                    os.mkdir(f"{self.root}/{place}", 0o755)
                else:
                    self._write(place, b"")
                dev = plan.unprotected_paths or bind.device is not None
                self._lend(path, place, read_only=bind.read_only, recursive=bind.recursive, dev=dev)
        except OSError as err:
            raise KernelError(f"cannot {step}", err, path) from err

    def write_users(self, plans: list[AppPlan]) -> None:
        """Make the apps' users known by their numbers: systemd takes no others."""
        uids = {plan.uid: plan.gid for plan in plans}
        gids = {gid for plan in plans for gid in (plan.gid, *plan.groups)}
        uids[0] = 0
        users = [f"u{uid}:x:{uid}:{gid}::/:/bin/sh\n" for uid, gid in sorted(uids.items())]
        groups = [f"g{gid}:x:{gid}:\n" for gid in sorted(gids | {0})]
        try:
            self._write("etc/passwd", "".join(users).encode())
            self._write("etc/group", "".join(groups).encode())
        except OSError as err:
            raise KernelError("cannot make the users of the pod's systemd", err) from err

    # The process

    def start(self, argv: list[str], env: dict[str, str], groups: list[str],
              children: Children, log_file: str) -> None:  # fmt: skip
        """Start systemd-nspawn in control groups.  Raises RktError."""
        try:
            # What it leaves there when it is killed goes with the supervisor's mount namespace.
            os.makedirs(_NSPAWN, 0o755, exist_ok=True)
            libc.mount("nspawn", _NSPAWN, "tmpfs", libc.MS_NOSUID, "mode=755,size=1m")
            for group in groups:
                os.makedirs(group, 0o755, exist_ok=True)
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            out = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            words = ["/bin/sh", "-c", _ENTER_GROUPS, "systemd-nspawn", *groups, "--", *argv]
            self._nspawn = proc.spawn_tied(
                words, env={**proc.BASE_ENV, **env}, stdio=(null, out, out), keep=out
            )
            os.close(null)
            os.close(out)
        except OSError as err:
            raise KernelError("cannot start systemd-nspawn", err) from err
        self.alive = True
        self._log = log_file
        children.adopt(self._nspawn, self._ended)

    def wait_ready(self, supervisor: Supervisor, children: Children, grace: float) -> None:
        """Wait until systemd takes requests.  Raises RktError if it does not come up in time.

        A pod that is asked to end meanwhile has `grace` seconds to come up and do so in order.
        """
        loop = supervisor.loop
        loop.watch(self._ends, self.read_ends)
        timer = loop.after(_PATIENCE, self._give_up)
        asked = False
        while self.alive and not self.ready:
            if not loop.step(limit=1.0):
                children.reap()
            if supervisor.stopping and not asked:
                asked = True
                loop.cancel(timer)
                timer = loop.after(grace, self._give_up)
        loop.cancel(timer)
        if not self.alive:
            raise RktError(f"systemd-nspawn: {self._failure or self._last_words()}")
        with open(f"/proc/{self._nspawn}/task/{self._nspawn}/children", encoding="ascii") as file:
            pids = [int(word) for word in file.read().split()]
        if len(pids) != 1:
            raise RktError("systemd-nspawn: the pod's systemd cannot be told from its processes")
        self.pid = pids[0]

    def _give_up(self) -> None:
        self._failure = "the pod's systemd does not come up"
        self.kill()

    def _last_words(self) -> str:
        try:
            with open(self._log, "rb") as file:
                lines = file.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return one_line(lines[-1]) if lines else "it ended without saying why"

    def _ended(self, _code: int) -> None:
        self.read_ends()
        self.alive = False
        self.on_end("", 0)

    def read_ends(self) -> None:
        """Take note of what the reaper of units tells."""
        try:
            data = os.read(self._ends, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if line == _READY:
                self.ready = True
                continue
            words = line.decode("ascii", "replace").split()
            if len(words) == 3:
                self.on_end(words[0], read_end(words[1], words[2]))

    def kill(self) -> None:
        """Kill the pod's systemd, and so all of the pod."""
        if not self.alive:
            return
        target = self.pid or self._nspawn
        if identity.start_time(target):
            try:
                os.kill(target, sig.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Let go of the pipe."""
        if self._ends >= 0:
            os.close(self._ends)
            self._ends = -1


def read_end(how: str, what: str) -> int:
    """Read systemd's EXIT_CODE and EXIT_STATUS; gives an exit code, or minus a signal."""
    if how == "exited" and what.isdigit():
        return int(what)
    if what.isdigit():
        return -int(what)
    name, _, offset = what.partition("+")
    if name == "RTMIN":
        return -(sig.SIGRTMIN + int(offset or "0"))
    number = getattr(sig, f"SIG{what}", sig.SIGKILL)
    return -int(number)


def nspawn_argv(
    tools: Tools, root: str, uuid: str, hostname: str, *, network: str, caps: set[str],
    debug: bool = False,
) -> list[str]:  # fmt: skip
    """Give the command line; `network` is the path of a namespace, "" for the host's."""
    argv = [
        tools.nspawn, "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe",
        "--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        f"--directory={root}", f"--machine=rkt-{uuid}", f"--hostname={hostname}",
        f"--uuid={uuid.replace('-', '')}",
    ]  # fmt: skip
    if network:
        argv.append(f"--network-namespace-path={network}")
    if caps:
        names = [name for name in NAMES if name in caps]
        argv.append(f"--capability={','.join(names)}")
    target = "console" if debug else "null"
    return [*argv, "--", f"--unit={_TARGET}", f"--log-target={target}", "--show-status=0"]


def groups_of(layout: Layout, path: str) -> list[str]:
    """Give the directories of the control groups that systemd-nspawn is to be in."""
    return [
        f"{top}{path}/machine"
        for top in layout.hierarchies
        if (layout.unified and top == "/sys/fs/cgroup")
        or os.path.basename(top) in ("systemd", "unified")
    ]
