"""Pods in a bad world: everything at once, reboots, fork bombs, kills at every step."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
SHELL = ("--exec=/bin/sh", "--", "-c")
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
LOOPS = 7
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def image(rkt: RktContext) -> str:
    path = AciBuilder("example.com/app", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    return rkt.rkt(OPEN, "fetch", path.path).stdout.split()[-1]


def start(rkt: RktContext, image: str, *words: str) -> str:
    """Start a pod called `p` in the background; gives its UUID."""
    return rkt.rkt(OPEN, "run", "--detach", "--pod-name=p", *words[:-1], image,
                   *SHELL, words[-1]).stdout.strip()  # fmt: skip


def ready(rkt: RktContext) -> None:
    rkt.wait_for(lambda: "ready\n" in rkt.rkt("logs", "p").stdout)


def status(rkt: RktContext, *words: str) -> dict[str, str]:
    lines = rkt.rkt("status", *words).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def inside(rkt: RktContext, *argv: str) -> str:
    """Run a command in the test's own namespaces; gives its output."""
    result = rkt.run([*rkt.enter_argv(), *argv])
    assert result.status == 0, result.stderr
    return result.stdout


def lines(result: Result) -> list[str]:
    """Give what was said, without the warning about the switch."""
    return [line for line in result.stderr.splitlines() if "signature verification" not in line]


def nothing_left(rkt: RktContext) -> None:
    """Wait until the processes are gone; assert that two passes of gc leave nothing at all."""
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    for _ in range(2):
        collected = rkt.rkt("gc", "--grace-period=0s")
        said = [line for line in collected.stderr.splitlines() if not line.startswith("Moving ")]
        assert said == []
    left = [f"{top}/{name}" for top, dirs, files in os.walk(f"{rkt.data}/pods")
            for name in (*files, *(name for name in dirs if len(name) == 36))]  # fmt: skip
    if os.path.isdir(f"{rkt.data}/podnames"):
        left += os.listdir(f"{rkt.data}/podnames")
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("cgroups")])
    assert (left, rkt.leaked()) == ([], [])


# Everything at once


class Loop(threading.Thread):
    """Runs, looks at, stops and removes a pod again and again, like a user in a hurry."""

    def __init__(self, rkt: RktContext, image: str, number: int, seed: int, until: float) -> None:
        super().__init__()
        self.rkt, self.image, self.until = rkt, image, until
        self.name_of_pod = f"loop{number}"
        self.chance = random.Random(seed + number)
        self.rounds = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self.until and not self.wrong:
            try:
                self.once()
            except Exception as err:  # noqa: BLE001 - told by the test
                self.wrong.append(repr(err))
            self.rounds += 1

    def do(self, *words: str, gone: bool = False) -> Result:
        """Run a command; `gone`: another loop's gc may have taken the pod meanwhile."""
        result = self.rkt.run(self.rkt.argv(*words), timeout=110)
        said = lines(result)
        if words[0] == "gc":
            said = [
                line
                for line in said
                if not re.match('Moving (pod|failed prepare) "|pod ".* not removed', line)
            ]
        elif gone and result.status == 254:
            # Only these: whoever was quicker has deleted it, or is about to.
            said = [line for line in said if not re.search(
                'no matches found|is gone|(is|currently) being deleted|failed to remove', line
            )]  # fmt: skip
        if said or (result.status and not gone):
            self.wrong.append(f"rkt {' '.join(words)}: {result.status}: {said} {result.stdout}")
        return result

    def once(self) -> None:
        name = self.name_of_pod
        uuid = self.do(OPEN, "run", "--detach", f"--pod-name={name}", self.image).stdout.strip()
        if not uuid or self.wrong:
            return
        found = self.do("status", name).stdout
        if not found.startswith("state=running\n"):
            self.wrong.append(f"after run: {found}")
        self.do("stop", *self.chance.choice(((), ("--force",))), name)
        found = self.do("status", "--wait", uuid, gone=True).stdout
        if found and not re.match("state=(exited|deleting)", found):
            self.wrong.append(f"after stop: {found}")
        if self.chance.random() < 0.3:
            self.do("gc", "--grace-period=0s")
            self.do("gc", "--grace-period=0s")
        if self.chance.random() < 0.5:
            self.do("list")
        self.do("rm", self.chance.choice((name, uuid)), gone=True)
        # Whoever deletes it: the name is free only once it is deleted.
        self.rkt.wait_for(lambda: not os.path.lexists(f"{self.rkt.data}/podnames/{name}"))


