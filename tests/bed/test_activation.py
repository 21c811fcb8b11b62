"""Socket units: systemd listens, and the first connection starts the pod whose app gets it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import activation
from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.bed import Bed

FLAVORS = ("oci", "fly", "nspawn")
RUN = "/usr/local/bin/rkt --insecure-options=image run --stage1-name=coreos.com/rkt/stage1-{}"
SERVICE = """\
[Service]
Type=notify
ExecStart={run} {words}
KillMode=mixed
Delegate=yes
Slice=machine.slice
RestartPreventExitStatus=254
"""
UNITS = "/run/systemd/system"
PORT = 8080
ASK = """\
import socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM)
sock.settimeout(60)
sock.connect(("127.0.0.1", int(sys.argv[2])))
sock.sendall(sys.argv[3].encode() + b"\\n")
print(sock.recv(1000).decode(), end="")
"""


class Web:
    """The units web.socket and web.service."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        # What earlier services of that name wrote is not of this one.
        bed.tool("journalctl", "--sync", status=None)
        last = bed.tool("journalctl", "-q", "-n", "0", "--show-cursor").stdout
        self._since = [f"--after-cursor={cursor}" for cursor in re.findall("cursor: (.+)", last)]

    def write(self, sockets: str, flavor: str, *words: str, more: str = "") -> None:
        """Write the units and start the socket."""
        self.bed.write(f"{UNITS}/web.socket", f"[Socket]\n{sockets}")
        service = SERVICE.format(run=RUN.format(flavor), words=" ".join(words))
        self.bed.write(f"{UNITS}/web.service", service + more)
        self.bed.tool("systemctl", "daemon-reload")
        self.bed.tool("systemctl", "start", "web.socket")

    def ask(self, port: int = PORT, word: str = "", kind: str = "tcp") -> list[str]:
        """Ask the server for what it knows, or send it a word."""
        return self.bed.tool("python3", "-c", ASK, kind, str(port), word).stdout.split()

    @property
    def active(self) -> str:
        """The state of the service."""
        return self.bed.show("web.service", "ActiveState")["ActiveState"]

    def log(self) -> str:
        """Give what the service wrote, as far as the journal has it."""
        return self.bed.tool("journalctl", "-q", "-o", "cat", "-u", "web.service",
                             *self._since).stdout  # fmt: skip

    def says(self, text: str) -> None:
        """Wait until the service has written something."""
        self.bed.wait_for(lambda: text in self.log())


@pytest.fixture
def web(bed: Bed) -> Iterator[Web]:
    """Give the units; they are gone after the test."""
    units = Web(bed)
    yield units
    bed.tool("systemctl", "stop", "web.socket", "web.service", status=None)
    bed.tool("systemctl", "reset-failed", "web.socket", "web.service", status=None)
    for name in ("web.socket", "web.service"):
        os.unlink(f"{bed.root}{UNITS}/{name}")


def server(bed: Bed, name: str, *ports: tuple[str, str, int]) -> str:
    """Build a server; ports are (name, protocol, port)."""
    listed = [{"name": n, "protocol": protocol, "port": port} for n, protocol, port in ports]
    return activation.image(bed.files, listed, name=f"example.com/{name}")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_first_connection_starts_the_pod(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT), ("names", "udp", 8053))
    web.write(f"ListenStream=127.0.0.1:{PORT}\nListenDatagram=127.0.0.1:8053\n"
              "FileDescriptorName=front\n", flavor, *activation.HOST_USR, path)  # fmt: skip
    assert web.active == "inactive"
    first = web.ask()
    assert first[:4] == ["server", "front", "0", "0,1,2,3,4"]
    assert web.ask(8053, kind="udp")[:4] == first[:4]
    assert web.active == "active"
    (uuid,) = bed.pods()
    assert len(bed.pods()) == 1
    # The end of the app is the end of the service; systemd still listens, and starts the next pod.
    assert web.ask(word="0") == []
    assert web.ask()[:4] == first[:4]
    assert set(bed.pods()) > {uuid}
    if flavor != "fly":
        assert web.ask()[4] != str(_outer(bed))
    web.says(f'no --port option for socket-activated port "http", assuming port {PORT}')


