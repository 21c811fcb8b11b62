"""Figures about pods once they run, or have: listing, stopping, collecting, logging."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
import uuid
from typing import TYPE_CHECKING

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = b"x" * 99 + b"\n"
LINES = LINE * 100_000  # 10 MB
ROUNDS = 60
FLOOD = "cat " + " ".join(["/lines"] * ROUNDS)
IDLE = "trap 'exit 0' TERM; sleep 1000000 & wait"


class Pods:
    """Pods and containers of one image; `call` runs a command that must succeed."""

    def __init__(self, work: str, rkt: list[str], podman: list[str], env: dict[str, str]) -> None:
        self.work = work
        self.rkt = [*rkt, "--insecure-options=image"]
        self.podman = podman
        self.env = env
        image = AciBuilder("example.com/pod", exec=["/bin/true"]).busybox()
        aci = image.file("lines", LINES).build(f"{work}/pod.aci")
        self.key = self.call(*self.rkt, "fetch", aci.path).split()[-1]
        root = f"{work}/pod"
        os.mkdir(root)
        self.call("tar", "-xf", aci.path, "-C", root)
        self.call("tar", "-C", f"{root}/rootfs", "-cf", f"{work}/pod.tar", ".")
        self.name = "localhost/pod"
        self.call(*podman, "import", f"{work}/pod.tar", self.name)

    def call(self, *argv: str) -> str:
        """Run a command and give what it prints."""
        done = subprocess.run(
            argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr}")
        return done.stdout

    def fill(self, count: int, limits: list[str]) -> None:
        """Have so many exited pods and as many containers.

        The pods are copies of one that ran; the containers were created and never ran, which
        leaves podman less to read and to remove.
        """
        self.call(*self.rkt, "run", self.key)
        run = f"{self.work}/data/pods/run"
        (first,) = os.listdir(run)
        for _ in range(count - 1):
            self.call("cp", "-a", f"{run}/{first}", f"{run}/{uuid.uuid4()}")
        made = threading.Semaphore(2)

        def create() -> None:
            with made:
                self.call(*self.podman, "create", "--network=host", *limits, self.name, "true")

        workers = [threading.Thread(target=create) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def take_away(self) -> tuple[float, float]:
        """Collect all pods and remove all containers; give the seconds that each took."""
        begun = time.perf_counter()
        self.call(*self.rkt, "gc", "--grace-period=0s")
        ours = time.perf_counter() - begun
        if os.listdir(f"{self.work}/data/pods/exited-garbage"):
            raise SystemExit("rkt gc left pods")
        begun = time.perf_counter()
        self.call(*self.podman, "rm", "--all")
        return ours, time.perf_counter() - begun

    def stopping(self, limits: list[str]) -> tuple[Callable[[], None], ...]:
        """Give, of each side, what starts a sleeping app and what stops it."""

        def ours() -> None:
            self.call(*self.rkt, "run", "--detach", "--pod-name=idle", self.key,
                      "--exec=/bin/sh", "--", "-c", IDLE)  # fmt: skip
            ready(lambda: "sleep" in self.call(*self.rkt, "enter", "idle", "/bin/ps"))

        def stop_ours() -> None:
            self.call(*self.rkt, "stop", "idle")

        def clean_ours() -> None:
            if os.path.lexists(f"{self.work}/data/podnames/idle"):
                self.call(*self.rkt, "status", "--wait", "idle")
                self.call(*self.rkt, "rm", "idle")

        def theirs() -> None:
            self.call(*self.podman, "run", "--detach", "--name=idle", "--network=host", *limits,
                      self.name, "/bin/sh", "-c", IDLE)  # fmt: skip

        def stop_theirs() -> None:
            self.call(*self.podman, "stop", "-t", "0", "idle")

        def clean_theirs() -> None:
            self.call(*self.podman, "rm", "--force", "--ignore", "idle")

        def begin_ours() -> None:
            clean_ours()
            ours()

        def begin_theirs() -> None:
            clean_theirs()
            theirs()

        return begin_ours, stop_ours, clean_ours, begin_theirs, stop_theirs, clean_theirs

    def flood_ours(self) -> tuple[float, int]:
        """Log 600 MB of short lines; give MB/s and the most memory that the supervisor took."""
        begun = time.perf_counter()
        shell = ("--exec=/bin/sh", "--", "-c", FLOOD)
        pod = self.call(*self.rkt, "run", "--detach", self.key, *shell).strip()
        memory = most_memory(f"{self.work}/data/pods/run/{pod}/oci-state")
        self.call(*self.rkt, "status", "--wait", pod)
        rate = len(LINES) * ROUNDS / 1e6 / (time.perf_counter() - begun)
        kept = self.call(*self.rkt, "logs", "--tail=1000", pod)
        if kept != LINE.decode() * 1000:
            raise SystemExit("the log of rkt is not what was written")
        self.call(*self.rkt, "rm", pod)
        return rate, memory

    def flood_theirs(self, limits: list[str]) -> float:
        """Log the same through conmon."""
        begun = time.perf_counter()
        log = f"{self.work}/conmon.log"
        self.call(*self.podman, "run", "--detach", "--name=flood", "--network=host", *limits,
                  "--log-driver=k8s-file", f"--log-opt=path={log}", self.name,
                  "/bin/sh", "-c", FLOOD)  # fmt: skip
        self.call(*self.podman, "wait", "flood")
        rate = len(LINES) * ROUNDS / 1e6 / (time.perf_counter() - begun)
        self.call(*self.podman, "rm", "--force", "flood")
        return rate


def ready(check: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not check():
        time.sleep(0.01)


def most_memory(record: str) -> int:
    """Watch a supervisor until it ends; give the most memory that it took, in bytes."""
    with open(record, encoding="utf-8") as file:
        supervisor = re.search(r'"supervisor": (\d+)', file.read())
    assert supervisor
    memory = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while True:
            with open(f"/proc/{supervisor[1]}/status", encoding="ascii") as file:
                found = re.search(r"VmHWM:\s+(\d+)", file.read())
            if not found:  # it is dead
                break
            memory = int(found[1]) << 10
            time.sleep(0.02)
    return memory
