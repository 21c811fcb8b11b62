"""The entrypoints of stage1-oci, driven as stage0 drives them, on pod directories made by hand."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import tarfile
import termios
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from rkt.stage1 import build
from rkt.stage1.host import sandbox
from rkt_testkit import leaks
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs("root", "crun", "runc", "catatonit", "busybox")

BUSYBOX = "/bin/busybox"
TOOLS = (
    "cat chroot cut dd echo env false grep head hostname id ifconfig ipcs kill ls mkdir mknod mount"
    " printf ps readlink sh sleep stat stty touch tr true tty umount wc yes"
)
PASSWD = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1001:\nstaff:x:50:\n"


@pytest.fixture(scope="session")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image and unpack it: the copy in the tree store."""
    directory = str(tmp_path_factory.mktemp("stage1"))
    image = f"{directory}/stage1-oci.aci"
    build.build(image, python="/usr/bin/python3", catatonit="/usr/bin/catatonit", cc="musl-gcc")
    with tarfile.open(image) as tar:
        tar.extractall(f"{directory}/tree")
    return f"{directory}/tree"


class Pod:
    """A pod directory as stage0 leaves it, and the process that runs it."""

    def __init__(self, directory: str, tree: str, runtime: str) -> None:
        self.uuid = str(uuid.uuid4())
        self.dir = f"{directory}/{self.uuid}"
        self.tree = tree
        self.runtime = runtime
        self.manifest: dict[str, Any] = {"acVersion": "1.30.0", "acKind": "PodManifest", "apps": []}
        self.process: subprocess.Popen[bytes] | None = None
        shutil.copytree(tree, f"{self.dir}/stage1", symlinks=True)

    def app(self, name: str, *command: str, **more: Any) -> str:
        """Add an app with busybox in its root; gives the root."""
        runtime_keys = ("mounts", "readOnlyRootFS")
        section = {"user": "0", "group": "0", "exec": list(command)}
        section |= {key: value for key, value in more.items() if key not in runtime_keys}
        entry = {"name": name, "image": {"name": f"example.com/{name}", "id": "sha512-00"}}
        entry |= {"app": section} | {k: v for k, v in more.items() if k in runtime_keys}
        self.manifest["apps"].append(entry)
        root = self.root(name)
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/etc")
        shutil.copy(BUSYBOX, f"{root}/bin/busybox")
        for tool in TOOLS.split():
            os.symlink("busybox", f"{root}/bin/{tool}")
        write(f"{root}/etc/passwd", PASSWD)
        write(f"{root}/etc/group", GROUP)
        os.makedirs(f"{self.dir}/appsinfo/{name}")
        image = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": f"example.com/{name}"}
        write(f"{self.dir}/appsinfo/{name}/manifest", json.dumps(image))
        return root

    def shell(self, name: str, script: str, **more: Any) -> str:
        """Add an app that runs a shell script."""
        return self.app(name, "/bin/sh", "-c", script, **more)

    def root(self, app: str) -> str:
        return f"{self.dir}/stage1/rootfs/opt/stage2/{app}/rootfs"

    def start(self, *flags: str, env: dict[str, str] | None = None, **more: Any) -> None:
        """Start the run entrypoint, holding the pod's lock."""
        write(f"{self.dir}/pod", json.dumps(self.manifest))
        lock = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        if not any(flag.startswith("--net") for flag in flags):
            flags = ("--net=host", *flags)
        self.process = subprocess.Popen(
            ["stage1/rootfs/run", *flags, self.uuid], cwd=self.dir, pass_fds=(lock,),
            env={**os.environ, "RKT_OCI_RUNTIME": self.runtime, "RKT_LOCK_FD": str(lock),
                 **(env or {})},
            **more,
        )  # fmt: skip
        os.close(lock)

    def run(self, *flags: str, **more: Any) -> tuple[int, str, str]:
        """Run the pod to its end; gives status, stdout and stderr."""
        self.start(*flags, **more)
        return self.finish()

    def finish(self, timeout: float = 30) -> tuple[int, str, str]:
        assert self.process is not None
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def entrypoint(self, name: str, *args: str, **more: Any) -> tuple[int, str, str]:
        """Run another entrypoint, from the tree store's copy, in the pod directory."""
        done = subprocess.run(
            [f"{self.tree}/rootfs/{name}", *args], cwd=self.dir, capture_output=True, text=True,
            timeout=30, check=False, **{"stdin": subprocess.DEVNULL, **more},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def enter(self, app: str, *command: str) -> tuple[int, str, str]:
        return self.entrypoint(
            "enter", f"--pid={self.read('pid')}", f"--appname={app}", "--", *command
        )

    def read(self, path: str) -> str:
        with open(f"{self.dir}/{path}") as file:
            return file.read().rstrip("\n")

    def status(self, app: str) -> str:
        return self.read(f"stage1/rootfs/rkt/status/{app}")

    def wait_started(self, *apps: str) -> None:
        """Wait until the apps run."""
        directory = f"{self.dir}/stage1/rootfs/rkt/status"
        eventually(lambda: all(os.path.exists(f"{directory}/{app}.pid") for app in apps))

    def locked(self) -> bool:
        fd = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def processes(self) -> list[int]:
        """Give the living processes in the pod's PID namespace or cgroups."""
        return [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._owns(pid)
        ]

    def _owns(self, pid: int) -> bool:
        if not alive(pid):
            return False
        try:
            with open(f"/proc/{pid}/cgroup") as file:
                if self.uuid in file.read():
                    return True
            with open(f"/proc/{pid}/cmdline") as file:
                return self.uuid in file.read()
        except OSError:
            return False

    def assert_gone(self) -> None:
        """Nothing of the pod is left but its directory."""
        eventually(lambda: not self.processes())
        if os.path.exists(f"{self.dir}/pid"):
            eventually(lambda: not alive(int(self.read("pid"))))
        assert not self.locked()
        assert leaks.cgroups([self.uuid]) == frozenset()
        with open("/proc/self/mountinfo") as file:
            assert self.uuid not in file.read()
        assert not os.path.exists(f"{self.dir}/runtime")
        assert not os.path.exists(f"{self.dir}/bundle")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie is dead."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition below a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(params=["crun", "runc"])
def pod(request: pytest.FixtureRequest, stage1: str, tmp_path: Any) -> Iterator[Pod]:
    made = Pod(str(tmp_path), stage1, request.param)
    yield made
    process = made.process
    if process and process.poll() is None:
        process.kill()
        process.communicate()
        made.entrypoint("gc", made.uuid)
    made.assert_gone()


# Output and exit status


def test_one_app_is_raw_and_its_status_is_the_pods(pod: Pod) -> None:
    pod.shell("a", r"printf 'no newline\0\377'; printf 'to stderr' >&2; exit 3")
    pod.start()
    assert pod.process is not None
    out, err = pod.process.communicate(timeout=30)
    why = b'rkt: app "a" exited with status 3\n'
    assert (pod.process.returncode, out, err) == (3, b"no newline\0\377", b"to stderr\n" + why)
    assert pod.status("a") == "3"
    assert os.readlink(f"{pod.dir}/flavor") == "oci"
    assert pod.read("pid").isdigit()
    assert pod.read("subcgroup").endswith(f"/rkt-{pod.uuid}")


def test_a_megabyte_arrives_whole(pod: Pod) -> None:
    pod.shell("a", "head -c 1000000 /dev/zero | tr '\\0' x")
    status, out, _ = pod.run()
    assert (status, len(out), set(out)) == (0, 1000000, {"x"})


def test_several_apps_are_told_apart_by_line(pod: Pod) -> None:
    pod.shell("one", "echo a1; printf a2; echo err >&2")
    pod.shell("two", "echo b1; head -c 70000 /dev/zero | tr '\\0' x")
    status, out, err = pod.run()
    status_dir = "stage1/rootfs/rkt/status"
    pids = {app: pod.read(f"{status_dir}/{app}.pid").split()[0] for app in ("one", "two")}
    lines = out.splitlines()
    assert status == 0
    assert [line for line in lines if line.startswith("one")] == [
        f"one[{pids['one']}]: a1", f"one[{pids['one']}]: a2",
    ]  # fmt: skip
    two = [line for line in lines if line.startswith("two")]
    prefix = f"two[{pids['two']}]: "
    assert two == [f"{prefix}b1", prefix + "x" * 65536, prefix + "x" * (70000 - 65536)]
    assert err == f"one[{pids['one']}]: err\n"
    assert out.endswith("\n")


def test_the_first_failure_ends_the_pod(pod: Pod) -> None:
    pod.shell("fails", "sleep 0.3; exit 5")
    pod.shell("waits", "trap 'exit 9' TERM; while :; do sleep 0.1; done")
    status, _, _ = pod.run()
    assert status == 5
    assert (pod.status("fails"), pod.status("waits")) == ("5", "9")


def test_the_pod_outlives_an_app_that_succeeds(pod: Pod) -> None:
    pod.app("quick", "/bin/true")
    pod.shell("slow", "sleep 0.5; echo done")
    status, out, _ = pod.run()
    assert (status, out.endswith(": done\n")) == (0, True)
    assert (pod.status("quick"), pod.status("slow")) == ("0", "0")


def test_a_killed_app_counts_as_128_and_the_signal(pod: Pod) -> None:
    pod.shell("a", "kill -USR1 $$")
    assert pod.run()[0] == 128 + signal.SIGUSR1
    assert pod.status("a") == str(128 + signal.SIGUSR1)


def test_an_orphan_that_holds_the_pipe_does_not_hold_the_pod(pod: Pod) -> None:
    pod.shell("a", "sleep 1000 & sleep 1000 & echo parent")
    started = time.monotonic()
    status, out, _ = pod.run()
    assert (status, out) == (0, "parent\n")
    assert time.monotonic() - started < 8


def test_a_broken_stdout_does_not_kill_the_apps(pod: Pod) -> None:
    pod.shell("a", "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); done; exit 6")
    read, end = os.pipe()
    os.close(read)
    pod.start(stdout=end)
    os.close(end)
    assert pod.finish()[0] == 6


def test_a_slow_reader_slows_the_app_only(pod: Pod) -> None:
    pod.shell("a", "yes | head -c 3000000")
    read, end = os.pipe()
    pod.start(stdout=end)
    os.close(end)
    assert pod.process is not None
    pod.wait_started("a")
    time.sleep(0.5)
    with open(f"/proc/{pod.process.pid}/status") as file:
        resident = int(next(line for line in file if line.startswith("VmRSS")).split()[1])
    assert resident < 40000
    with open(read, "rb") as file:
        assert len(file.read()) == 3000000
    assert pod.finish()[0] == 0


def test_output_goes_to_a_file_where_the_caller_left_off(pod: Pod, tmp_path: Any) -> None:
    pod.shell("a", "echo from the app")
    with open(tmp_path / "log", "w+") as file:
        file.write("before\n")
        file.flush()
        assert pod.run(stdout=file, stderr=file)[0] == 0
        file.seek(0)
        assert file.read() == "before\nfrom the app\n"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_reach_the_apps_as_they_are(pod: Pod, number: signal.Signals) -> None:
    pod.shell("a", f"trap 'echo got it; exit 7' {number.name[3:]}; while :; do sleep 0.05; done")
    pod.start()
    pod.wait_started("a")
    time.sleep(0.2)
    assert pod.process is not None
    pod.process.send_signal(number)
    assert pod.finish()[:2] == (7, "got it\n")


def test_a_second_interrupt_kills(pod: Pod) -> None:
    pod.shell("a", "trap '' INT TERM; while :; do sleep 0.05; done")
    pod.start()
    pod.wait_started("a")
    assert pod.process is not None
    pod.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert pod.process.poll() is None
    pod.process.send_signal(signal.SIGINT)
    assert pod.finish(timeout=8)[0] == 137


@pytest.mark.slow
def test_who_ignores_sigterm_is_killed_after_the_grace(pod: Pod) -> None:
    pod.shell("a", "trap '' TERM; while :; do sleep 0.1; done")
    pod.shell("fails", "sleep 0.5; exit 1")
    started = time.monotonic()
    assert pod.run()[0] == 1
    assert 9 < time.monotonic() - started < 20
    assert pod.status("a") == "137"


def test_a_killed_supervisor_leaves_no_process(pod: Pod) -> None:
    pod.shell("a", "sleep 1000 & sleep 1000; exit 0")
    pod.app("b", "sleep", "1000")
    pod.start()
    pod.wait_started("a", "b")
    assert pod.process is not None
    eventually(lambda: len(pod.processes()) >= 5)  # supervisor, shell and three times sleep
    init = int(pod.read("pid"))
    pod.process.kill()
    pod.process.communicate()
    eventually(lambda: not pod.processes() and not alive(init))
    assert not pod.locked()
    assert pod.entrypoint("gc", "--local-config", "/etc/rkt", pod.uuid) == (0, "", "")
    pod.assert_gone()
    assert pod.entrypoint("gc", pod.uuid) == (0, "", "")


@pytest.mark.parametrize("delay", [0.02, 0.04, 0.06, 0.08])
def test_a_supervisor_killed_while_it_starts_leaves_no_process(pod: Pod, delay: float) -> None:
    pod.app("a", "sleep", "1000")
    pod.app("b", "sleep", "1000")
    pod.start()
    assert pod.process is not None
    time.sleep(delay)
    pod.process.kill()
    pod.process.communicate()
    eventually(lambda: not pod.processes())
    assert pod.entrypoint("gc", pod.uuid)[0] == 0


def test_the_lock_is_held_by_the_supervisor_alone(pod: Pod) -> None:
    pod.app("a", "sleep", "1000")
    pod.start()
    pod.wait_started("a")
    assert pod.locked()
    for pid in pod.processes():
        links = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        assert (pod.dir in links) == (pod.process is not None and pid == pod.process.pid)
    assert pod.entrypoint("stop", pod.uuid) == (0, "", "")
    assert pod.finish()[0] == 143


# stop and enter


def test_forced_stop(pod: Pod) -> None:
    pod.shell("a", "trap '' TERM; while :; do sleep 0.1; done")
    pod.start()
    pod.wait_started("a")
    assert pod.entrypoint("stop", "--force", pod.uuid) == (0, "", "")
    assert pod.finish(timeout=8)[0] == 137
    status, _, err = pod.entrypoint("stop", pod.uuid)
    assert (status, err) == (254, "rkt: the pod is not running\n")


def test_enter(pod: Pod) -> None:
    pod.shell("a", "sleep 1000", environment=[{"name": "COLOR", "value": "two\nlines"}])
    pod.app("b", "sleep", "1000", user="bob", group="staff")
    pod.start()
    pod.wait_started("a", "b")
    assert pod.enter("b", "id")[:2] == (0, "uid=0(root) gid=0(root)\n")
    assert pod.enter("a", "sh", "-c", "pwd; echo \"$COLOR $TERM\"; exit 7")[:2] == (
        7, f"/\ntwo\nlines {os.environ.get('TERM') or 'vt100'}\n",
    )  # fmt: skip
    assert pod.enter("a", "sh", "-c", "kill -9 $$")[0] == 137
    assert "sleep 1000" in pod.enter("a", "ps")[1]
    status, _, err = pod.enter("a", "nosuch")
    assert (status, err.startswith('rkt: error looking up "nosuch": not found along PATH=')) == (
        254, True,
    )  # fmt: skip
    assert pod.enter("c", "sh")[::2] == (254, 'rkt: no app "c" in the pod\n')
    bounding = pod.enter("a", "grep", "Cap[BE]", "/proc/self/status")[1].split()
    assert bounding[1] == bounding[3] == "00000000a80425fb"
    pod.entrypoint("stop", pod.uuid)
    pod.finish()
    status, _, err = pod.enter("a", "id")
    assert (status, err) == (254, "rkt: the pod is not running\n")


def test_enter_an_app_that_has_ended(pod: Pod) -> None:
    pod.app("a", "/bin/true")
    pod.app("b", "sleep", "1000")
    pod.start()
    pod.wait_started("a", "b")
    eventually(lambda: os.path.exists(f"{pod.dir}/stage1/rootfs/rkt/status/a"))
    assert pod.enter("a", "id")[::2] == (254, 'rkt: app "a" is not running\n')


class Screen:
    """A pseudo terminal and what appeared on it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.text = ""
        self.size(24, 80)

    def size(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))

    def expect(self, text: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.text:
            ready = select.select([self.master], [], [], deadline - time.monotonic())[0]
            assert ready, f"{text!r} did not appear, only {self.text!r}"
            self.text += os.read(self.master, 4096).decode()
        self.text = self.text.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def in_terminal(screen: Screen) -> dict[str, Any]:
    """Give what makes a process the foreground one of a terminal."""
    return {
        "stdin": screen.slave, "stdout": screen.slave, "stderr": screen.slave,
        "start_new_session": True,
        "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    }  # fmt: skip


def test_interactive_is_a_real_terminal(pod: Pod, screen: Screen) -> None:
    before = termios.tcgetattr(screen.slave)
    pod.app("a", "/bin/sh", environment=[{"name": "PS1", "value": "in the app> "}])
    pod.start("--interactive", env={"TERM": "xterm-256color"}, **in_terminal(screen))
    screen.expect("in the app> ")
    screen.type("tty; stty size; echo $TERM\n")
    screen.expect("/dev/pts/0\r\n24 80\r\nxterm-256color")
    assert termios.tcgetattr(screen.slave) != before
    screen.size(50, 132)
    assert pod.process is not None
    pod.process.send_signal(signal.SIGWINCH)  # the kernel tells only the foreground group
    screen.expect("> ")
    screen.type("stty size\n")
    screen.expect("50 132")
    screen.type("sleep 1000\n")
    time.sleep(0.3)
    screen.type("\x03")  # Ctrl-C is for the job in the app, not for the pod
    screen.expect("> ")
    screen.type("exit 6\n")
    assert pod.process.wait(timeout=10) == 6
    assert termios.tcgetattr(screen.slave) == before


def test_the_terminal_is_restored_when_the_app_is_killed(pod: Pod, screen: Screen) -> None:
    before = termios.tcgetattr(screen.slave)
    pod.app("a", "/bin/sh", environment=[{"name": "PS1", "value": "in the app> "}])
    pod.start("--interactive", **in_terminal(screen))
    screen.expect("in the app> ")
    assert pod.entrypoint("stop", "--force", pod.uuid)[0] == 0
    assert pod.process is not None
    assert pod.process.wait(timeout=10) == 137
    assert termios.tcgetattr(screen.slave) == before


def test_interactive_without_a_terminal_passes_stdin_through(pod: Pod) -> None:
    pod.shell("a", "cat; tty; exit 2")
    pod.start("--interactive", stdin=subprocess.PIPE)
    assert pod.process is not None
    out, _ = pod.process.communicate(b"some\0bytes", timeout=30)
    assert (pod.process.returncode, out) == (2, b"some\0bytesnot a tty\n")


def test_interactive_takes_one_app(pod: Pod) -> None:
    pod.app("a", "/bin/true")
    pod.app("b", "/bin/true")
    status, _, err = pod.run("--interactive")
    assert (status, err) == (254, "rkt: interactive option only supports pods with one app\n")


def test_enter_has_job_control_on_a_terminal(pod: Pod, screen: Screen) -> None:
    pod.app("a", "sleep", "1000")
    pod.start()
    pod.wait_started("a")
    entered = subprocess.Popen(
        [f"{pod.tree}/rootfs/enter", f"--pid={pod.read('pid')}", "--appname=a", "--", "sh"],
        cwd=pod.dir, env={**os.environ, "TERM": "xterm"}, **in_terminal(screen),
    )  # fmt: skip
    screen.expect("# ")
    screen.type("tty; sleep 1000\n")
    screen.expect("/dev/pts/0")
    time.sleep(0.3)
    screen.type("\x03")
    screen.expect("# ")
    screen.type("exit 4\n")
    assert entered.wait(timeout=10) == 4


# What an app sees


def test_apps_of_a_pod_share_namespaces(pod: Pod) -> None:
    probe = "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done"
    pod.shell("a", f"{probe}; touch /dev/shm/shared; sleep 0.5")
    pod.shell("b", f"sleep 0.2; {probe}; ls /dev/shm; hostname; ps | grep -c 'sleep 0.5'")
    status, out, _ = pod.run("--net=none", "--hostname=casper")
    lines = {
        app: [x.partition(": ")[2] for x in out.splitlines() if x.startswith(app)] for app in "ab"
    }
    assert status == 0
    assert lines["a"] == lines["b"][:4]
    assert lines["b"][4:6] == ["shared", "casper"]
    assert int(lines["b"][6]) >= 1
    host = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts", "net")]
    assert not set(host) & set(lines["a"])


@pytest.mark.parametrize(("flags", "shared"), [
    (("--net=host",), {"net"}),
    (("--net=none",), set()),
    (("--net=host", "--ipc=parent"), {"net", "ipc"}),
])  # fmt: skip
def test_namespaces_of_the_host(pod: Pod, flags: tuple[str, ...], shared: set[str]) -> None:
    pod.shell("a", "for n in pid ipc uts net mnt; do readlink /proc/self/ns/$n; done")
    _, out, _ = pod.run(*flags)
    host = {os.readlink(f"/proc/self/ns/{n}") for n in ("pid", "ipc", "uts", "net", "mnt")}
    assert {line.partition(":")[0] for line in out.split() if line in host} == shared


def test_net_none_has_the_loopback_interface_up(pod: Pod) -> None:
    pod.shell("a", "ifconfig | grep -E 'Link|UP|inet addr'")
    _, out, _ = pod.run("--net=none")
    assert "lo " in out and "UP LOOPBACK RUNNING" in out and "127.0.0.1" in out
    assert "eth" not in out


def test_the_system_of_an_app(pod: Pod) -> None:
    pod.shell("a", "ls /dev; mount; cat /etc/hostname; readlink /etc/mtab; cat /etc/hosts")
    _, out, _ = pod.run()
    nodes = {"null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "shm"}
    assert nodes <= set(out.split())
    assert "proc on /proc type proc" in out
    assert "sysfs on /sys type sysfs (ro," in out
    assert f"rkt-{pod.uuid}\n../proc/self/mounts\n" in out
    assert (
        f"127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4 rkt-{pod.uuid}"
        in out
    )


def test_masked_and_read_only_paths(pod: Pod) -> None:
    script = (
        "echo x > /proc/sys/kernel/core_pattern; echo 1 > /proc/sys/vm/panic_on_oom;"
        "ls /sys/firmware /sys/fs /sys/module | grep -v : | wc -w; head -c 1 /proc/kallsyms | wc -c"
    )
    pod.shell("a", script)
    _, out, err = pod.run()
    assert err.count("Read-only file system") == 2
    assert out.split() == ["0", "0"]


def test_insecure_options(pod: Pod) -> None:
    pod.shell("a", "grep -E 'CapBnd|Seccomp:' /proc/self/status; ls /sys/fs | grep cgroup")
    flags = ("--disable-paths", "--disable-seccomp", "--disable-capabilities-restriction")
    _, out, _ = pod.run(*flags)
    with open("/proc/self/status") as file:
        own = next(line.split()[1] for line in file if line.startswith("CapBnd"))
    assert out.split() == ["CapBnd:", own, "Seccomp:", "0", "cgroup"]


def test_default_privileges(pod: Pod) -> None:
    pod.shell("a", "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status", user="bob", group="bob")
    _, out, _ = pod.run()
    words = out.split()
    facts = dict(zip(words[::2], words[1::2], strict=True))
    none = "0" * 16
    assert facts == {
        "CapInh:": none, "CapPrm:": none, "CapEff:": none, "CapBnd:": "00000000a80425fb",
        "CapAmb:": none, "NoNewPrivs:": "1", "Seccomp:": "2",
    }  # fmt: skip


def test_isolators(pod: Pod) -> None:
    isolators = {
        "os/linux/seccomp-remove-set": {"set": ["mkdir", "mkdirat"], "errno": "EXDEV"},
        "os/linux/capabilities-retain-set": {"set": ["CAP_NET_ADMIN"]},
        "os/linux/no-new-privileges": True,
        "os/linux/oom-score-adj": 321,
        "resource/memory": {"limit": "20Mi"},
        "resource/cpu": {"limit": "500m"},
    }
    script = "mkdir /x; cd /proc/self; grep -E 'CapEff|NoNewPrivs' status; cat oom_score_adj"
    pod.shell(
        "a", f"{script}; sleep 1000",
        isolators=[{"name": name, "value": value} for name, value in isolators.items()],
    )  # fmt: skip
    pod.start()
    pod.wait_started("a")
    path = f"{pod.read('subcgroup')}/a"
    for limit in leaks_of("memory.limit_in_bytes", path) + leaks_of("memory.max", path):
        assert limit == str(20 << 20)
    for quota in leaks_of("cpu.cfs_quota_us", path):
        assert quota == "50000"
    pod.entrypoint("stop", pod.uuid)
    _, out, err = pod.finish()
    assert out.split() == ["CapEff:", "0000000000001000", "NoNewPrivs:", "1", "321"]
    assert "Invalid cross-device link" in err


def leaks_of(name: str, path: str) -> list[str]:
    """Read a control file of a cgroup in every hierarchy that has it."""
    found = []
    for top in ("", "/memory", "/cpu", "/cpu,cpuacct"):
        with contextlib.suppress(OSError), open(f"/sys/fs/cgroup{top}{path}/{name}") as file:
            found.append(file.read().split()[0])
    return found


def test_a_seccomp_whitelist_kills_what_it_does_not_name(pod: Pod) -> None:
    value = {"set": ["@rkt/default-whitelist"]}
    isolators = [{"name": "os/linux/seccomp-retain-set", "value": value}]
    pod.shell("a", "echo alive; exec umount /nothing", isolators=isolators)
    assert pod.run()[:2] == (128 + signal.SIGSYS, "alive\n")


def test_users(pod: Pod) -> None:
    root = pod.shell("a", "id; stat -c %u /proc/self/fd/1; echo x > /dev/stdout", user="bob",
                     group="/etc/owned", supplementaryGIDs=[7, 50])  # fmt: skip
    write(f"{root}/etc/owned", "")
    os.chown(f"{root}/etc/owned", 5, 1001)
    status, out, err = pod.run()
    assert (status, err) == (0, "")
    assert out == "uid=1000(bob) gid=1001(bob) groups=7,50(staff)\n1000\nx\n"


def test_environment_and_working_directory(pod: Pod) -> None:
    given = [{"name": "HOME", "value": "/x=y"}, {"name": "E", "value": ""}]
    root = pod.shell("a", "pwd; env", workingDirectory="/srv/here", environment=given)
    os.makedirs(f"{root}/srv/here")
    _, out, _ = pod.run("--mds-token=abc")
    lines = out.splitlines()
    assert lines[0] == "/srv/here"
    assert {
        "HOME=/x=y", "E=", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "AC_APP_NAME=a",
        "container=rkt", "AC_METADATA_URL=http://127.0.0.1:18112/abc",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    } <= set(lines)  # fmt: skip
    assert "HOME=/x=y\n" in pod.read("stage1/rootfs/rkt/env/a")


def test_handlers_run_in_the_app_as_root_around_it(pod: Pod) -> None:
    pod.shell(
        "a", "cat /tmp/order; id -u; echo main >> /tmp/order; exit 3", user="bob", group="bob",
        eventHandlers=[
            {"name": "pre-start", "exec": ["/bin/sh", "-c", "umask 0; echo pre > /tmp/order"]},
            {"name": "post-stop", "exec": ["sh", "-c", "cat /tmp/order; id -u"]},
        ],
    )  # fmt: skip
    assert pod.run()[:2] == (3, "pre\n1000\npre\nmain\n0\n")


def test_a_failing_pre_start_keeps_the_app_from_running(pod: Pod) -> None:
    handlers = [{"name": "pre-start", "exec": ["/bin/sh", "-c", "exit 9"]}]
    pod.shell("a", "echo never", eventHandlers=handlers)
    status, out, err = pod.run()
    assert (status, out) == (9, "")
    assert err == 'rkt: app "a" pre-start handler exited with status 9\n'


def test_volumes(pod: Pod, tmp_path: Any) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("from the host\n")
    pod.manifest["volumes"] = [
        {"name": "host", "kind": "host", "source": str(source), "readOnly": True},
        {"name": "shared", "kind": "empty", "mode": "0750", "uid": 1000, "gid": 50},
        {"name": "one", "kind": "host", "source": str(source / "file")},
        {"name": "kvm", "kind": "host", "source": "/dev/null"},
    ]
    pod.shell(
        "a", "cat /h/file /etc/one; touch /h/x; stat -c '%a %u %g' /deep/er/shared;"
        " echo hello > /deep/er/shared/f; touch /x /implicit/y; ls /dev/own",
        mounts=[
            {"volume": "host", "path": "/h"}, {"volume": "one", "path": "/etc/one"},
            {"volume": "kvm", "path": "/dev/own"},
        ],
        mountPoints=[
            {"name": "shared", "path": "/deep/er/shared"}, {"name": "extra", "path": "/implicit"},
        ],
        readOnlyRootFS=True,
    )  # fmt: skip
    status, out, err = pod.run()
    assert status == 0
    assert out == "from the host\nfrom the host\n750 1000 50\n/dev/own\n"
    warning = (
        'rkt: warning: no volume specified for mount point "extra", implicitly creating an "empty"'
        " volume. This volume will be removed when the pod is garbage-collected."
    )
    assert err.splitlines() == [
        warning, "touch: /h/x: Read-only file system", "touch: /x: Read-only file system",
    ]  # fmt: skip
    assert pod.read("sharedVolumes/shared/f") == "hello"
    assert os.listdir(f"{pod.dir}/sharedVolumes/a-extra") == ["y"]


def test_a_docker_image_fills_its_implicit_volume(pod: Pod) -> None:
    root = pod.shell(
        "a", "cat /data/old; touch /data/new", mountPoints=[{"name": "d", "path": "/data"}]
    )
    image = json.loads(pod.read("appsinfo/a/manifest"))
    image["annotations"] = [{"name": "appc.io/docker/repository", "value": "library/x"}]
    write(f"{pod.dir}/appsinfo/a/manifest", json.dumps(image))
    os.makedirs(f"{root}/data")
    write(f"{root}/data/old", "old\n")
    status, out, err = pod.run()
    assert (status, out) == (0, "old\n")
    assert "Docker converted image, initializing implicit volume with data contained" in err
    assert os.listdir(f"{root}/data") == ["old"]


def test_dns_modes(pod: Pod) -> None:
    pod.shell("a", "cat /etc/resolv.conf /etc/hosts")
    write(f"{pod.dir}/stage1/rootfs/etc/rkt-resolv.conf", "nameserver 192.0.2.1\n")
    write(f"{pod.dir}/stage1/rootfs/etc/rkt-hosts", "# mine\n192.0.2.7 seven\n")
    _, out, _ = pod.run("--dns-conf-mode=resolv=stage0,hosts=stage0", "--hostname=h")
    assert out == "nameserver 192.0.2.1\n# mine\n192.0.2.7 seven\n127.0.0.1\th\n"


def test_dns_of_the_host_and_of_the_image(pod: Pod, stage1: str, tmp_path: Any) -> None:
    pod.shell("a", "cat /etc/resolv.conf; echo x >> /etc/resolv.conf; cat /etc/hosts")
    _, out, err = pod.run("--dns-conf-mode=resolv=host,hosts=host")
    with open("/etc/resolv.conf") as resolv, open("/etc/hosts") as hosts:
        assert out == resolv.read() + hosts.read()
    assert "Read-only file system" in err
    second = Pod(str(tmp_path), stage1, pod.runtime)
    root = second.shell("a", "cat /etc/hosts; ls /etc")
    write(f"{root}/etc/hosts", "of the image\n")
    _, out, _ = second.run()
    assert out.startswith("of the image\n") and "resolv.conf" not in out
    second.assert_gone()


# What cannot be


@pytest.mark.parametrize(("app", "message"), [
    ({"exec": ["/bin/nosuch"]}, 'error looking up "/bin/nosuch": no such file or directory'),
    ({"exec": ["nosuch"], "environment": [{"name": "PATH", "value": "/bin:/x"}]},
     'error looking up "nosuch": not found along PATH=/bin:/x'),
    ({"exec": ["/etc/passwd"]},
     'error looking up "/etc/passwd": permission denied (not executable)'),
    ({"exec": ["/etc"]}, 'error looking up "/etc": is a directory'),
    ({"exec": []}, 'image "example.com/a" has an empty "exec" (try --exec=BINARY)'),
    ({"exec": ["/script"]}, '"/script": its interpreter "/usr/bin/perl" is not in the image'),
    ({"exec": ["/dynamic"]},
     '"/dynamic": its interpreter "/lib64/ld-nosuch.so" is not in the image'),
    ({"user": "nobody"}, 'invalid user "nobody": not in /etc/passwd of the image'),
    ({"group": "nobody"}, 'invalid group "nobody": not in /etc/group of the image'),
    ({"user": "/nothing"}, 'failed to configure user "/nothing": no such file or directory'),
    ({"workingDirectory": "/nothing"}, 'working directory "/nothing": no such directory'),
    ({"isolators": [{"name": "os/linux/seccomp-retain-set", "value": {"set": ["read"]}},
                    {"name": "os/linux/seccomp-remove-set", "value": {"set": ["read"]}}]},
     "too many seccomp isolators specified"),
    ({"mounts": [{"volume": "v", "path": "/v"}]}, 'could not find volume "v"'),
])  # fmt: skip
def test_refusals(pod: Pod, app: dict[str, Any], message: str) -> None:
    pod.app("good", "sleep", "1000")
    more = {key: value for key, value in app.items() if key != "exec"}
    root = pod.app("a", *app.get("exec", ["/bin/true"]), **more)
    write(f"{root}/script", "#!/usr/bin/perl -w\n")
    os.chmod(f"{root}/script", 0o755)
    header = bytearray(200)
    header[0:6] = b"\x7fELF\2\1"
    header[32], header[54], header[56], header[64], header[72], header[96] = 64, 56, 1, 3, 150, 22
    header[150:172] = b"/lib64/ld-nosuch.so\0\0\0"
    with open(f"{root}/dynamic", "wb") as file:
        file.write(header)
    os.chmod(f"{root}/dynamic", 0o755)
    status, out, err = pod.run()
    assert (status, out, err) == (254, "", f'rkt: app "a": {message}\n')


def test_a_missing_volume_source(pod: Pod) -> None:
    pod.manifest["volumes"] = [{"name": "v", "kind": "host", "source": "/no/such/place"}]
    pod.app("a", "/bin/true", mounts=[{"volume": "v", "path": "/v"}])
    assert pod.run()[::2] == (
        254, 'rkt: app "a": volume "v": source "/no/such/place": no such file or directory\n',
    )  # fmt: skip


def test_what_the_runtime_refuses_is_one_line(pod: Pod) -> None:
    pod.app("good", "sleep", "1000")
    pod.app("a", "/bin/true", supplementaryGIDs=list(range(65537)))  # more than the kernel takes
    status, out, err = pod.run()
    assert (status, out, err.count("\n")) == (254, "", 1)
    assert err.startswith(f'rkt: app "a": {pod.runtime}: ') and "setgroups" in err


def test_a_file_that_is_no_program(pod: Pod) -> None:
    root = pod.app("a", "/bad")
    write(f"{root}/bad", "not a program")
    os.chmod(f"{root}/bad", 0o755)
    status, out, err = pod.run()
    assert (status, out) == (1, "")
    first, why = err.splitlines()
    assert "exec format error" in first.lower()
    assert why.startswith('rkt: app "a" ')


def test_post_stop_runs_undisturbed_and_after_a_stop_too(pod: Pod) -> None:
    handlers = [{"name": "post-stop", "exec": ["sh", "-c", "sleep 0.5; echo cleaned"]}]
    pod.shell("a", "exec sleep 1000", eventHandlers=handlers)
    pod.app("b", "sleep", "1000")
    pod.start()
    pod.wait_started("a", "b")
    assert pod.entrypoint("stop", pod.uuid)[0] == 0
    status, out, _ = pod.finish()
    assert (status, out.endswith(": cleaned\n")) == (143, True)


@pytest.mark.parametrize(("flags", "message"), [
    (("--private-users=65536",), 'invalid range of user IDs "65536"'),
    (("--frobnicate",), 'unknown argument "--frobnicate"'),
    (("--ipc=odd",), 'run: invalid value "odd" for --ipc'),
])  # fmt: skip
def test_flags_refused(pod: Pod, flags: tuple[str, ...], message: str) -> None:
    pod.app("a", "/bin/true")
    assert pod.run(*flags)[::2] == (254, f"rkt: {message}\n")


def test_a_missing_runtime(pod: Pod) -> None:
    pod.app("a", "/bin/true")
    status, _, err = pod.run(env={"RKT_OCI_RUNTIME": "nosuch-runtime"})
    assert status == 254
    assert err == (
        'rkt: OCI runtime "nosuch-runtime": no such program\n'
        "hint: install crun or runc (Debian: apt install crun, Fedora: dnf install crun)\n"
    )


def test_a_damaged_manifest(pod: Pod) -> None:
    pod.app("a", "/bin/true")
    write(f"{pod.dir}/appsinfo/a/manifest", '{"name": ')
    status, _, err = pod.run()
    assert status == 254
    assert err.startswith('rkt: image manifest of app "a": Expecting value: line 1')


# Hostile images: nothing of the host may be seen or changed


@pytest.fixture
def secret(tmp_path: Any) -> str:
    path = tmp_path / "secret"
    path.mkdir()
    (path / "passwd").write_text("mallory:x:4242:4242::/:/bin/sh\n")
    (path / "program").write_text("#!/bin/sh\necho of the host\n")
    (path / "program").chmod(0o755)
    return str(path)


def up(path: str) -> str:
    return "../" * 20 + path.lstrip("/")


@pytest.mark.parametrize("way", [str, up])
def test_passwd_that_leads_out(pod: Pod, secret: str, way: Callable[[str], str]) -> None:
    root = pod.app("a", "/bin/true", user="mallory")
    os.unlink(f"{root}/etc/passwd")
    os.symlink(way(f"{secret}/passwd"), f"{root}/etc/passwd")
    assert pod.run()[::2] == (
        254, 'rkt: app "a": invalid user "mallory": the image has no /etc/passwd\n',
    )  # fmt: skip


def test_passwd_that_blocks(pod: Pod) -> None:
    root = pod.app("a", "/bin/true", user="bob")
    os.unlink(f"{root}/etc/passwd")
    os.mkfifo(f"{root}/etc/passwd")
    assert pod.run()[0] == 254


@pytest.mark.parametrize("way", [str, up])
def test_program_that_leads_out(pod: Pod, secret: str, way: Callable[[str], str]) -> None:
    root = pod.app("a", "/program")
    os.symlink(way(f"{secret}/program"), f"{root}/program")
    assert pod.run()[::2] == (
        254, 'rkt: app "a": error looking up "/program": no such file or directory\n',
    )  # fmt: skip


@pytest.mark.parametrize("way", [str, up])
@pytest.mark.parametrize("name", ["etc", "dev", "proc", "sys", "tmp", "run"])
def test_directories_that_lead_out(
    pod: Pod, tmp_path: Any, name: str, way: Callable[[str], str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = pod.shell("a", "mount; echo ran")
    shutil.rmtree(f"{root}/{name}", ignore_errors=True)
    os.symlink(way(str(outside)), f"{root}/{name}")
    status, out, err = pod.run()
    assert os.listdir(outside) == []
    if status:  # refusing is as good as making the directory inside
        assert (status, err.count("\n")) == (254, 1)
        assert err.startswith('rkt: app "a": ')
    else:
        assert out.endswith("ran\n")


def test_volume_target_that_leads_out(pod: Pod, tmp_path: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = pod.shell("a", f"touch /v/x/new; ls {outside}", mounts=[{
        "volume": "v", "path": "/v/x", "appVolume": {"name": "v", "kind": "empty"},
    }])  # fmt: skip
    os.symlink(str(outside), f"{root}/v")
    status, _, _ = pod.run()
    assert os.listdir(outside) == []
    assert status in (0, 254)


def test_shm_as_a_link(pod: Pod, tmp_path: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = pod.shell("a", "touch /dev/shm/x")
    os.mkdir(f"{root}/dev")
    os.symlink(str(outside), f"{root}/dev/shm")
    assert pod.run()[0] == 0
    assert os.listdir(outside) == []


@pytest.mark.parametrize("user", ["0", str(sandbox.UID)])
def test_the_first_process_is_out_of_reach(pod: Pod, user: str) -> None:
    script = "ls /proc/1/root/ && echo reached; readlink /proc/1/cwd && echo reached; exit 0"
    pod.shell("a", script, user=user, group=user)
    status, out, err = pod.run()
    assert (status, out) == (0, "")
    assert "Permission denied" in err


def test_without_restrictions_the_first_process_shows_only_itself(pod: Pod) -> None:
    pod.shell("a", "ls /proc/1/root/..; touch /proc/1/root/rkt/status/a; touch /proc/1/root/x")
    _, out, err = pod.run("--disable-capabilities-restriction", "--disable-seccomp")
    assert out.split() == ["catatonit"]
    assert "/proc/1/root/rkt/status/a: No such file or directory" in err
    assert err.count("Read-only file system") == 1


# The image


def test_the_image_is_the_same_each_time(stage1: str, tmp_path: Any) -> None:
    parts = {
        "python": "/usr/bin/python3", "catatonit": "/usr/bin/catatonit", "cc": "musl-gcc",
    }  # fmt: skip
    again = str(tmp_path / "again.aci")
    key = build.build(again, **parts)
    with open(again, "rb") as image:
        assert image.read() == build.archive(build.FLAVORS["oci"], "oci", **parts)
    with open(f"{again}.id") as file:
        assert file.read() == f"{key}\n"
    with open(f"{stage1}/manifest") as file:
        manifest = json.load(file)
    annotations = {item["name"]: item["value"] for item in manifest["annotations"]}
    assert manifest["name"] == "coreos.com/rkt/stage1-oci"
    assert annotations["coreos.com/rkt/stage1/interface-version"] == "6"
    assert annotations["coreos.com/rkt/stage1/private-mounts"] == "true"
    for entrypoint in ("run", "enter", "gc", "stop"):
        path = annotations[f"coreos.com/rkt/stage1/{entrypoint}"]
        assert os.access(f"{stage1}/rootfs{path}", os.X_OK)


def test_running_does_not_write_into_the_tree(pod: Pod, stage1: str) -> None:
    before = sorted(os.path.join(d, n) for d, ds, fs in os.walk(stage1) for n in ds + fs)
    pod.app("a", "/bin/true")
    assert pod.run()[0] == 0
    pod.entrypoint("gc", pod.uuid)
    after = sorted(os.path.join(d, n) for d, ds, fs in os.walk(stage1) for n in ds + fs)
    assert before == after