def _outer(bed: Bed) -> int:
    """Give the server's PID as the machine sees it."""
    return int(bed.tool("pgrep", "-f", "^/usr/bin/python3 /serve").stdout.split()[0])


@pytest.mark.parametrize("flavor", FLAVORS)
def test_an_app_that_starts_again_has_them_again(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    web.write(f"ListenStream={PORT}\n", flavor, "--restart=on-failure", *activation.HOST_USR, path)
    first = web.ask()
    for _ in range(2):
        assert web.ask(word="9") == []
        assert web.ask()[:4] == first[:4]
    assert len(bed.pods()) == 1
    assert first[1] == "web.socket"  # systemd's default


@pytest.mark.parametrize("flavor", FLAVORS)
def test_nobody_else_has_them(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    web.write(f"ListenStream={PORT}\n", flavor, *activation.HOST_USR, path)
    web.ask()
    main = int(bed.show("web.service", "MainPID")["MainPID"])
    link = bed.tool("readlink", f"/proc/{_outer(bed)}/fd/3").stdout.strip()
    found = set()
    for pid in activation.holders_of(link):
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            numbers = next(line.split() for line in file if line.startswith("NSpid:"))
        found.add(int(numbers[2]))  # on the machine
    assert found == {1, main, _outer(bed)}


@pytest.mark.parametrize("flavor", ["oci", "nspawn"])
def test_apps_of_a_pod_with_a_network_of_its_own(bed: Bed, web: Web, flavor: str) -> None:
    one = server(bed, "one", ("http", "tcp", 80))
    two = server(bed, "two", ("admin", "tcp", 80))
    web.write(
        f"ListenStream={PORT}\nListenStream=[::1]:8081\n", flavor, "--net=default",
        f"--port=http:{PORT}", "--port=admin:8081", *activation.HOST_USR, one, two,
    )  # fmt: skip
    assert web.ask()[:4] == ["one", "web.socket", "0", "0,1,2,3"]
    ask = ASK.replace('"127.0.0.1"', '"::1"').replace("socket.socket(", "socket.socket(10, ")
    answer = bed.tool("python3", "-c", ask, "tcp", "8081", "").stdout.split()
    assert answer[:4] == ["two", "web.socket", "0", "0,1,2,3"]
    assert "warning: no --port" not in web.log()
    assert "is not used" not in web.log()


@pytest.mark.parametrize("flavor", FLAVORS)
def test_another_user(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    web.write(f"ListenStream={PORT}\n", flavor, *activation.HOST_USR, path, "--user=1000",
              "--group=1000")  # fmt: skip
    assert web.ask()[:4] == ["server", "web.socket", "1000", "0,1,2,3"]


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_server_of_systemds(bed: Bed, web: Web, flavor: str) -> None:
    """systemd-socket-proxyd is picky: sd_listen_fds(3) itself, and exactly one socket."""
    ports = [{"name": "http", "protocol": "tcp", "port": PORT, "socketActivated": True}]
    builder = AciBuilder(
        "example.com/proxy", app={"ports": ports},
        exec=["/usr/lib/systemd/systemd-socket-proxyd", "--exit-idle-time=infinity",
              "127.0.0.1:8099"],
    ).busybox()  # fmt: skip
    path = str(builder.symlink("lib", "usr/lib").symlink("lib64", "usr/lib64")
               .build(bed.files).path)  # fmt: skip
    words = 'import socket; s = socket.create_server(("127.0.0.1", 8099)); '
    words += 's.accept()[0].sendall(b"from behind\\n")'
    bed.start("behind", "python3", "-c", words)
    web.write(f"ListenStream={PORT}\n", flavor, *activation.HOST_USR, path)
    assert web.ask() == ["from", "behind"]


def test_what_does_not_fit_is_said_in_the_units_log(bed: Bed, web: Web) -> None:
    path = server(bed, "server", ("http", "tcp", PORT), ("other", "tcp", 9))
    web.write(f"ListenStream={PORT}\nListenStream=/run/web.sock\n", "oci",
              *activation.HOST_USR, path)  # fmt: skip
    assert web.ask()[:4] == ["server", "web.socket", "0", "0,1,2,3"]
    web.says('warning: app "server" has no socket for its socket-activated port "other" (tcp')
    web.says("warning: socket \"web.socket\" (address '/run/web.sock') is not used")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_program_that_is_not_there(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    words = ("--volume=e,kind=empty", "--mount=volume=e,target=/e", path, "--exec=/e/nowhere")
    web.write(f"ListenStream={PORT}\n", flavor, *words)
    bed.tool("systemctl", "start", "web.service", status=None)
    bed.wait_for(lambda: web.active == "failed")
    web.says('"/e/nowhere": No such file or directory')
    (uuid,) = bed.pods()
    status = bed.tool("rkt", "status", uuid).stdout
    assert "No such file or directory" in status


@pytest.mark.parametrize("flavor", FLAVORS)
def test_an_app_with_a_terminal(bed: Bed, web: Web, flavor: str) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    flags = ("--stdin=tty", "--stdout=tty", "--stderr=tty")
    web.write(f"ListenStream={PORT}\n", flavor, *activation.HOST_USR, path, *flags)
    assert web.ask()[:4] == ["server", "web.socket", "0", "0,1,2,3"]
    streams = bed.tool("readlink", *(f"/proc/{_outer(bed)}/fd/{fd}" for fd in (0, 1, 2))).stdout
    assert re.fullmatch(r"(/dev/pts/\d+)\n\1\n\1\n", streams), streams
    stat = bed.tool("cat", f"/proc/{_outer(bed)}/stat").stdout.rpartition(")")[2].split()
    assert stat[4] != "0"  # it is the controlling terminal, proc(5)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_streams_are_the_apps(bed: Bed, web: Web, flavor: str) -> None:
    """Standard error takes another way with stage1-nspawn, and arrives where it belongs."""
    ports = [{"name": "http", "protocol": "tcp", "port": PORT, "socketActivated": True}]
    script = "echo out; echo err >&2; readlink /proc/self/fd/0; exit 5"
    builder = AciBuilder("example.com/says", exec=["/bin/sh", "-c", script], app={"ports": ports})
    path = str(builder.busybox().build(bed.files).path)
    web.write(f"ListenStream={PORT}\n", flavor, path)
    bed.tool("systemctl", "start", "web.service", status=None)
    bed.wait_for(lambda: web.active == "failed")
    (uuid,) = bed.pods()
    logs = bed.tool("rkt", "logs", uuid)
    assert logs.stderr == "err\n"
    assert logs.stdout == "out\n/dev/null\n"
    assert bed.show("web.service", "ExecMainStatus") == {"ExecMainStatus": "5"}


def test_a_socket_of_the_template(bed: Bed) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    words = " ".join(("--insecure-options=image", *activation.HOST_USR, path))
    bed.write("/etc/rkt/run.d/web.conf", f"RKT_RUN={words}\n")
    bed.write(f"{UNITS}/rkt@web.socket", f"[Socket]\nListenStream={PORT}\n")
    bed.tool("systemctl", "daemon-reload")
    bed.tool("systemctl", "start", "rkt@web.socket")
    assert Web(bed).ask()[:2] == ["server", "rkt@web.socket"]
    bed.tool("systemctl", "stop", "rkt@web.socket", "rkt@web.service")
    assert bed.show("rkt@web.service", "Result") == {"Result": "success"}
    os.unlink(f"{bed.root}{UNITS}/rkt@web.socket")


def test_a_filter_without_what_nspawn_needs(bed: Bed, web: Web) -> None:
    path = server(bed, "server", ("http", "tcp", PORT))
    for flavor, text in (
        ("oci", ""), ("nspawn", 'its seccomp filter forbids "recvmsg", without which'),
    ):  # fmt: skip
        web.write(f"ListenStream={PORT}\n", flavor, *activation.HOST_USR, path,
                  "--seccomp=mode=remove,recvmsg")  # fmt: skip
        if text:
            bed.tool("systemctl", "start", "web.service", status=1)
            web.says(text)
        else:
            assert web.ask()[0] == "server"
            bed.tool("systemctl", "stop", "web.socket", "web.service")
