"""Pods on a host whose control groups are of version 2: run inside the machine of ../machine.py."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
ROOT = "/sys/fs/cgroup"
RUNTIMES = ("crun", "runc")
BOTH = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture
def image(rkt: RktContext) -> str:
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    return builder.build(rkt.files).path


def prepared(rkt: RktContext, image: str, apps: dict[str, list[tuple[str, Any]]],
             isolators: list[tuple[str, Any]]) -> str:  # fmt: skip
    """Prepare a pod of sleeping apps with isolators; gives its UUID."""
    key = rkt.rkt(OPEN, "fetch", image).stdout.splitlines()[-1]

    def listed(pairs: list[tuple[str, Any]]) -> list[dict[str, Any]]:
        return [{"name": name, "value": value} for name, value in pairs]

    manifest = {
        "acKind": "PodManifest", "acVersion": "0.8.11", "isolators": listed(isolators),
        "apps": [
            {"name": name, "image": {"id": key}, "app": {
                "exec": ["/bin/sleep", "1000"], "user": "0", "group": "0",
                "isolators": listed(own),
            }}
            for name, own in apps.items()
        ],
    }  # fmt: skip
    path = f"{rkt.files}/pod.json"
    with open(path, "w") as file:
        json.dump(manifest, file)
    return rkt.rkt(OPEN, "prepare", f"--pod-manifest={path}").stdout.strip()


def own_group(uuid: str) -> str:
    """Give the directory of a running pod's control group."""
    found = [path for path, _, _ in os.walk(ROOT) if path.endswith(f"/rkt-{uuid}")]
    assert len(found) == 1, found
    return found[0]


def read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def command(pid: str) -> str:
    """Give the command line of a process, "" if it has ended."""
    try:
        return read(f"/proc/{pid}/cmdline")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _pids(group: str) -> list[str]:
    return read(f"{group}/cgroup.procs").split()


@BOTH
def test_limits_are_written_and_seen_from_inside(rkt: RktContext, image: str, runtime: str) -> None:
    own = [("resource/memory", {"limit": "64Mi"}), ("resource/cpu", {"limit": "250m"}),
           ("os/linux/cpu-shares", 4096)]  # fmt: skip
    above = [("resource/memory", {"limit": "128Mi"}), ("resource/cpu", {"limit": "500m"}),
             ("resource/block-iops", {"default": True, "limit": "100"})]  # fmt: skip
    uuid = prepared(rkt, image, {"one": own, "two": []}, above)
    process = rkt.spawn("run-prepared", uuid, env={"RKT_OCI_RUNTIME": runtime})
    rkt.wait_for(lambda: rkt.rkt("enter", "--app=two", uuid, "true", status=None).status == 0)
    group = own_group(uuid)
    assert read(f"{group}/memory.max") == str(128 << 20)
    assert read(f"{group}/cpu.max") == "50000 100000"
    assert "wiops=100" in read(f"{group}/io.max")
    assert read(f"{group}/one/memory.max") == str(64 << 20)
    assert read(f"{group}/one/cpu.max") == "25000 100000"
    assert int(read(f"{group}/one/cpu.weight")) > int(read(f"{group}/two/cpu.weight"))
    stats = json.loads(rkt.rkt("stats", "--format=json", uuid).stdout)
    text = json.dumps(stats)
    assert str(64 << 20) in text, text
    rkt.rkt("stop", uuid)
    process.wait(60)


@BOTH
def test_limits_that_only_the_privileged_may_raise(
    rkt: RktContext, image: str, runtime: str
) -> None:
    script = 'ulimit -r 50; ulimit -e 25; exec "$@"'
    words = rkt.argv(OPEN, "run", image, "--", "ulimit -r; ulimit -e")
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    assert rkt.run(["bash", "-c", script, "bash", *words]).stdout == "50\n25\n"


@BOTH
def test_memory_beyond_the_limit_kills_and_is_told(
    rkt: RktContext, image: str, runtime: str
) -> None:
    take = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}"
    result = rkt.rkt(
        OPEN, "run", image, "--memory=40M", "--", take, env={"RKT_OCI_RUNTIME": runtime},
        status=None,
    )  # fmt: skip
    assert result.status not in (0, 254)
    assert "out of memory" in result.stderr
    assert result.stdout == ""


def test_an_entered_process_counts_with_its_app(rkt: RktContext, image: str) -> None:
    rkt.rkt(OPEN, "run", "--detach", "--pod-name=p", image, "--memory=64M", "--", "sleep 1000")
    (uuid,) = rkt.pods
    process = rkt.spawn("enter", "p", "/bin/sleep", "1000")
    group = own_group(uuid)

    def sleepers() -> int:
        pids = [pid for path, _, _ in os.walk(f"{group}/app") for pid in _pids(path)]
        return sum("sleep" in command(pid) for pid in pids)

    rkt.wait_for(lambda: sleepers() == 2)
    rkt.rkt("stop", "p")
    process.wait(60)


@pytest.mark.parametrize(
    "around",
    [
        ["systemd-run", "--quiet", "--scope", "--"],
        ["systemd-run", "--quiet", "--wait", "--pipe", "--property=Delegate=yes", "--"],
        ["systemd-run", "--quiet", "--wait", "--pipe", "--"],
    ],
    ids=["scope", "delegated", "undelegated"],
)
def test_a_pod_of_a_unit(rkt: RktContext, image: str, around: list[str]) -> None:
    """Wherever rkt is started, limits hold and nothing is left."""
    words = rkt.argv("--insecure-options=image,paths", "run", image, "--memory=64M", "--",
                     "cat /sys/fs/cgroup/memory.max")  # fmt: skip
    environment = [f"--setenv={name}={value}" for name, value in rkt.env.items()]
    result = rkt.run([*around[:-1], *environment, "--", *words])
    assert result.status == 0, result.stderr
    assert result.stdout == f"{64_000_000 // 4096 * 4096}\n"


def test_a_killed_supervisor_leaves_what_gc_removes(rkt: RktContext, image: str) -> None:
    process = rkt.spawn(OPEN, "run", "--pod-name=p", image, "--memory=64M", "--", "sleep 1000")
    rkt.wait_for(lambda: rkt.rkt("enter", "p", "true", status=None).status == 0)
    process.kill()
    process.wait(60)
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")


@BOTH
def test_user_namespaces(rkt: RktContext, image: str, runtime: str) -> None:
    result = rkt.rkt(
        OPEN, "run", "--private-users", image, "--memory=64M", "--",
        "id -u; cat /proc/self/uid_map; touch /f && stat -c %u /f",
        env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("0", "0")
    assert lines[1].split()[1] != "0"


def test_a_fork_bomb_ends_with_its_pod(rkt: RktContext, image: str) -> None:
    rkt.rkt(
        OPEN, "run", "--detach", "--pod-name=p", image, "--memory=64M", "--cpu=200m", "--",
        "while :; do sleep 1000 & done",
    )  # fmt: skip
    rkt.rkt("stop", "--force", "p")
    rkt.wait_for(lambda: "exited" in rkt.rkt("status", "p").stdout)
