"""Full file systems: every command says so in a line and leaves nothing; with room it works."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.disk import SmallDisk
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
IMAGE = "example.com/app"
NO_ROOM = re.compile('rkt: .*".+".*No space left on device$')
KINDS = ("blocks", "names")


@pytest.fixture
def disk(rkt: RktContext) -> Iterator[SmallDisk]:
    small = SmallDisk(rkt, rkt.data, options="size=40m,nr_inodes=2500")
    yield small
    small.free()
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")
    pods = [name for name in small.files() if name.startswith("pods/")]
    small.close()
    assert pods == []


@pytest.fixture
def archive(rkt: RktContext) -> str:
    builder = AciBuilder(IMAGE, exec=("/bin/sleep", "1000")).busybox()
    return str(builder.build(f"{rkt.files}/app.aci").path)


def take(disk: SmallDisk, kind: str, leave: int = 0) -> None:
    if kind == "blocks":
        disk.fill(leave=leave)
    else:
        disk.fill_names(leave=leave)


def said(result: Result) -> list[str]:
    """Give what was said, without the warning about the switch and hints."""
    return [
        line
        for line in result.stderr.splitlines()
        if "signature verification" not in line and not line.startswith("hint: ")
    ]


REMOVAL_FAILED = ["rkt: 1 image(s) cannot be removed", "rkt: error(s) found while removing images"]


def refused(result: Result) -> None:
    lines = said(result)
    if lines[1:] == REMOVAL_FAILED:  # `image rm` sums up whatever happened to each image
        del lines[1:]
    assert (result.status, len(lines)) == (254, 1), result
    assert NO_ROOM.match(lines[0]), result.stderr
    assert lines[0].count("No space left") == 1, lines


def staged(disk: SmallDisk) -> list[str]:
    """Name what commands that failed left in the store and among the pods."""
    tops = ("cas/tmp/", "cas/partial/", "pods/")
    return [name for name in disk.files() if name.startswith(tops)]


@pytest.mark.parametrize("kind", KINDS)
def test_images(rkt: RktContext, disk: SmallDisk, archive: str, kind: str) -> None:
    other = AciBuilder("example.com/b").busybox().file("f", b"f").build(f"{rkt.files}/b.aci").path
    take(disk, kind)
    refused(rkt.rkt(OPEN, "fetch", archive, status=None))
    disk.free()
    assert staged(disk) == []
    rkt.rkt(OPEN, "fetch", archive)
    commands = [
        (OPEN, "fetch", other),
        (OPEN, "run", IMAGE),
        (OPEN, "prepare", IMAGE),
        ("image", "gc"),
        ("image", "rm", IMAGE),
        ("image", "export", IMAGE, f"{rkt.data}/x.aci"),
        ("image", "render", IMAGE, f"{rkt.data}/x"),
    ]
    for words in commands:
        take(disk, kind)
        result = rkt.rkt(*words, status=None)
        # There is nothing to collect: that can be told where the database has room left in its log.
        if words != ("image", "gc") or result.status != 0:
            refused(result)
        assert staged(disk) == [], words
    disk.free()
    assert not os.path.exists(f"{disk.path}/x.aci")
    for words in commands:
        args = ("--exec=/bin/true",) if "run" in words else ()
        if words[:2] != ("image", "rm"):
            rkt.rkt(*words, *args)
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s", "--expire-prepared=0s")
    assert "successfully removed" in rkt.rkt("image", "rm", IMAGE).stdout


# Little by little

STEPS = {
    "blocks": [*range(0, 400, 24), 2000, 4000, 8000, 16000],
    "names": [*range(0, 150, 9), 400, 800, 1600],
}


def little_by_little(kind: str) -> Iterator[int]:
    for step in STEPS[kind]:
        yield step << 10 if kind == "blocks" else step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["run", "prepare", "prepare --no-overlay", "run-prepared"])
def test_a_pod_with_little_room(
    rkt: RktContext, disk: SmallDisk, archive: str, verb: str, kind: str
) -> None:
    rkt.rkt(OPEN, "fetch", archive)
    rkt.rkt(OPEN, "run", IMAGE, "--exec=/bin/true")  # stage1 is in the store, directories are made
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")
    failed = 0
    for leave in little_by_little(kind):
        words = [OPEN, *verb.split(), IMAGE, "--exec=/bin/true"]
        if verb == "run-prepared":
            words = [verb, rkt.rkt(OPEN, "prepare", IMAGE, "--exec=/bin/true").stdout.strip()]
        take(disk, kind, leave)
        result = rkt.rkt(*words, status=None)
        if result.status == 0:
            break
        failed += 1
        refused(result)
        rkt.rkt("list")
        rkt.rkt("gc", "--grace-period=0s")
        rkt.rkt("gc", "--grace-period=0s")
        assert staged(disk) == []
        disk.free()
    else:
        raise AssertionError("it never works")
    assert failed
    disk.free()
    rkt.rkt("gc", "--grace-period=0s", "--expire-prepared=0s")


def sandbox(rkt: RktContext) -> str:
    path = f"{rkt.files}/uuid"
    rkt.spawn("app", "sandbox", f"--uuid-file-save={path}")
    rkt.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) == 36)
    with open(path) as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)
    return uuid


@pytest.mark.parametrize("kind", KINDS)
def test_apps_of_a_running_pod(rkt: RktContext, disk: SmallDisk, archive: str, kind: str) -> None:
    rkt.rkt(OPEN, "fetch", archive)
    uuid = sandbox(rkt)
    add = ("app", "add", uuid, IMAGE, "--name=one")
    failed = 0
    for leave in little_by_little(kind):
        take(disk, kind, leave)
        result = rkt.rkt(OPEN, *add, status=None)
        disk.free()
        if result.status == 0:
            break
        failed += 1
        refused(result)
        assert "one" not in rkt.rkt("app", "list", uuid).stdout, (leave, result)
    assert failed
    take(disk, kind)
    started = rkt.rkt("app", "start", uuid, "--app=one", status=None)
    if started.status:
        refused(started)
        disk.free()
        rkt.rkt("app", "start", uuid, "--app=one")
        take(disk, kind)
    assert rkt.rkt("app", "list", uuid).stdout.splitlines()[1] == "one\trunning"
    assert rkt.rkt("app", "exec", "--app=one", uuid, "echo", "hi").stdout == "hi\n"
    rkt.rkt("app", "stop", uuid, "--app=one")
    assert rkt.rkt("app", "list", uuid).stdout.splitlines()[1] == "one\texited"
    disk.free()
    rkt.rkt("app", "rm", uuid, "--app=one")
    take(disk, kind)
    rkt.rkt("stop", uuid)
    rkt.rkt("status", "--wait", uuid)
    rkt.rkt("rm", uuid)


COUNTER = """
echo before
n=0; trap 'n=$((n+1)); echo "$n"; seq 1 20000; echo done > /out/$n' USR1
trap 'exit 7' TERM
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_pod(rkt: RktContext, disk: SmallDisk, archive: str, kind: str) -> None:
    rkt.rkt(OPEN, "fetch", archive)
    out = f"{rkt.files}/out"
    os.mkdir(out)
    uuid = rkt.rkt(
        OPEN, "run", "--detach", "--pod-name=p", f"--volume=out,kind=host,source={out}", IMAGE,
        "--mount=volume=out,target=/out", "--exec=/bin/sh", "--", "-c", COUNTER,
    ).stdout.strip()  # fmt: skip
    rkt.wait_for(lambda: "before" in rkt.rkt("logs", "p").stdout)
    take(disk, kind)
    for words in ("list", "status p", "cat-manifest p", "stats p", "gc", "logs p"):
        rkt.rkt(*words.split())
    assert rkt.rkt("enter", "p", "echo", "hi").stdout == "hi\n"
    app = app_pid(disk, uuid)
    os.kill(app, signal.SIGUSR1)
    # It is not made to wait by a log that cannot be written.
    rkt.wait_for(lambda: os.path.exists(f"{out}/1"))
    disk.free()
    os.kill(app, signal.SIGUSR1)
    rkt.wait_for(lambda: os.path.exists(f"{out}/2"))  # more was written than a pipe holds
    rkt.wait_for(lambda: rkt.rkt("logs", "p").stdout.endswith("\n20000\n"))
    logged = rkt.rkt("logs", "p")
    if kind == "blocks":
        assert re.fullmatch(r"rkt: \d+ bytes of output were lost: no room .*\n", logged.stderr)
    take(disk, kind)
    rkt.rkt("stop", "p")
    found = rkt.rkt("status", "--wait", "p").stdout.splitlines()
    assert ("state=exited" in found, "app=7" in found) == (True, True), found
    take(disk, kind)  # what the end of the pod gave back
    refused(rkt.rkt("export", uuid, f"{rkt.data}/x.aci", status=None))
    assert "before" in rkt.rkt("logs", "p").stdout
    disk.free()
    rkt.rkt("export", uuid, f"{rkt.data}/x.aci")
    take(disk, kind)
    rkt.rkt("rm", "p")


