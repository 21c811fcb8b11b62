"""A host with control groups of version 2: the tests of guest/, run inside a virtual machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.probes import REPOSITORY, needs, rkt_binary
from vm import machine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs("root", "rkt", "vm")

UNUSED = ("mypy*", "*__mypyc*", "ruff*", "pip*", "setuptools*", "hypothesis*", "aiohttp*")
"""Big libraries of the development environment that no test in the machine needs."""
_RUN = """#!/bin/sh
export PYTHONPATH=/job/site HOME=/root LANG=C.UTF-8 RKT_TEST_GUEST=1 RKT_BIN=/job/bin/rkt
{prefix} python3 -m pytest \\
    -o timeout=400 --color=no --durations=8 {tests}
"""


def pack(job: str, tests: str, *, prefix: str = "exec") -> None:
    """Put into a directory what the machine runs: rkt, the test kit and what it needs.

    `tests` are files in guest/; what is in `prefix` starts it.
    """
    for name in ("src", "tests", "pyproject.toml"):
        source = f"{REPOSITORY}/{name}"
        if os.path.isdir(source):
            shutil.copytree(source, f"{job}/{name}")
        else:
            shutil.copy(source, job)
    shutil.copytree(f"{REPOSITORY}/.venv/lib/rkt", f"{job}/lib")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    shutil.copytree(site, f"{job}/site", ignore=shutil.ignore_patterns(*UNUSED))
    launcher = ["scripts/launcher", f"{job}/bin/rkt", "/usr/bin/python3", "/job/lib"]
    subprocess.run([*launcher, "/job/src", "/job/lib/python"], cwd=REPOSITORY, check=True)
    with open(f"{job}/run", "w", encoding="ascii") as file:
        words = " ".join(f"tests/vm/guest/{name}" for name in tests.split())
        file.write(_RUN.format(tests=words, prefix=prefix))
    os.chmod(f"{job}/run", 0o755)


@pytest.mark.timeout(900)
def test_control_groups_of_version_2(tmp_path: Path) -> None:
    assert os.access(rkt_binary(), os.X_OK)
    job = f"{tmp_path}/job"
    os.mkdir(job)
    pack(job, "test_version2.py test_nspawn.py")
    output = machine.run(machine.image(f"{REPOSITORY}/.cache"), job)
    print(output)
    assert f"{machine.END} 0" in output, output
