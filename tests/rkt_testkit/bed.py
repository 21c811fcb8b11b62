"""A machine with systemd: a real one as PID 1 of namespaces, over an overlay of this machine.

Booted in about a second, gone with its keeper (bed.sh) whatever becomes of the tests.  rkt is
installed in it as `make install` does it.  cgroup version 2 is there, controllers are not.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from rkt_testkit.context import PATIENCE, TIMEOUT, UUID, Result
from rkt_testkit.probes import REPOSITORY, SEARCH

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bed.sh")
_ENV = {"PATH": SEARCH, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0"}
_POD = re.compile(rf"rkt-(?:{UUID.pattern})")


def install(base: str) -> str:
    """Install rkt once below a directory that parallel runs share; gives what to copy over /."""
    target = f"{base}/bed-install"
    with open(f"{base}/bed-install.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(f"{target}/done"):
            subprocess.run(
                ["scripts/install", target, "/usr/local", "/etc"], cwd=REPOSITORY, check=True,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            os.mkdir(f"{target}/done")
    os.chmod(target, 0o755)
    return target


class Bed:
    """The booted machine."""

    def __init__(self, lower: str) -> None:
        self.work = tempfile.mkdtemp(prefix="rkt-test-bed-")
        os.chmod(self.work, 0o755)
        self.files = f"{self.work}/files"
        """Seen by both sides under this path."""
        for name in ("files", "top"):
            os.mkdir(f"{self.work}/{name}")
        self._keeper = subprocess.Popen(
            ["bash", SCRIPT, "keep", "bed", self.work, lower, self.files],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            assert self._keeper.stdout is not None
            self._unshare = int(self._keeper.stdout.readline())
            self.wait_for(self._booted)
            self.pid = self._child()
        except BaseException:
            self.close(check=False)
            raise

    def _booted(self) -> bool:
        assert os.path.exists(f"/proc/{self._unshare}/ns/pid"), f"it did not boot\n{self._log()}"
        return os.path.exists(f"{self.files}/ready")

    def _child(self) -> int:
        with open(f"/proc/{self._unshare}/task/{self._unshare}/children", encoding="ascii") as file:
            return int(file.read())

    @property
    def root(self) -> str:
        """A path by which this process sees the machine's files."""
        return f"/proc/{self.pid}/root"

    # --- commands --------------------------------------------------------------------------------

    def argv(self, *argv: str) -> list[str]:
        """Give the words that run a command beside systemd, in no unit: for its own tools only."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--net",
                "--cgroup", "--root", "--wd=/", "--", *argv]  # fmt: skip

    def tool(self, *argv: str, status: int | None = 0, timeout: float = TIMEOUT) -> Result:
        """Run systemctl, machinectl, journalctl and the like."""
        return self._run(self.argv(*argv), status, timeout)

    def job(
        self, *argv: str, properties: tuple[str, ...] = (), status: int | None = 0,
        options: tuple[str, ...] = (), timeout: float = TIMEOUT,
    ) -> Result:  # fmt: skip
        """Run a command to its end in a transient service."""
        words = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet", *options]
        words += [f"--property={text}" for text in properties]
        return self._run(self.argv(*words, "--", *argv), status, timeout)

    def rkt(self, *args: str, status: int | None = 0, properties: tuple[str, ...] = ()) -> Result:
        """Run a rkt command to its end in a transient service that delegates its cgroup."""
        return self.job("rkt", *args, status=status, properties=("Delegate=yes", *properties))

    def start(
        self, unit: str, *argv: str, properties: tuple[str, ...] = (), status: int | None = 0
    ) -> Result:
        """Start a transient service; returns when systemd says that it is started."""
        words = ["systemd-run", "--quiet", f"--unit={unit}", "--property=Delegate=yes"]
        words += [f"--property={text}" for text in properties]
        return self._run(self.argv(*words, "--", *argv), status, TIMEOUT)

    def spawn(self, *argv: str) -> subprocess.Popen[str]:
        """Start one of systemd's tools; its output is to be had from the pipe."""
        tied = ("setpriv", "--pdeathsig", "KILL", *argv)  # to nsenter, which is what one can end
        return subprocess.Popen(
            self.argv(*tied), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=_ENV
        )

    def _run(self, argv: list[str], status: int | None, timeout: float) -> Result:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False, env=_ENV, timeout=timeout,
        )  # fmt: skip
        assert status is None or done.returncode == status, (
            f"{' '.join(argv[12:])}: exit status {done.returncode}, expected {status}\n"
            f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        )
        return Result(done.returncode, done.stdout, done.stderr)

    # --- state -----------------------------------------------------------------------------------

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        os.makedirs(os.path.dirname(f"{self.root}{path}"), exist_ok=True)
        with open(f"{self.root}{path}", "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, path: str) -> str:
        """Read a file of the machine."""
        with open(f"{self.root}{path}", encoding="utf-8", errors="replace") as file:
            return file.read()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Give properties of a unit."""
        done = self.tool("systemctl", "show", *(f"--property={name}" for name in names), unit)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def pods(self, state: str = "run") -> list[str]:
        """Give the pods in a state directory."""
        path = f"{self.root}/var/lib/rkt/pods/{state}"
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def wait_for(self, what: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Wait until something holds; fails when it does not come to be in time."""
        deadline = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < deadline, f"it did not come to be in time\n{self._log()}"
            time.sleep(0.02)

    def _log(self) -> str:
        with open(f"{self.work}/boot.log", encoding="utf-8", errors="replace") as file:
            return file.read()

    # --- the end ---------------------------------------------------------------------------------

    def leaked(self) -> list[str]:
        """Name what pods left on the machine (running pods show up too)."""
        found = []
        for directory, names, _ in os.walk(f"{self.root}/sys/fs/cgroup"):
            found += [f"cgroup {directory}/{name}" for name in names if _POD.search(name)]
        with open(f"/proc/{self.pid}/mountinfo", encoding="utf-8") as file:
            found += [f"mount {line.split()[4]}" for line in file if "/var/lib/rkt/pods" in line]
        listed = self.tool("machinectl", "list", "--no-legend", status=None).stdout
        return found + [f"machine {line}" for line in listed.splitlines() if _POD.search(line)]

    def clean(self) -> None:
        """Collect all pods; assert that nothing of them is left, also for the next test."""
        self._collect()
        deadline = time.monotonic() + PATIENCE
        while (left := self.leaked()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            for verb in ("stop", "reset-failed"):
                self.tool("systemctl", verb, "pod.service", status=None)
            self._collect()
        assert not left, "left on the machine:\n" + "\n".join(left)

    def _collect(self) -> None:
        for _ in range(2):
            self.rkt("gc", "--grace-period=0s")

    def close(self, *, check: bool = True) -> None:
        """Switch the machine off; asserts that it left nothing behind."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait(30)
        shutil.rmtree(self.work, ignore_errors=True)
        groups = [
            place
            for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
            if os.path.isdir(top)
            for place in os.listdir(top)
            if place == f"rkt-bed-bed-{self._keeper.pid}"
        ]
        assert not (check and groups), f"left on the host: {groups}"
