"""Somebody takes a pod's overlays or its directory away, while it runs or after that."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
APP = "opt/stage2/app/rootfs"


@pytest.fixture
def uuid(rkt: RktContext) -> str:
    path = AciBuilder("example.com/app", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    script = "trap 'exit 7' TERM; echo hello; while :; do sleep 0.05; done"
    words = ("run", "--detach", path.path, "--exec=/bin/sh", "--", "-c", script)
    made = rkt.rkt(OPEN, *words).stdout.strip()
    rkt.wait_for(lambda: rkt.rkt("logs", made).stdout == "hello\n")
    return made


def supervisor(rkt: RktContext, uuid: str) -> int:
    with open(f"{rkt.pod_dir(uuid)}/oci-state") as file:
        return int(json.load(file)["supervisor"])


def status(rkt: RktContext, *words: str) -> dict[str, str]:
    lines = rkt.rkt("status", *words).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def nothing_left(rkt: RktContext) -> None:
    for _ in range(2):
        said = rkt.rkt("gc", "--grace-period=0s").stderr.splitlines()
        assert [line for line in said if not line.startswith("Moving ")] == []
    rkt.wait_for(lambda: rkt.leaked() == [])
    assert rkt.rkt("list", "--no-legend").stdout == "\n"


@pytest.mark.parametrize("root", [APP, ""], ids=["app", "stage1"])
@pytest.mark.parametrize("options", [(), ("-l",)], ids=["plain", "lazy"])
def test_unmounted_overlay(rkt: RktContext, uuid: str, root: str, options: tuple[str, ...]) -> None:
    target = f"{rkt.pod_dir(uuid)}/stage1/rootfs/{root}".rstrip("/")
    enter = ("nsenter", "-t", str(supervisor(rkt, uuid)), "-m", "--", "umount")
    done = rkt.run([*enter, *options, target])
    busy = not root and not options
    # The mounts of the apps below it protect the root of stage1.
    assert done.status == (32 if busy else 0), done
    assert status(rkt, uuid)["state"] == "running"
    assert uuid[:8] in rkt.rkt("list").stdout
    assert rkt.rkt("logs", uuid).stdout == "hello\n"
    entered = rkt.rkt("enter", uuid, "echo", "hi", status=None)
    if root or busy:
        assert (entered.status, entered.stdout) == (0, "hi\n")
    else:  # where it would be said which process is the app's
        assert (entered.status, entered.stderr) == (254, 'rkt: app "app" is not running\n')
    assert rkt.rkt("stop", uuid).stdout == f'"{uuid}"\n'
    found = status(rkt, "--wait", uuid)
    assert found["state"] == "exited"
    if root or busy:
        assert found["app"] == "7"
    assert rkt.rkt("logs", uuid).stdout == "hello\n"
    rkt.rkt("export", uuid, f"{rkt.files}/exported.aci")
    rkt.rkt("rm", uuid)
    nothing_left(rkt)


def test_overlay_of_a_pod_that_has_exited(rkt: RktContext, uuid: str) -> None:
    """The layers are gone: nothing can be read from them, all else is as always."""
    rkt.rkt("stop", uuid)
    assert status(rkt, "--wait", uuid)["app"] == "7"
    shutil.rmtree(f"{rkt.pod_dir(uuid)}/overlay")
    assert status(rkt, uuid)["state"] == "exited"
    assert rkt.rkt("logs", uuid).stdout == "hello\n"
    refused = rkt.rkt("export", uuid, f"{rkt.files}/exported.aci", status=254)
    assert refused.stderr == f'rkt: pod "{uuid}": the files of app "app" are gone\n'
    assert not os.path.exists(f"{rkt.files}/exported.aci")
    rkt.rkt("rm", uuid)
    nothing_left(rkt)


@pytest.mark.parametrize("removed", [False, True], ids=["moved", "removed"])
def test_directory_of_a_running_pod(rkt: RktContext, uuid: str, removed: bool) -> None:
    pid, place, aside = supervisor(rkt, uuid), rkt.pod_dir(uuid), f"{rkt.data}/aside"
    if removed:
        # From outside of the pod's mount namespace, in which it is full of mounts.
        shutil.rmtree(place)
    else:
        os.rename(place, aside)
    for words in (("status",), ("logs",), ("stop",), ("rm",), ("export",), ("enter",)):
        more = {"export": (f"{rkt.files}/x.aci",), "enter": ("true",)}.get(words[0], ())
        said = rkt.rkt(*words, uuid, *more, status=254).stderr.splitlines()
        assert said[0].endswith(f': no matches found for "{uuid}"')
    assert rkt.rkt("list", "--no-legend").stdout == "\n"
    os.kill(pid, signal.SIGTERM)
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if re.match("process|cgroup", leak)])
    if not removed:
        os.rename(aside, place)
        assert status(rkt, uuid)["state"] == "exited"
        assert rkt.rkt("logs", uuid).stdout == "hello\n"
    nothing_left(rkt)
