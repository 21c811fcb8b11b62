"""What `make install` gives to a host with systemd: units, directories, groups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rkt_testkit.bed import Bed

UNITS = "/usr/local/lib/systemd/system"
SERVICES = ("rkt@web", "rkt-prepared@web", "rkt-gc", "rkt-metadata", "rkt-api")
# `systemd-analyze security`, from 0 (locked up) to 10: what a unit may score at most.
EXPOSURE = {"rkt-metadata": 2.0, "rkt-api": 4.5, "rkt-gc": 9.0}


def test_units_have_no_mistakes(bed: Bed) -> None:
    names = [f"{UNITS}/{name}" for name in bed.tool("ls", UNITS).stdout.split()]
    names = [name.replace("@.", "@web.") for name in names]
    assert len(names) >= 6
    done = bed.tool("systemd-analyze", "verify", "--man=no", *names)
    assert [line for line in done.stderr.splitlines() if "rkt" in line] == []


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_services_are_locked_up(bed: Bed, name: str) -> None:
    done = bed.tool("systemd-analyze", "security", "--no-pager", f"{name}.service")
    overall = done.stdout.strip().splitlines()[-1]
    assert "exposure level" in overall
    assert float(overall.split(":")[1].split()[0]) <= EXPOSURE[name], done.stdout


def test_directories_have_the_modes_of_the_reference(bed: Bed) -> None:
    bed.tool("systemd-sysusers", "/usr/local/lib/sysusers.d/rkt.conf")
    bed.tool("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/rkt.conf")
    places = ("/var/lib/rkt", "/var/lib/rkt/pods", "/etc/rkt")
    done = bed.tool("stat", "--format=%a %U:%G %n", *places)
    assert done.stdout.splitlines() == [
        "2750 root:rkt /var/lib/rkt",
        "2750 root:rkt /var/lib/rkt/pods",
        "2775 root:rkt-admin /etc/rkt",
    ]


def test_gc_runs_by_its_timer(bed: Bed, busybox: str) -> None:
    bed.rkt("--insecure-options=image", "run", busybox, "--exec=/bin/true")
    (uuid,) = bed.pods()
    bed.write("/etc/systemd/system/rkt-gc.service.d/grace.conf",
              "[Service]\nEnvironment=GRACE_PERIOD=0s\n")  # fmt: skip
    bed.write("/etc/systemd/system/rkt-gc.timer.d/now.conf", "[Timer]\nRandomizedDelaySec=0\n")
    bed.tool("systemctl", "daemon-reload")
    bed.tool("systemctl", "start", "rkt-gc.timer")
    bed.wait_for(lambda: uuid not in bed.pods())
    bed.wait_for(lambda: bed.show("rkt-gc.service", "ActiveState")["ActiveState"] == "inactive")
    assert bed.show("rkt-gc.service", "Result") == {"Result": "success"}
    bed.tool("systemctl", "stop", "rkt-gc.timer")


def test_the_metadata_service_serves_locked_up(bed: Bed, busybox: str) -> None:
    bed.tool("systemctl", "start", "rkt-metadata.socket")
    script = "wget -qO- $AC_METADATA_URL/acMetadata/v1/pod/uuid"
    done = bed.rkt("--insecure-options=image", "run", "--net=host", "--mds-register", busybox,
                   "--exec=/bin/sh", "--", "-c", script)  # fmt: skip
    assert done.stdout.strip() in bed.pods()
    assert bed.show("rkt-metadata.service", "ActiveState")["ActiveState"] == "active"
    bed.tool("systemctl", "stop", "rkt-metadata.socket", "rkt-metadata.service")


# HTTP/2 by hand, as the machine has no client: GetInfo, and what its answer holds.
_ASK = """
import socket
def frame(kind, flags, stream, data):
    return len(data).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + data
def header(name, value):
    return b"\\0" + bytes((len(name),)) + name + bytes((len(value),)) + value
sock = socket.create_connection(("127.0.0.1", 15441), 60)
headers = b"".join(header(*pair) for pair in (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1alpha.PublicAPI/GetInfo"),
    (b":authority", b"rkt"), (b"te", b"trailers"), (b"content-type", b"application/grpc")))
sock.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0, b"")
             + frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5)))
data = b""
while b"/etc/rkt" not in data and (more := sock.recv(65536)):
    data += more
print(b"1.0.0-alpha" in data and b"/var/lib/rkt" in data)
"""


def test_the_api_service_serves_locked_up(bed: Bed) -> None:
    bed.tool("systemctl", "start", "rkt-api-tcp.socket")
    assert bed.tool("python3", "-c", _ASK).stdout == "True\n"
    assert bed.show("rkt-api.service", "ActiveState")["ActiveState"] == "active"
    bed.tool("systemctl", "stop", "rkt-api-tcp.socket", "rkt-api.service")


def test_the_api_service_started_by_hand_has_the_socket_too(bed: Bed) -> None:
    bed.tool("systemctl", "start", "rkt-api.service")
    assert bed.tool("python3", "-c", _ASK).stdout == "True\n"
    assert bed.show("rkt-api-tcp.socket", "SubState") == {"SubState": "running"}
    bed.tool("systemctl", "stop", "rkt-api-tcp.socket", "rkt-api.service")


_HOLD = """
import sys
sys.path[:0] = {path!r}
from rkt_testkit.bed import Bed
bed = Bed({lower!r})
print(bed.work, flush=True)
sys.stdin.read()
"""


def test_a_killed_test_leaves_no_machine(machine: Bed, tmp_path: object) -> None:
    os.chmod(str(tmp_path), 0o755)  # the machine's root directory gets its mode
    code = _HOLD.format(path=[path for path in sys.path if path], lower=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    work = process.stdout.readline().strip()
    assert os.path.isdir(f"{work}/top")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    machine.wait_for(lambda: not os.path.exists(work))
