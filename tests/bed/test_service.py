"""`rkt run` as the main process of a unit."""

from __future__ import annotations

import os
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
    """Give an image whose app says that it is ready when the file /files/go appears.

    It says so with the host's systemd-notify, out of a volume with the host's /usr.
    """
    image = AciBuilder("example.com/announcer", exec=["/bin/sh"]).busybox()
    image.symlink("lib", "usr/lib").symlink("lib64", "usr/lib64")
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


def test_an_app_announces_its_readiness(bed: Bed, announcer: str) -> None:
    script = "trap 'exit 0' TERM; touch /files/up; while [ ! -e /files/go ]; do sleep 0.05; done; "
    script += "/usr/bin/systemd-notify --ready --status=warm; while :; do sleep 0.1; done"
    bed.tool("systemd-run", "--quiet", "--no-block", "--unit=warm", "--property=Type=notify",
             "--property=KillMode=mixed", "--property=Delegate=yes", *RUN,
             "--volume=usr,kind=host,source=/usr,readOnly=true",
             f"--volume=files,kind=host,source={bed.files}",
             "--mount=volume=usr,target=/usr", "--mount=volume=files,target=/files",
             announcer, "--exec=/bin/sh", "--", "-c", script)  # fmt: skip
    bed.wait_for(lambda: os.path.exists(f"{bed.files}/up"))
    assert bed.show("warm", "ActiveState") == {"ActiveState": "activating"}
    with open(f"{bed.files}/go", "w", encoding="ascii"):
        pass
    bed.wait_for(lambda: bed.show("warm", "ActiveState") == {"ActiveState": "active"})
    bed.wait_for(lambda: bed.show("warm", "StatusText") == {"StatusText": "app announcer: warm"})
    bed.tool("systemctl", "stop", "warm")


def test_limits_of_the_unit_are_the_apps(bed: Bed, busybox: str) -> None:
    done = bed.rkt("--insecure-options=image", "run", busybox, "--exec=/bin/sh", "--", "-c",
                   "ulimit -n", properties=("LimitNOFILE=1234",))  # fmt: skip
    assert done.stdout == "1234\n"


def test_the_exit_status_is_the_apps(bed: Bed, busybox: str) -> None:
    bed.rkt("--insecure-options=image", "run", busybox, "--exec=/bin/sh", "--", "-c", "exit 5",
            status=5)  # fmt: skip


def test_the_template_runs_a_pod(bed: Bed, busybox: str) -> None:
    script = f"{bed.files}/hold"
    with open(script, "w", encoding="ascii") as file:
        file.write(HOLD[-1])
    words = ["--insecure-options=image", f"--volume=f,kind=host,source={bed.files}",
             "--mount=volume=f,target=/f", busybox, "--exec=/bin/sh", "--", "/f/hold"]  # fmt: skip
    bed.write("/etc/rkt/run.d/web.conf", f"RKT_RUN={' '.join(words)}\n")
    bed.tool("systemctl", "start", "rkt@web")
    (uuid,) = bed.pods()
    group = bed.read(f"/var/lib/rkt/pods/run/{uuid}/subcgroup").strip()
    assert group == f"/machine.slice/rkt@web.service/rkt-{uuid}"
    bed.tool("systemctl", "stop", "rkt@web")
    assert bed.show("rkt@web", "Result", "ExecMainStatus") == {
        "Result": "success", "ExecMainStatus": "0",
    }  # fmt: skip
    log = bed.tool("journalctl", "-q", "-o", "cat", "-u", "rkt@web").stdout
    assert "Started rkt@web.service" in log


def test_an_app_that_sigterm_ends_has_not_failed(bed: Bed, busybox: str) -> None:
    words = f"--insecure-options=image {busybox} --exec=/bin/sleep -- 1000"
    bed.write("/etc/rkt/run.d/sleep.conf", f"RKT_RUN={words}\n")
    bed.tool("systemctl", "start", "rkt@sleep")
    bed.tool("systemctl", "stop", "rkt@sleep")
    (pod,) = bed.pods()
    assert "shell=143" in bed.tool("rkt", "status", pod).stdout
    assert bed.show("rkt@sleep", "Result") == {"Result": "success"}
    uuid = bed.rkt("--insecure-options=image", "prepare", busybox, "--exec=/bin/sleep", "--",
                   "1000").stdout.strip()  # fmt: skip
    bed.tool("systemctl", "start", f"rkt-prepared@{uuid}")
    bed.tool("systemctl", "stop", f"rkt-prepared@{uuid}")
    assert bed.show(f"rkt-prepared@{uuid}", "Result") == {"Result": "success"}


def test_a_missing_image_is_said_in_the_units_log(bed: Bed) -> None:
    bed.write("/etc/rkt/run.d/none.conf", "RKT_RUN=/nowhere.aci\n")
    bed.tool("systemctl", "start", "rkt@none", status=1)
    assert bed.show("rkt@none", "ExecMainStatus", "NRestarts") == {
        "ExecMainStatus": "254", "NRestarts": "0",
    }  # fmt: skip
    assert "/nowhere.aci" in bed.tool("journalctl", "-q", "-o", "cat", "-u", "rkt@none").stdout
