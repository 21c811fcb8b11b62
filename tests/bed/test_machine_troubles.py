"""Pods as machines when machined, journald, the bus or the supervisor are missing or gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.bed import Bed

RUN = ("rkt", "--debug", "--insecure-options=image", "run")
HOLD = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"
SHELL = ("--exec=/bin/sh", "--", "-c")
FLY = "--stage1-from-dir=stage1-fly.aci"
NSPAWN = "--stage1-from-dir=stage1-nspawn.aci"
FLAVOURS = pytest.mark.parametrize("flavour", [(), (FLY,), (NSPAWN,)], ids=["oci", "fly", "nspawn"])
JOURNALD = ("systemd-journald.socket", "systemd-journald-dev-log.socket",
            "systemd-journald-audit.socket", "systemd-journald.service")  # fmt: skip


def hold(bed: Bed, image: str, *options: str) -> str:
    """Start a pod in the unit `pod`; gives its UUID when its app has said something."""
    bed.start("pod", *RUN, *options, image, *SHELL, HOLD,
              properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    bed.wait_for(lambda: "hello" in logs(bed, uuid))
    return uuid


def logs(bed: Bed, uuid: str) -> str:
    return bed.tool("rkt", "logs", uuid, status=None).stdout


def stop_in_order(bed: Bed, uuid: str) -> None:
    """Stop the unit: the app hears of it, and nobody complains."""
    bed.tool("systemctl", "stop", "pod")
    assert logs(bed, uuid) == "hello\nbye\n"
    assert "state=exited" in bed.tool("rkt", "status", uuid).stdout
    assert bed.show("pod", "Result")["Result"] == "success"


@pytest.fixture
def masked(bed: Bed) -> Iterator[list[str]]:
    """Units that are unmasked at the end, whatever becomes of the test."""
    units: list[str] = []
    yield units
    bed.tool("systemctl", "unmask", *units)
    bed.tool("systemctl", "start", *units)


@FLAVOURS
def test_machined_is_masked_in_mid_run(
    bed: Bed, busybox: str, masked: list[str], flavour: tuple[str, ...]
) -> None:
    uuid = hold(bed, busybox, *flavour)
    masked.append("systemd-machined.service")
    bed.tool("systemctl", "mask", "--now", *masked)
    stop_in_order(bed, uuid)


def test_machined_is_killed_in_mid_run(bed: Bed, busybox: str) -> None:
    uuid = hold(bed, busybox)
    bed.tool("systemctl", "kill", "--signal=KILL", "systemd-machined.service")
    # Who asks while the bus still has the connection of the dead process gets no answer.
    bed.wait_for(lambda: uuid in bed.tool("machinectl", "list", "--no-legend", status=None).stdout)
    bed.tool("machinectl", "poweroff", f"rkt-{uuid}")
    bed.wait_for(lambda: "bye" in logs(bed, uuid))
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] == "inactive")


@FLAVOURS
def test_journald_is_masked(
    bed: Bed, busybox: str, masked: list[str], flavour: tuple[str, ...]
) -> None:
    """The pod's journal is rkt's own work: it is there without journald, too."""
    masked += JOURNALD
    bed.tool("systemctl", "mask", "--now", *JOURNALD)
    uuid = hold(bed, busybox, *flavour)
    shown = bed.tool("journalctl", "-q", "-o", "cat", "-M", f"rkt-{uuid}").stdout
    assert shown == "hello\n"
    stop_in_order(bed, uuid)


def test_journald_is_masked_in_mid_run(bed: Bed, busybox: str, masked: list[str]) -> None:
    uuid = hold(bed, busybox)
    masked += JOURNALD
    bed.tool("systemctl", "mask", "--now", *JOURNALD)
    stop_in_order(bed, uuid)
    identity = uuid.replace("-", "")
    after = bed.tool("journalctl", "-q", "-o", "cat", "-D", f"/var/log/journal/{identity}").stdout
    assert after == "hello\nbye\n"


@pytest.fixture
def no_journals(bed: Bed) -> Iterator[None]:
    """A host that keeps no journals, by hiding both places where they are."""
    for place in ("/var/log/journal", "/run/log/journal"):
        bed.tool("mkdir", "-p", place)
        bed.tool("mv", place, f"{place}.away")
    yield
    for place in ("/var/log/journal", "/run/log/journal"):
        bed.tool("rm", "-rf", place)
        bed.tool("mv", f"{place}.away", place)


@FLAVOURS
@pytest.mark.usefixtures("no_journals")
def test_a_host_without_journals(
    bed: Bed, busybox: str, masked: list[str], flavour: tuple[str, ...]
) -> None:
    masked += JOURNALD  # it would make the directories again
    bed.tool("systemctl", "mask", "--now", *JOURNALD)
    bed.tool("rm", "-rf", "/var/log/journal", "/run/log/journal")
    uuid = hold(bed, busybox, *flavour)
    assert f"rkt-{uuid}" in bed.tool("machinectl", "list", "--no-legend").stdout
    assert not os.path.exists(f"{bed.root}/var/log/journal")
    stop_in_order(bed, uuid)


@FLAVOURS
def test_a_killed_supervisor_leaves_what_gc_removes(
    bed: Bed, busybox: str, flavour: tuple[str, ...]
) -> None:
    uuid = hold(bed, busybox, *flavour)
    identity = uuid.replace("-", "")
    bed.tool("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "pod")
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] == "failed")
    bed.wait_for(lambda: bed.tool("machinectl", "list", "--no-legend").stdout == "")
    bed.tool("systemctl", "reset-failed", "pod")
    after = bed.tool("journalctl", "-q", "-o", "cat", "-m", f"_MACHINE_ID={identity}").stdout
    assert after == "hello\n"
    bed.rkt("gc", "--grace-period=0s")
    bed.rkt("gc", "--grace-period=0s")
    assert not os.path.exists(f"{bed.root}/var/log/journal/{identity}")
    assert not bed.pods()


def test_a_killed_leader_is_not_the_pods_end(bed: Bed, busybox: str) -> None:
    uuid = hold(bed, busybox)
    shown = bed.tool("machinectl", "show", "--property=Leader", "--value", f"rkt-{uuid}").stdout
    bed.tool("kill", "-KILL", shown.strip())
    bed.wait_for(lambda: not os.path.exists(f"{bed.root}/proc/{shown.strip()}"))
    assert "state=running" in bed.tool("rkt", "status", uuid).stdout
    stop_in_order(bed, uuid)


BUS = "/run/dbus/system_bus_socket"


@pytest.fixture
def no_bus(bed: Bed) -> Iterator[None]:
    """A host without the bus; systemctl has a way of its own to systemd."""
    bed.tool("mv", BUS, f"{BUS}.away")
    yield
    bed.tool("mv", "-f", f"{BUS}.away", BUS)


def run_once(bed: Bed, image: str) -> tuple[str, str]:
    """Run a pod to its end in a unit that systemd-run has no part in; gives its output."""
    words = " ".join((*RUN, image, *SHELL, "'echo hi'"))
    lines = ("[Service]", "Type=oneshot", "Delegate=yes", f"ExecStart={words}",
             f"StandardOutput=truncate:{bed.files}/out",
             f"StandardError=truncate:{bed.files}/err", "")  # fmt: skip
    bed.write("/etc/systemd/system/once.service", "\n".join(lines))
    bed.tool("systemctl", "daemon-reload")
    bed.tool("systemctl", "start", "once")
    return bed.read(f"{bed.files}/out"), bed.read(f"{bed.files}/err")


@pytest.mark.usefixtures("no_bus")
def test_a_host_without_a_bus(bed: Bed, busybox: str) -> None:
    out, err = run_once(bed, busybox)
    assert out == "hi\n"
    assert "machine" not in err


@pytest.mark.usefixtures("no_bus")
def test_a_bus_with_nobody_behind_it(bed: Bed, busybox: str) -> None:
    bed.tool("python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({BUS!r})")
    out, err = run_once(bed, busybox)
    assert out == "hi\n"
    lines = [line for line in err.splitlines() if "machined" in line]
    assert len(lines) == 1, err
    assert "refused" in lines[0].lower()