@pytest.mark.timeout(600)
def test_loops_of_run_stop_gc_rm(rkt: RktContext, image: str) -> None:
    seconds = float(os.environ.get("RKT_TEST_LOOP_SECONDS", "8"))
    count = int(os.environ.get("RKT_TEST_LOOPS", LOOPS))
    seed = int(os.environ.get("RKT_TEST_SEED", time.time_ns() % 10**6))
    until = time.monotonic() + seconds
    loops = [Loop(rkt, image, number, seed, until) for number in range(count)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    wrong = "\n".join(text for loop in loops for text in loop.wrong)
    assert not wrong, f"seed {seed}:\n{wrong}"
    assert all(loop.rounds for loop in loops)
    nothing_left(rkt)
    assert rkt.rkt("list", "--no-legend").stdout == "\n"


# Reboot in mid-run


def test_the_host_was_rebooted(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "sleep 1000")
    with open(f"{rkt.pod_dir(uuid)}/oci-state") as file:
        supervisor = re.search(r'"supervisor": (\d+)', file.read())
    assert supervisor
    # A power cut kills everybody at once and writes nothing more.
    os.kill(int(supervisor[1]), signal.SIGKILL)
    rkt.rkt("status", "--wait", uuid)
    with open(f"{rkt.files}/boot_id", "w") as file:
        file.write("01234567-89ab-cdef-0123-456789abcdef\n")
    inside(rkt, "mount", "--bind", f"{rkt.files}/boot_id", BOOT_ID)
    try:
        found = status(rkt, "p")
        assert (found["state"], found["pid"], found["app-reason"]) == (
            "exited", "-1", "the host was rebooted, or crashed, while it ran",
        )  # fmt: skip
        row = rkt.rkt("list", "--full", "--no-legend").stdout.split("\t")
        assert (row[0], row[3]) == (uuid, "exited")
        assert rkt.rkt("stop", "p").stdout == f'pod "{uuid}" is already stopped\n'
        entered = rkt.rkt("enter", "p", "true", status=254)
        assert entered.stderr == f'rkt: pod "{uuid}" isn\'t currently running\n'
        collected = rkt.rkt("gc", "--grace-period=0s").stdout
        assert collected == f'Garbage collecting pod "{uuid}"\n'
        other = start(rkt, image, "sleep 1000")
        assert status(rkt, "p")["state"] == "running"
        rkt.rkt("stop", other)
        rkt.rkt("status", "--wait", other)
    finally:
        inside(rkt, "umount", BOOT_ID)
    nothing_left(rkt)


# Signals that are ignored


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "it did not end within 0.3 s after the pod was stopped by SIGTERM"),
        (("--force",), ""),
    ],
)
def test_an_app_that_ignores_sigterm(
    rkt: RktContext, image: str, words: tuple[str, ...], text: str
) -> None:
    # With --force the pod does not wait for the hour.
    uuid = start(rkt, image, f"--stop-timeout={'1h' if words else '300ms'}", STUBBORN)
    ready(rkt)
    assert rkt.rkt("stop", *words, "p").stdout == f'"{uuid}"\n'
    found = status(rkt, "--wait", "p")
    assert (found["state"], found["app"]) == ("exited", "137")
    assert text in found["app-reason"]
    nothing_left(rkt)


def test_stop_by_force_after_a_stop_that_is_ignored(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "--stop-timeout=1h", STUBBORN)
    ready(rkt)
    assert rkt.rkt("stop", "p").stdout == f'"{uuid}"\n'
    assert status(rkt, "p")["state"] == "running"
    assert rkt.rkt("stop", "--force", "p").stdout == f'"{uuid}"\n'
    assert status(rkt, "--wait", "p")["app"] == "137"
    nothing_left(rkt)


# A fork bomb


@pytest.mark.skipif(
    not os.path.isdir("/sys/fs/cgroup/memory"), reason="needs the memory controller, version 1"
)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_fork_bomb_within_its_limits(rkt: RktContext, image: str, force: tuple[str, ...]) -> None:
    limit = 24 << 20
    # It is bounded, should the limit of memory fail to be: what it makes sleeps.
    bomb = "echo ready; n=0; while [ $n -lt 400 ]; do sleep 1000 & n=$((n+1)); done; wait"
    uuid = rkt.rkt(
        OPEN, "run", "--detach", "--pod-name=p", "--stop-timeout=300ms", image,
        f"--memory={limit}", *SHELL, bomb,
    ).stdout.strip()  # fmt: skip
    ready(rkt)
    with open(f"{rkt.pod_dir(uuid)}/subcgroup") as file:
        group = f"/sys/fs/cgroup/memory/{file.read().strip()}"

    def members() -> int:
        count = 0
        for top, _, _ in os.walk(group):
            with open(f"{top}/cgroup.procs") as file:
                count += len(file.readlines())
        return count

    def full() -> bool:
        # The kernel has killed one of them, and with that perhaps the pod.
        return members() > 50 or "running" not in rkt.rkt("status", "p").stdout

    rkt.wait_for(full)
    stopped = rkt.rkt("stop", *force, "p").stdout
    assert stopped in (f'"{uuid}"\n', f'pod "{uuid}" is already stopped\n')
    assert status(rkt, "--wait", "p")["state"] == "exited"
    nothing_left(rkt)


