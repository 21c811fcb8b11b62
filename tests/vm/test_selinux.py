"""A host that enforces SELinux: the tests of guest/test_selinux.py, inside a virtual machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.probes import REPOSITORY, needs, rkt_binary
from vm import machine
from vm.test_vm import pack

if TYPE_CHECKING:
    from pathlib import Path

# As an administrator who logs in; what was denied is told at the end.
_PREFIX = (
    "trap 'dmesg | cat | grep avc: | tail -n 30' EXIT\n"
    "runcon unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
)

pytestmark = needs("root", "rkt", "vm")


@pytest.mark.timeout(900)
def test_enforcing(tmp_path: Path) -> None:
    assert os.access(rkt_binary(), os.X_OK)
    job = f"{tmp_path}/job"
    os.mkdir(job)
    pack(job, "test_selinux.py", prefix=_PREFIX)
    image = machine.image(f"{REPOSITORY}/.cache")
    output = machine.run(image, job, kernel=machine.ENFORCING)
    print(output)
    assert f"{machine.END} 0" in output, output
