"""The machine with systemd that the tests of a file share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import probes
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.bed import Bed, install

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDS = ("root", "namespaces", "overlay", "rkt", "oci-runtime", "busybox", "systemd")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Boot a machine for the tests of one file."""
    probes.enforce(NEEDS)
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    bed = Bed(install(str(shared)))
    try:
        yield bed
    except BaseException:
        bed.close(check=False)
        raise
    bed.close()


@pytest.fixture
def bed(machine: Bed) -> Iterator[Bed]:
    """Give the machine to one test; what its pods leave after gc is a failure."""
    yield machine
    machine.clean()


@pytest.fixture(scope="module")
def busybox(machine: Bed) -> str:
    """Give the path of an image with a shell."""
    image = AciBuilder("example.com/shell", exec=["/bin/sh"]).busybox().build(machine.files)
    return str(image.path)
