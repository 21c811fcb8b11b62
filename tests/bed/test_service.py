"""`rkt run` as the main process of a unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.bed import Bed

RUN = ("rkt", "--insecure-options=image", "run")
HOLD = ("--exec=/bin/sh", "--", "-c", "trap 'exit 0' TERM; touch /up; while :; do sleep 0.1; done")
NOTIFY = "appc.io/executor/supports-systemd-notify"


@pytest.fixture(scope="module")
def announcer(machine: Bed) -> str:
    """Give an image whose app says that it is ready when the file /files/go appears."""
    image = AciBuilder("example.com/announcer", exec=["/bin/sh"]).busybox()
    image.manifest["annotations"] = [{"name": NOTIFY, "value": "true"}]
    return str(image.build(machine.files).path)


def test_the_unit_is_started_when_the_apps_run(bed: Bed, busybox: str) -> None:
    bed.start("web", *RUN, busybox, *HOLD, properties=("Type=notify", "KillMode=mixed"))
    (uuid,) = bed.pods()
    shown = bed.show("web", "ActiveState", "SubState", "MainPID", "StatusText")
    assert shown["ActiveState"] == "active"
    assert shown["StatusText"] == "all apps run"
    args = bed.tool("ps", "-o", "args=", "-p", shown["MainPID"]).stdout
    assert uuid in args  # rkt is the main process from the beginning to the end
    listed = bed.tool("rkt", "list").stdout
    assert re.search(rf"^{uuid[:8]}.*running", listed, re.MULTILINE), listed
    bed.tool("systemctl", "stop", "web")
    assert bed.tool("rkt", "status", uuid).stdout.splitlines()[0] == "state=exited"
