"""stage1-nspawn where it cannot work; where it can is tested in tests/bed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "overlay", "busybox")


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs this machine")
def test_a_host_without_systemd(rkt: RktContext) -> None:
    rkt.use_stage1("nspawn")
    image = AciBuilder("example.com/app", exec=["/bin/true"]).busybox().build(rkt.files)
    done = rkt.rkt("--insecure-options=image", "run", str(image.path), status=254)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()[1:]
    assert line == (
        "rkt: stage1-nspawn needs a host that systemd runs, and this one has another init "
        '("/run/systemd/system" is missing)'
    )
