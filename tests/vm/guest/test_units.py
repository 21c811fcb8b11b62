"""Pods in units, as machines: where control groups limit and machined is the real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.context import TIMEOUT
from rkt_testkit.probes import rkt_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOT = "/sys/fs/cgroup"
HOLD = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"
MIB = 1 << 20


class Host:
    """The machine as it is: rkt in units of it, with no namespaces of the test kit around it."""

    def __init__(self, base: Path) -> None:
        self.base = str(base)
        self.words = [rkt_binary(), f"--dir={base}/data", "--insecure-options=image"]
        image = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
        self.image = str(image.build(self.base).path)

    def tool(self, *argv: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert status is None or done.returncode == status, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def out(self, *argv: str) -> str:
        return self.tool(*argv).stdout

    def rkt(self, *args: str) -> str:
        return self.tool(*self.words, *args).stdout

    def unit(
        self, *args: str, properties: tuple[str, ...], env: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Start rkt as the main process of the unit `pod`."""
        argv = ["systemd-run", "--quiet", "--unit=pod", *(f"--setenv={text}" for text in env)]
        argv += [f"--property={text}" for text in ("KillMode=mixed", *properties)]
        return self.tool(*argv, *(["--wait", "--pipe"] if "Type=notify" not in properties else []),
                         "--", *self.words, *args, status=None)  # fmt: skip

    def machines(self) -> str:
        return self.out("machinectl", "list", "--no-legend")

    def wait_for(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not what():
            assert time.monotonic() < deadline, self.out("journalctl", "-q", "-u", "pod")
            time.sleep(0.1)

    def clean(self) -> None:
        """End what a failed test left; assert that gc leaves nothing."""
        self.tool("systemctl", "stop", "pod", status=None)
        self.tool("systemctl", "reset-failed", "pod", status=None)
        self.wait_for(lambda: self.machines() == "")
        for _ in range(2):
            self.rkt("gc", "--grace-period=0s")
        left = [path for path, _, _ in os.walk(ROOT) if "/rkt-" in path]
        with open("/proc/self/mountinfo") as file:
            left += [line.split()[4] for line in file if self.base in line]
        assert not left


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.clean()


def read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


@pytest.mark.parametrize("flavour", ["crun", "runc", "fly"])
def test_a_pod_is_a_machine(host: Host, flavour: str) -> None:
    flags = ["--stage1-from-dir=stage1-fly.aci"] if flavour == "fly" else ["--net=default"]
    env = () if flavour == "fly" else (f"RKT_OCI_RUNTIME={flavour}",)
    started = host.unit("run", *flags, host.image, "--", HOLD, env=env,
                        properties=("Type=notify", "Delegate=yes"))  # fmt: skip
    assert started.returncode == 0, host.out("journalctl", "-q", "-u", "pod")
    (uuid,) = os.listdir(f"{host.base}/data/pods/run")
    name = f"rkt-{uuid}"
    assert host.machines().split()[:3] == [name, "container", "rkt"]
    if flavour != "fly":
        address = re.search(r"172\.16\.28\.\d+", host.rkt("list"))
        assert address
        assert address[0] in host.machines()
        assert address[0] in host.out("machinectl", "--no-pager", "status", name)
    journal = ("journalctl", "-q", "-o", "cat", "-M", name)
    host.wait_for(lambda: host.out(*journal, "-t", "app") == "hello\n")
    assert host.out(*journal, "-u", "app") == "hello\n"
    host.out("machinectl", "poweroff", name)
    host.wait_for(lambda: "state=exited" in host.rkt("status", uuid))
    assert host.rkt("logs", uuid) == "hello\nbye\n"
    host.wait_for(lambda: host.machines() == "")


@pytest.mark.parametrize("delegate", [True, False], ids=["delegated", "undelegated"])
def test_limits_of_a_pod_in_a_unit(host: Host, delegate: bool) -> None:
    """The unit's limit and the pod's are both there, and stay when systemd looks again."""
    key = host.rkt("fetch", host.image).split()[-1]
    manifest = {
        "acKind": "PodManifest", "acVersion": "0.8.11",
        "isolators": [{"name": "resource/memory", "value": {"limit": "128Mi"}}],
        "apps": [{"name": "app", "image": {"id": key}, "app": {
            "exec": ["/bin/sh", "-c", HOLD], "user": "0", "group": "0",
            "isolators": [{"name": "resource/memory", "value": {"limit": "64Mi"}}],
        }}],
    }  # fmt: skip
    with open(f"{host.base}/pod.json", "w") as file:
        json.dump(manifest, file)
    uuid = host.rkt("prepare", f"--pod-manifest={host.base}/pod.json").strip()
    properties = ("Type=notify", "MemoryMax=256M", *(["Delegate=yes"] if delegate else []))
    started = host.unit("run-prepared", uuid, properties=properties)
    said = host.out("journalctl", "-q", "-o", "cat", "-u", "pod")
    assert started.returncode == 0, said
    group = f"{ROOT}{read(f'{host.base}/data/pods/run/{uuid}/subcgroup')}"
    own = f"{ROOT}/system.slice/pod.service"
    assert group == f"{own if delegate else ROOT}/rkt-{uuid}"
    limits = {own: 256, group: 128, f"{group}/app": 64}
    for _ in range(2):
        for path, limit in limits.items():
            assert read(f"{path}/memory.max") == str(limit * MIB), path
        host.out("systemctl", "daemon-reload")
    assert ('unit "pod.service" has no Delegate=yes' in said) != delegate
    host.out("systemctl", "stop", "pod")
    assert "app=0" in host.rkt("status", uuid)
    assert not os.path.exists(group)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_no_limits_in_a_unit_without_delegate(host: Host, runtime: str) -> None:
    done = host.unit("run", host.image, "--", "echo hi", properties=(),
                     env=(f"RKT_OCI_RUNTIME={runtime}",))  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    assert 'unit "pod.service" has no Delegate=yes' in done.stderr


def test_the_limit_of_the_unit_is_the_pods(host: Host) -> None:
    take = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}"
    done = host.unit("run", host.image, "--", take,
                     properties=("Delegate=yes", "MemoryMax=40M", "MemorySwapMax=0",
                                 "OOMPolicy=continue"))  # fmt: skip
    assert done.returncode not in (0, 254), done.stderr
    assert "out of memory" in done.stderr
    assert done.stdout == ""
