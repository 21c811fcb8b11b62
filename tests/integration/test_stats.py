"""What running pods use, as the kernel counts it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
BUSY = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 1000 & echo ready; wait"


def worker(rkt: RktContext, *flags: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a pod that used some CPU time and has two processes; gives its UUID."""
    path = AciBuilder("example.com/busy", exec=("/bin/sh", "-c", BUSY)).busybox().build(rkt.files)
    process = rkt.spawn(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", path.path, *flags)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with open(f"{rkt.files}/uuid") as file:
        return process, file.read()


def test_once(rkt: RktContext) -> None:
    assert rkt.rkt("stats", "--format=json").stdout == "null\n"
    process, uuid = worker(rkt)
    header, row = [re.split("\t+", line) for line in rkt.rkt("stats").stdout.splitlines()]
    assert header == [
        "UUID", "APPS", "CPU%", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN",
        "RECEIVED", "SENT",
    ]  # fmt: skip
    assert row[:2] == [uuid[:8], "busy"]
    assert row[-2:] == ["-", "-"]  # the host's network
    (pod,) = json.loads(rkt.rkt("stats", "--format=json", uuid[:8]).stdout)
    assert pod["name"] == uuid
    (app,) = pod["apps"]
    assert app["name"] == "busy"
    for used in (pod, app):
        assert used["cpu_nanoseconds"] is None or used["cpu_nanoseconds"] > 1_000_000
        assert used["pids"] in (None, 2)
        assert used["memory"] is None or 10_000 < used["memory"] < 100_000_000
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert rkt.rkt("stats", "--no-legend").stdout == "\n"
    result = rkt.rkt("stats", uuid, status=254)
    assert result.stderr == f'rkt: pod "{uuid}" isn\'t currently running\n'


def test_a_network_of_its_own_is_counted(rkt: RktContext) -> None:
    process, uuid = worker(rkt, "--net=none")
    (pod,) = json.loads(rkt.rkt("stats", "--format=json", uuid).stdout)
    assert (pod["network_received"], pod["network_sent"]) == (0, 0)
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_a_limit_of_all_apps_is_that_of_the_pod(rkt: RktContext) -> None:
    process, uuid = worker(rkt, "--memory=64Mi")
    table = rkt.rkt("stats", "--no-legend", uuid).stdout
    (pod,) = json.loads(rkt.rkt("stats", "--format=json", uuid).stdout)
    (app,) = pod["apps"]
    if app["memory_limit"] is None:
        pytest.skip("the host does not count memory")
    assert app["memory_limit"] == pod["memory_limit"] == 64 << 20
    assert re.split("\t+", table)[5] == "64MiB"
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def test_on_a_terminal_until_interrupted(rkt: RktContext) -> None:
    process, uuid = worker(rkt)
    screen = rkt.terminal("stats", "--interval=50ms")
    screen.read_until(uuid[:8])
    screen.output = ""
    screen.read_until("\x1b[H\x1b[2J")
    screen.read_until(uuid[:8])
    screen.write("\x03")
    assert screen.wait() == 0
    # What the terminal keeps of earlier commands stays.
    assert set(re.findall(r"\x1b\[[?0-9;]*[a-zA-Z]", screen.output)) == {"\x1b[H", "\x1b[2J"}
    following = rkt.spawn("stats", "--follow", "--interval=50ms", "--no-legend", uuid)
    assert following.stdout is not None
    for _ in range(3):
        assert following.stdout.readline().startswith(uuid[:8].encode())
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert following.wait(30) == 0


def test_the_longest_interval(rkt: RktContext) -> None:
    following = rkt.spawn("stats", "--follow", "--interval=2562047h")
    assert following.stdout is not None
    assert following.stdout.readline().startswith(b"UUID")
    with pytest.raises(subprocess.TimeoutExpired):
        following.wait(0.2)
    following.send_signal(signal.SIGINT)
    assert following.wait(20) == 0


def test_bad_values(rkt: RktContext) -> None:
    result = rkt.rkt("stats", "--interval=0", status=254)
    text = 'rkt: invalid argument "0" for --interval=0: must be positive\n'
    assert result.stderr.startswith(text)
    result = rkt.rkt("stats", "--format=xml", status=254)
    assert result.stderr == "rkt: Invalid format option: xml\n"