def app_pid(disk: SmallDisk, uuid: str) -> int:
    """Give the process of the pod's app as the host counts."""
    for top, _, names in os.walk(f"{disk.path}/pods/run/{uuid}/overlay"):
        if top.endswith("/rkt/status") and "app.pid" in names:
            with open(f"{top}/app.pid") as file:
                return int(file.read().split()[0])
    raise AssertionError("the app has no process")


@pytest.mark.parametrize("kind", KINDS)
def test_full_directory_of_runtime_files(rkt: RktContext, archive: str, kind: str) -> None:
    """What rkt keeps below /run (compiled filters, users, networks) is of use, not needed."""
    small = SmallDisk(rkt, "/run/rkt", options="size=1m,nr_inodes=50")
    try:
        take(small, kind)
        assert rkt.rkt(OPEN, "run", archive, "--exec=/bin/echo", "--", "hi").stdout == "hi\n"
        rkt.rkt(OPEN, "run", "--detach", "--pod-name=p", IMAGE)
        assert rkt.rkt("enter", "p", "echo", "hi").stdout == "hi\n"
        result = rkt.rkt(OPEN, "run", "--net=default", IMAGE, "--exec=/bin/true", status=None)
        assert result.status == 0, result
        rkt.rkt("stop", "p")
        rkt.rkt("status", "--wait", "p")
        for _ in range(2):
            rkt.rkt("gc", "--grace-period=0s")
    finally:
        small.close()
