"""Pods as machines: machinectl, and their logs with journalctl."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rkt_testkit.bed import Bed

RUN = ("rkt", "--debug", "--insecure-options=image", "run")
HOLD = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"
SHELL = ("--exec=/bin/sh", "--", "-c")


FLY = "--stage1-from-dir=stage1-fly.aci"
NSPAWN = "--stage1-from-dir=stage1-nspawn.aci"
FLAVOURS = pytest.mark.parametrize("flavour", [(), (FLY,), (NSPAWN,)], ids=["oci", "fly", "nspawn"])


def hold(bed: Bed, image: str, *options: str) -> str:
    """Start a pod in the unit `pod`; gives its UUID."""
    bed.start("pod", *RUN, *options, image, *SHELL, HOLD,
              properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    return uuid


def journal(bed: Bed, uuid: str, *options: str) -> str:
    return bed.tool("journalctl", "--no-pager", "--quiet", "-M", f"rkt-{uuid}", *options).stdout


def listed(bed: Bed) -> str:
    return bed.tool("machinectl", "list", "--no-legend").stdout


def ended(bed: Bed, uuid: str) -> bool:
    return "state=exited" in bed.tool("rkt", "status", uuid).stdout


@FLAVOURS
def test_a_pod_in_a_service_is_a_machine(bed: Bed, busybox: str, flavour: tuple[str, ...]) -> None:
    uuid = hold(bed, busybox, *flavour)
    (line,) = listed(bed).splitlines()
    assert line.split()[:4] == [f"rkt-{uuid}", "container", "rkt", "rkt"], line
    status = bed.tool("machinectl", "status", f"rkt-{uuid}").stdout
    assert re.search(r"Unit: pod\.service", status), status
    assert f"({uuid.replace('-', '')})" in status
    bed.tool("systemctl", "stop", "pod")
    assert listed(bed) == ""


@FLAVOURS
@pytest.mark.parametrize("how", ["terminate", "poweroff", "reboot"])
def test_machinectl_ends_a_pod_in_order(
    bed: Bed, busybox: str, how: str, flavour: tuple[str, ...]
) -> None:
    uuid = hold(bed, busybox, *flavour)
    bed.tool("machinectl", how, f"rkt-{uuid}")
    bed.wait_for(lambda: ended(bed, uuid))
    assert bed.tool("rkt", "logs", uuid).stdout == "hello\nbye\n"
    assert "shell=0" in bed.tool("rkt", "status", uuid).stdout
    bed.wait_for(lambda: listed(bed) == "")
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] == "inactive")


@FLAVOURS
@pytest.mark.parametrize("how", ["terminate", "poweroff"])
def test_a_pod_outside_of_a_service_gets_a_scope(
    bed: Bed, busybox: str, how: str, flavour: tuple[str, ...]
) -> None:
    words = (*RUN, *flavour, busybox, *SHELL, HOLD)
    process = bed.spawn("systemd-run", "--scope", "--quiet", *words)
    bed.wait_for(lambda: listed(bed))
    (uuid,) = bed.pods()
    bed.wait_for(lambda: "running" in bed.tool("rkt", "list").stdout)
    bed.wait_for(lambda: "hello" in bed.tool("rkt", "logs", uuid, status=None).stdout)
    scope = f"machine-rkt\\x2d{uuid.replace('-', chr(92) + 'x2d')}.scope"
    assert bed.show(scope, "ActiveState") == {"ActiveState": "active"}
    group = bed.read(f"/var/lib/rkt/pods/run/{uuid}/subcgroup").strip()
    assert group == f"/machine.slice/{scope}/rkt-{uuid}"
    bed.tool("machinectl", how, f"rkt-{uuid}")
    process.communicate(timeout=60)
    assert ended(bed, uuid)
    assert bed.tool("rkt", "logs", uuid).stdout == "hello\nbye\n"
    bed.wait_for(lambda: listed(bed) == "")


@pytest.mark.parametrize("flavour", [(), (NSPAWN,)], ids=["oci", "nspawn"])
def test_addresses_show(bed: Bed, busybox: str, flavour: tuple[str, ...]) -> None:
    uuid = hold(bed, busybox, "--net=default", *flavour)
    address = re.search(r"172\.16\.28\.\d+", bed.tool("rkt", "list").stdout)
    assert address
    bed.wait_for(lambda: address[0] in listed(bed))
    bed.tool("systemctl", "stop", "pod")
    assert ended(bed, uuid)


@FLAVOURS
def test_the_journal_is_read_while_it_runs_and_after(
    bed: Bed, busybox: str, flavour: tuple[str, ...]
) -> None:
    uuid = hold(bed, busybox, *flavour)
    bed.wait_for(lambda: "hello" in journal(bed, uuid))
    name = "bed" if flavour == (FLY,) else f"rkt-{uuid}"  # fly has the host's name
    assert re.search(rf"{name} shell\[\d+\]: hello", journal(bed, uuid))
    for option in (("-t", "shell"), ("-u", "shell")):
        assert "hello" in journal(bed, uuid, *option)
        assert journal(bed, uuid, option[0], "other") == ""
    follow = bed.spawn("journalctl", "-M", f"rkt-{uuid}", "-f", "-o", "cat")
    assert follow.stdout is not None
    assert follow.stdout.readline() == "hello\n"
    bed.tool("systemctl", "stop", "pod")
    assert follow.stdout.readline() == "bye\n"
    follow.terminate()
    follow.communicate()
    identity = uuid.replace("-", "")
    after = bed.tool("journalctl", "-q", "-o", "cat", "-m", f"_MACHINE_ID={identity}").stdout
    assert after.splitlines() == ["hello", "bye"]
    directory = f"/var/log/journal/{identity}"
    bed.tool("journalctl", "--verify", "-D", directory)
    bed.rkt("gc", "--grace-period=0s")
    bed.rkt("gc", "--grace-period=0s")
    assert not os.path.exists(f"{bed.root}{directory}")


@pytest.mark.parametrize("unit", ["systemd-machined", "systemd-journald"])
def test_pods_go_on_when_it_is_restarted(bed: Bed, busybox: str, unit: str) -> None:
    uuid = hold(bed, busybox)
    bed.tool("systemctl", "restart", unit)
    assert "hello" in journal(bed, uuid)
    bed.tool("systemctl", "stop", "pod")
    assert ended(bed, uuid)
    assert listed(bed) == ""


def test_pods_run_when_machined_is_masked(bed: Bed, busybox: str) -> None:
    bed.tool("systemctl", "mask", "--now", "systemd-machined")
    try:
        done = bed.rkt("--debug", "--insecure-options=image", "run", busybox, *SHELL, "echo hi")
        assert done.stdout == "hi\n"
        lines = [line for line in done.stderr.splitlines() if "machined" in line]
        assert len(lines) == 1, done.stderr
        assert "masked" in lines[0]
    finally:
        bed.tool("systemctl", "unmask", "systemd-machined")


def test_a_unit_without_delegate_says_so(bed: Bed, busybox: str) -> None:
    done = bed.job("rkt", "--insecure-options=image", "run", busybox, *SHELL, "echo hi")
    assert done.stdout == "hi\n"
    assert re.search(r'unit "run-u\d+\.service" has no Delegate=yes', done.stderr), done.stderr