# Killed at every step

# System calls by which rkt, then its supervisor, change the world, and how often at most.  Every
# one is a step; of those that come often, some are enough when nobody asked for all.
STEPS = {
    "mkdir": 42, "rename": 15, "mount": 6, "unshare": 3, "clone": 1, "clone3": 1, "setns": 1,
    "symlink": 3, "execve": 2, "flock": 3, "wait4": 6, "kill": 1, "unlink": 7, "rmdir": 22,
}  # fmt: skip
OFTEN = 3
OFTEN_OF_ALL = 5


# The same among all that they start: the runtime, what it starts, copies, the pod's first process.
# Each process counts for itself.
STEPS_OF_ALL = {
    "openat": 240, "mkdirat": 12, "renameat": 1, "rename": 6, "mount": 24, "unshare": 3,
    "openat2": 12, "write": 30, "execve": 3, "clone": 2, "unlink": 4, "pivot_root": 1,
}  # fmt: skip


class Killer:
    """Runs a pod again and again, each time with a kill at another step."""

    def __init__(self, rkt: RktContext, image: str, *options: str) -> None:
        self._rkt = rkt
        self._words = rkt.argv(OPEN, "run", "--pod-name=p", image, "--exec=/bin/true")
        self._options = options
        self.killed = 0
        rkt.rkt(OPEN, "run", image, "--exec=/bin/true")
        nothing_left(rkt)

    def kill(self, call: str, number: int) -> Result:
        """Kill who comes to a system call for the so-many-th time; assert that nothing is left."""
        rkt, words = self._rkt, self._words
        count = len(rkt.enter_argv())
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        traced = ["strace", "-qq", *self._options, "-o", "/dev/null", "-e", f"trace={call}",
                  "-e", inject]  # fmt: skip
        result = rkt.run_reaping([*words[:count], *traced, *words[count:]])
        what = f"killed at {call} {number}: {result}"
        # 137: the process of the app was killed, not one of rkt's.
        assert result.status in (0, 137, 254, -signal.SIGKILL), what
        self.killed += result.status != 0
        try:
            nothing_left(rkt)
        except AssertionError as err:
            raise AssertionError(f"{what}: {err}") from err
        return result


def steps(calls: dict[str, int], often: int) -> Iterator[tuple[str, int]]:
    every = os.environ.get("RKT_TEST_EVERY_STEP") == "1"
    for call, times in calls.items():
        step = 1 if every else max(1, times // often)
        # The first execve is the one by which strace starts rkt.
        for number in range(2 if call == "execve" else 1, times + 1, step):
            yield call, number


@needs("strace")
@pytest.mark.timeout(900)
def test_killed_at_every_step(rkt: RktContext, image: str) -> None:
    killer = Killer(rkt, image)
    for call, number in steps(STEPS, OFTEN):
        result = killer.kill(call, number)
        assert result.status in (0, -signal.SIGKILL), f"killed at {call} {number}: {result}"
    # Versions of the interpreter differ in a few calls, not in most.
    assert killer.killed >= len(STEPS)
    assert rkt.rkt(OPEN, "run", "--pod-name=p", image, "--exec=/bin/true").status == 0


@needs("strace")
@pytest.mark.timeout(900)
def test_processes_of_the_supervisor_are_killed_at_every_step(rkt: RktContext, image: str) -> None:
    killer = Killer(rkt, image, "-f")
    for call, number in steps(STEPS_OF_ALL, OFTEN_OF_ALL):
        result = killer.kill(call, number)
        if result.status > 0:  # the runtime may have had a word too
            assert lines(result)[-1].startswith("rkt: "), f"{call} {number}: {result}"
    assert killer.killed >= len(STEPS_OF_ALL)
    assert rkt.rkt(OPEN, "run", "--pod-name=p", image, "--exec=/bin/true").status == 0
