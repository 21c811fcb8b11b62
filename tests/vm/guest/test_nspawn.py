"""stage1-nspawn with the controllers of control groups of version 2: run inside the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
NSPAWN = "--stage1-from-dir=stage1-nspawn.aci"
ROOT = "/sys/fs/cgroup"


@pytest.fixture
def image(rkt: RktContext) -> str:
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    return builder.build(rkt.files).path


def read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def test_limits_are_those_of_the_units(rkt: RktContext, image: str) -> None:
    rkt.rkt(
        OPEN, "run", NSPAWN, "--detach", "--pod-name=p", image, "--memory=64Mi", "--cpu=250m",
        "--cpu-shares=4096", "--", "sleep 1000",
    )  # fmt: skip
    found = [path for path, _, _ in os.walk(ROOT) if path.endswith("/app_app.slice")]
    assert len(found) == 1, found
    (unit,) = (entry.path for entry in os.scandir(found[0]) if entry.is_dir())
    assert read(f"{unit}/memory.max") == str(64 << 20)
    assert read(f"{unit}/cpu.max") == "25000 100000"
    assert read(f"{unit}/cpu.weight") == str(1 + (4096 - 2) * 9999 // 262142)
    rkt.rkt("stop", "p")
    rkt.wait_for(lambda: "exited" in rkt.rkt("status", "p").stdout)


def test_memory_beyond_the_limit_kills_and_is_told(rkt: RktContext, image: str) -> None:
    take = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}"
    result = rkt.rkt(OPEN, "run", NSPAWN, image, "--memory=40M", "--", take, status=None)
    assert result.status not in (0, 254)
    assert "out of memory" in result.stderr
    assert result.stdout == ""


def test_devices_are_closed(rkt: RktContext, image: str) -> None:
    script = "mknod /disk b 254 0; head -c 1 /disk | wc -c; head -c 1 /dev/zero | wc -c"
    result = rkt.rkt(OPEN, "run", NSPAWN, image, "--", script)
    assert "Operation not permitted" in result.stderr
    assert result.stdout == "0\n1\n"


def test_a_private_network(rkt: RktContext, image: str) -> None:
    result = rkt.rkt(OPEN, "run", NSPAWN, "--net", image, "--", "ip -o -4 addr show dev eth0")
    assert "172.16.28." in result.stdout
