"""Choosing and driving the OCI runtime."""

from __future__ import annotations

import os

from rkt import log, quickjson
from rkt.errors import NotFound
from rkt.linux import libc, proc
from rkt.stage1.host import cgroup

RUNTIME_ENV = "RKT_OCI_RUNTIME"
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/crun"
_UNIFIED = f"{cgroup.ROOT}/unified"
_LOG_LIMIT = 1 << 20
_HINT = "install crun or runc (Debian: apt install crun, Fedora: dnf install crun)"


def environment() -> dict[str, str]:
    """Give the environment that the runtime runs in."""
    return dict(proc.BASE_ENV)


class Runtime:
    """An OCI runtime on this host; keeps its state below the pod directory."""

    __slots__ = ("name", "path", "state")

    def __init__(self, path: str, pod_dir: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.state = f"{pod_dir}/runtime"

    @property
    def forgets_by_removal(self) -> bool:
        """Whether removing state and cgroups is all that its `delete` would do."""
        return self.name in ("crun", "runc", "fly", "unit")

    def base(self, log_file: str = "") -> list[str]:
        """Give the beginning of each command line."""
        argv = [self.path, "--root", self.state]
        if log_file:
            argv += ["--log", log_file, "--log-format", "json"]
        return argv

    def run_argv(self, ident: str, bundle: str, console: str = "", *, passed: int = 0) -> list[str]:
        """Give the command that creates and starts a container and returns.

        So many of its descriptors from 3 on are the container's as well.
        """
        argv = [*self.base(f"{bundle}/log"), "run", "--detach", "--bundle", bundle]
        argv += ["--pid-file", f"{bundle}/pid"]
        if console:
            argv += ["--console-socket", console]
        if passed:
            argv += ["--preserve-fds", str(passed)]
        return [*argv, ident]

    def exec_argv(
        self, ident: str, process: str, pid_file: str, *, console: str = "", log_file: str = ""
    ) -> list[str]:
        """Give the command that starts a process in a running container and returns."""
        argv = [*self.base(log_file), "exec", "--detach", "--process", process]
        if console:
            argv += ["--console-socket", console]
        return [*argv, "--pid-file", pid_file, ident]

    def delete_argv(self, ident: str) -> list[str]:
        """Give the command that forgets a container and kills what is left of it."""
        return [*self.base(), "delete", "--force", ident]

    def delete(self, ident: str) -> None:
        """Let the runtime forget a container; failures are of no interest."""
        proc.run(self.delete_argv(ident), check=False, timeout=30)


def choose(pod_dir: str, layout: cgroup.Layout, wanted: str, have: tuple[str, ...]) -> Runtime:
    """Pick crun where it works, else runc; `wanted` (a name or a path) overrides.

    Must be called in a mount namespace of the pod's own: on a hybrid host the version 2 tree is
    hidden for the sake of crun.  Raises NotFound with a hint when there is no runtime.
    """
    if wanted:
        path = proc.find_program(wanted, _SEARCH)
        if path is None:
            raise NotFound(f'OCI runtime "{wanted}": no such program', hint=_HINT)
        if os.path.basename(path) == "crun":
            hide_unified(layout)
            catch_directories(layout)
        return Runtime(path, pod_dir)
    crun = proc.find_program("crun", _SEARCH)
    runc = proc.find_program("runc", _SEARCH)
    if crun and (not runc or (_crun_may_work(layout, have) and hide_unified(layout))):
        catch_directories(layout)
        return Runtime(crun, pod_dir)
    if runc:
        return Runtime(runc, pod_dir)
    raise NotFound("no OCI runtime found: neither crun nor runc is installed", hint=_HINT)


def _crun_may_work(layout: cgroup.Layout, have: tuple[str, ...]) -> bool:
    # On a version 2 tree crun loads a device program, which needs to raise RLIMIT_MEMLOCK.
    return not layout.unified or "CAP_SYS_RESOURCE" in have


def hide_unified(layout: cgroup.Layout) -> bool:
    """Hide a hybrid host's version 2 tree from this mount namespace; crun 1.8 fails seeing it."""
    if not layout.hybrid or _UNIFIED not in layout.hierarchies:
        return True
    if not cgroup.has_controllers(_UNIFIED):
        return True
    try:
        _cover(_UNIFIED)
    except OSError as err:
        log.debug(f'cannot hide "{_UNIFIED}": {err.strerror}')
        return False
    layout.hierarchies.remove(_UNIFIED)
    return True


def catch_directories(layout: cgroup.Layout) -> None:
    """Let what crun makes where a version 1 hierarchy is not mounted end with this mount namespace.

    /proc/self/cgroup names such a hierarchy all the same, and the directories that crun makes for
    it would stay in the host's file system, where nobody looks for them.
    """
    if layout.unified or not layout.hierarchies:
        return
    with os.scandir(cgroup.ROOT) as entries:
        places = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for place in places:
        if not os.path.ismount(place):
            try:
                _cover(place)
            except OSError as err:
                log.debug(f'cannot cover "{place}": {err.strerror}')


def _cover(place: str) -> None:
    libc.mount("tmpfs", place, "tmpfs", 0, "size=64k,mode=755")


def write_bundle(path: str, config: dict[str, object]) -> None:
    """Write a bundle directory."""
    os.mkdir(path, 0o700)
    with open(f"{path}/config.json", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(quickjson.dumps(config))


def failure_text(bundle: str, output: bytes) -> str:
    """Give the last error that a runtime logged, else the end of what it wrote."""
    return logged(f"{bundle}/log", output)


def logged(path: str, output: bytes) -> str:
    """Give the last error in a runtime's log file, else the end of what it wrote."""
    text = ""
    try:
        with open(path, "rb") as file:
            lines = file.read(_LOG_LIMIT).decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            entry = quickjson.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            text = str(entry.get("msg", ""))
    if not text:
        tail = output.decode("utf-8", "replace").strip().splitlines()
        text = tail[-1] if tail else "no reason given"
    return " ".join(text.split())
