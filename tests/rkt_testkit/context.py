"""A machine of its own for one test: directories, mount and network namespace, leak checks."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rkt.linux import libc
from rkt_testkit import leaks, network
from rkt_testkit.probes import SEARCH, rkt_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIMEOUT = 60.0
PATIENCE = 45.0
_PREPARE = """
for place in /var/lib/cni /run/rkt; do
    mkdir -p $place && mount -t tmpfs -o mode=755 none $place || exit 1
done
ip link set lo up && echo ready && exec cat
"""


class Result(NamedTuple):
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, modes: list[Any]) -> None:
        self.process = process
        self._master = master
        self._modes = modes
        self.output = ""

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window; the kernel tells the foreground job."""
        termios.tcsetwinsize(self._master, (rows, columns))

    @property
    def is_restored(self) -> bool:
        """Whether the terminal's modes are those that the command found."""
        return termios.tcgetattr(self._master) == self._modes

    def write(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def read_until(self, wanted: str, timeout: float = TIMEOUT) -> str:
        """Read what appears until it contains something; fails when it does not come in time."""
        deadline = time.monotonic() + timeout
        while wanted not in self.output:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"{wanted!r} did not appear in:\n{self.output}")
        return self.output

    def expect(self, wanted: str, timeout: float = TIMEOUT) -> str:
        """Read until something appears that was not there yet; gives all that comes before it.

        It counts as read: the next call looks behind it.
        """
        self.read_until(wanted, timeout)
        before, _, self.output = self.output.partition(wanted)
        return before

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Read to the end and give the exit status."""
        status = self.finish(timeout)
        self.close()
        return status

    def finish(self, timeout: float = TIMEOUT) -> int:
        """Read to the end and give the exit status; the terminal stays for a look at its modes."""
        deadline = time.monotonic() + timeout
        while self._read(max(0.0, deadline - time.monotonic())):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
sys.stderr.write(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


class RktContext:
    """Runs rkt with directories and namespaces that belong to one test.

    All commands share one mount and one network namespace (loopback up, nothing else; CNI's leases
    and rkt's directory below /run are its own), held by a process that ends with the test.
    `close` asserts that no mount, interface, firewall rule, address lease, control group, temporary
    file or process outlived the commands.
    """

    def __init__(self) -> None:
        self.top = tempfile.mkdtemp(prefix="rkt-test-")
        os.chmod(self.top, 0o755)
        self.data = self._mkdir("data")
        self.system = self._mkdir("system")
        self.local = self._mkdir("local")
        self.tmp = self._mkdir("tmp")
        self.files = self._mkdir("files")
        """For the test's own use: images, volumes."""
        self.env: dict[str, str] = {"PATH": SEARCH, "LANG": "C.UTF-8", "TMPDIR": self.tmp}
        self.pods: set[str] = set()
        self._running: list[subprocess.Popen[bytes]] = []
        # Orphans of what the test starts come to this process: none can hide.
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        self._before_processes = leaks.descendants(os.getpid())
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "slave", "sh", "-c",
             _PREPARE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "no private namespaces"
        self._before = self._snapshot()
        if flavor := os.environ.get("RKT_TEST_STAGE1"):
            self.use_stage1(flavor)

    def use_stage1(self, flavor: str) -> None:
        """Give all pods another stage1 than the default one, by the operator's configuration."""
        images = os.path.dirname(os.path.dirname(os.path.abspath(rkt_binary())))
        location = f"{images}/lib/rkt/stage1-images/stage1-{flavor}.aci"
        assert os.path.isfile(location), f"{location} is not there"
        os.makedirs(f"{self.local}/stage1.d")
        with open(f"{self.local}/stage1.d/stage1.json", "w", encoding="ascii") as file:
            json.dump({"rktKind": "stage1", "rktVersion": "v1", "location": location}, file)

    def __enter__(self) -> RktContext:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(check=kind is None)

    def _mkdir(self, name: str) -> str:
        path = os.path.join(self.top, name)
        os.mkdir(path)
        return path

    # --- commands --------------------------------------------------------------------------------

    def argv(self, *args: str) -> list[str]:
        """Give the full command line of `rkt ARGS` inside the namespaces."""
        return [
            *self.enter_argv(), rkt_binary(), f"--dir={self.data}",
            f"--system-config={self.system}", f"--local-config={self.local}", *args,
        ]  # fmt: skip

    def root(self) -> str:
        """Give a path by which this process sees the files of the mount namespace."""
        return f"/proc/{self._holder.pid}/root"

    @property
    def holder(self) -> int:
        """The process that holds the namespaces."""
        return self._holder.pid

    def enter_argv(self) -> list[str]:
        """Give the words that make a command run inside the namespaces."""
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", "--"]

    def peak(self, *args: str, status: int = 0) -> int:
        """Run a rkt command; give the most memory (kB) that a process of it has taken."""
        # Started from a small process: what a process was before its exec counts too.
        done = self.run(["python3", "-I", "-c", _PEAK, *self.argv(*args)])
        assert done.status == status, done.stderr
        return int(done.stdout)

    def rkt(
        self, *args: str, status: int | None = 0, input: str = "",  # noqa: A002
        env: Mapping[str, str] | None = None, timeout: float = TIMEOUT,
    ) -> Result:  # fmt: skip
        """Run a rkt command to its end; asserts its exit status unless that is None."""
        result = self.run(self.argv(*args), input=input, env=env, timeout=timeout)
        self._note_pods(result.stdout + result.stderr)
        assert status is None or result.status == status, (
            f"rkt {' '.join(args)}: exit status {result.status}, expected {status}\n"
            f"--- stdout\n{result.stdout}\n--- stderr\n{result.stderr}"
        )
        return result

    def run(
        self, argv: list[str], *, input: str = "",  # noqa: A002
        env: Mapping[str, str] | None = None, timeout: float = TIMEOUT,
    ) -> Result:  # fmt: skip
        """Run any command to its end."""
        done = subprocess.run(
            argv, input=input, capture_output=True, text=True, errors="replace", check=False,
            env={**self.env, **(env or {})}, timeout=timeout, cwd=self.files,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def run_reaping(self, argv: list[str]) -> Result:
        """Run any command that says little to its end, and meanwhile reap orphans.

        A PID namespace ends only when all its dead are reaped: who waits for that, as a tracer
        of all of a pod's processes does, would wait for this process otherwise.
        """
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=self.env, cwd=self.files,
        )  # fmt: skip
        self._running.append(process)  # type: ignore[arg-type]

        def ended() -> bool:
            self._reap_orphans()
            return process.poll() is not None

        self.wait_for(ended)
        stdout, stderr = process.communicate()
        self._running.remove(process)  # type: ignore[arg-type]
        return Result(process.returncode, stdout, stderr)

    def spawn(
        self, *args: str, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a rkt command in the background; its output is to be had from the pipes.

        `nsenter` becomes rkt by exec, so the PID is rkt's own.
        """
        process = subprocess.Popen(
            self.argv(*args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**self.env, **(env or {})}, cwd=self.files,
        )  # fmt: skip
        return self.adopt(process)

    def adopt(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Take care of a process that was started another way: it ends with the test."""
        self._running.append(process)
        return process

    def terminal(
        self, *args: str, env: Mapping[str, str] | None = None, size: tuple[int, int] = (24, 80),
        around: Sequence[str] = (),
    ) -> Terminal:  # fmt: skip
        """Start a rkt command on a terminal of so many rows and columns.

        `around` is a program that is given the command to run.
        """
        master, slave = pty.openpty()
        termios.tcsetwinsize(master, size)
        modes = termios.tcgetattr(master)
        process = subprocess.Popen(
            ["setsid", "--ctty", *around, *self.argv(*args)],
            stdin=slave, stdout=slave, stderr=slave,
            env={**self.env, "TERM": "xterm", **(env or {})}, cwd=self.files,
        )  # fmt: skip
        os.close(slave)
        self._running.append(process)
        return Terminal(process, master, modes)

    # --- state -----------------------------------------------------------------------------------

    def pod_dir(self, uuid: str) -> str:
        """Give the directory of a pod, whichever state it is in."""
        pods = os.path.join(self.data, "pods")
        for state in os.listdir(pods):
            path = os.path.join(pods, state, uuid)
            if os.path.isdir(path):
                return path
        raise AssertionError(f"no pod {uuid}")

    def pod_state(self, uuid: str) -> str:
        """Give the state of a pod as `rkt status` says it."""
        lines = self.rkt("status", uuid).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)["state"]

    def wait_for(self, what: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Wait until something holds; fails when it does not come to be in time."""
        deadline = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < deadline, "it did not come to be in time"
            time.sleep(0.02)

    def _note_pods(self, text: str = "") -> None:
        self.pods |= set(UUID.findall(text))
        pods = os.path.join(self.data, "pods")
        for state in os.listdir(pods) if os.path.isdir(pods) else ():
            names = os.listdir(os.path.join(pods, state))
            self.pods |= {name for name in names if UUID.fullmatch(name)}

    # --- the end ---------------------------------------------------------------------------------

    def _snapshot(self) -> leaks.Snapshot:
        self._note_pods()
        # Other tests may run at the same time: of what is shared only this test's pods count.
        inside = leaks.snapshot(self._holder.pid, pods=self.pods)
        host = {f"{mount} on the host" for mount in leaks.mounts() if self.top in mount}
        left = {f"{self.tmp}/{name}" for name in os.listdir(self.tmp)}
        left |= {f"lease {name}" for name in network.leases(self)}
        return inside._replace(mounts=inside.mounts | host, files=frozenset(left))

    def leaked(self) -> list[str]:
        """Name what the commands so far left on the machine (running pods show up too)."""
        self._reap_orphans()
        found = leaks.differences(self._before, self._snapshot())
        alive = leaks.descendants(os.getpid()) - self._before_processes - {self._holder.pid}
        alive -= leaks.descendants(self._holder.pid)
        return found + [leaks.describe_process(pid) for pid in sorted(alive)]

    def running(self) -> list[str]:
        """Say of all that runs what it does: for who reads why a test failed."""
        alive = leaks.descendants(os.getpid()) - self._before_processes - {self._holder.pid}
        return [leaks.describe_state(pid) for pid in sorted(alive)]

    def _reap_orphans(self) -> None:
        """Do what PID 1 of a machine does: a dead process that nobody waits for holds up the end
        of its PID namespace.
        """
        known = {process.pid for process in (*self._running, self._holder)}
        for pid in leaks.dead_children(os.getpid()) - known:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass

    def close(self, *, check: bool = True, patience: float = PATIENCE) -> None:
        """End what still runs, assert that nothing is left, remove the directories.

        `patience` are the seconds that the kernel has to take apart what it does not at once.
        """
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            self._end(process)
        leaked = self._settle(patience)
        for pid in leaks.descendants(os.getpid()) - self._before_processes:
            _kill(pid)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(10)
        self._reap_orphans()
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 0)  # from now on nobody here would reap orphans
        shutil.rmtree(self.top, ignore_errors=True)
        assert not (check and leaked), "left on the machine:\n" + "\n".join(leaked)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _settle(self, patience: float) -> list[str]:
        # The kernel takes control groups and namespaces apart a moment after the last process, and
        # later still on a machine that is busy: one worker of it removes all network namespaces.
        deadline = time.monotonic() + patience
        while (leaked := self.leaked()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return leaked


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
