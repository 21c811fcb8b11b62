"""Pods on networks, and other ends of a connection: servers and clients in any network namespace,
and a host outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
PLUGINS = next(
    (p for p in ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin") if os.path.isdir(p)), ""
)
PORTS = [
    {"name": "web", "protocol": "tcp", "port": 8080},
    {"name": "names", "protocol": "udp", "port": 8080},
    {"name": "81-tcp", "protocol": "tcp", "port": 81},
    {"name": "calls", "protocol": "sctp", "port": 8082},
]
# Answers each TCP connection and each datagram with a name and the address that it came from.
_SERVER = """
import socket, sys, threading
name, port, sctp = sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["sctp"]
def text(peer): return f"{name} {peer[0].removeprefix('::ffff:')}\\n".encode()
def tcp():
    while True:
        conn, peer = t.accept()
        conn.sendall(text(peer)); conn.shutdown(1)
        while conn.recv(65536): pass
        conn.close()
def make(kind, number=0):
    s = socket.socket(socket.AF_INET6, kind, number)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", port)); return s
t, u = make(socket.SOCK_STREAM, 132 if sctp else 0), make(socket.SOCK_DGRAM)
t.listen(64)
threading.Thread(target=tcp, daemon=True).start()
print("ready", flush=True)
while True:
    data, peer = u.recvfrom(65536)
    u.sendto(text(peer), peer)
"""
_DEAF = """
import socket, sys, time
s = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(1000)
"""
_CLIENT = """
import socket, sys
kind, ip, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET,
                  socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM,
                  132 if kind == "sctp" else 0)
s.settimeout(4)
try:
    s.connect((ip, port))
    if kind == "udp": s.send(b"x")
    print(s.recv(4096).decode(), end="")
except OSError as err:
    print("failed:", err.strerror or "no answer")
"""


def in_namespace(pid: int, argv: Sequence[str]) -> list[str]:
    """Give the words that run a command in the network namespace of a process."""
    return ["nsenter", "--target", str(pid), "--net", "--", *argv]


class _Program:
    """A Python program in the network namespace of a process, until the end of the block."""

    def __init__(self, pid: int, code: str, *words: str) -> None:
        argv = in_namespace(pid, [sys.executable, "-c", code, *words])
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Server(_Program):
    """A server in the network namespace of a process, of TCP (or SCTP) and UDP."""

    def __init__(self, pid: int, name: str, port: int, *, sctp: bool = False) -> None:
        super().__init__(pid, _SERVER, name, str(port), *(["sctp"] if sctp else []))


class Deaf(_Program):
    """A server that takes connections, and nothing that comes by them."""

    def __init__(self, pid: int, port: int) -> None:
        super().__init__(pid, _DEAF, str(port))


def ask(pid: int, ip: str, port: int, kind: str = "tcp") -> str:
    """Connect from the network namespace of a process; gives the server's line, or the failure."""
    argv = in_namespace(pid, [sys.executable, "-c", _CLIENT, kind, ip, str(port)])
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


class Outside:
    """A machine beyond the test's: 192.0.2.2 / 2001:db8::2, linked to 192.0.2.1 / 2001:db8::1.

    It has no route to any pod: what gets an answer from it was masqueraded.
    """

    def __init__(self, rkt: RktContext) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.pid = self._process.pid
        here = rkt.enter_argv()
        for argv in (
            [*here, "ip", "link", "add", "outside", "type", "veth", "peer", "name", "up0", "netns",
             str(self.pid)],
            [*here, "ip", "addr", "add", "192.0.2.1/24", "dev", "outside"],
            [*here, "ip", "addr", "add", "2001:db8::1/64", "dev", "outside", "nodad"],
            [*here, "ip", "link", "set", "outside", "up"],
            in_namespace(self.pid, ["ip", "addr", "add", "192.0.2.2/24", "dev", "up0"]),
            in_namespace(self.pid, ["ip", "addr", "add", "2001:db8::2/64", "dev", "up0", "nodad"]),
            in_namespace(self.pid, ["ip", "link", "set", "up0", "up"]),
        ):  # fmt: skip
            subprocess.run(argv, check=True)

    def __enter__(self) -> Outside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def write_conf(rkt: RktContext, file: str, conf: object) -> str:
    """Write a network configuration (an object, or raw text) to the context's net.d."""
    os.makedirs(f"{rkt.local}/net.d", exist_ok=True)
    path = f"{rkt.local}/net.d/{file}"
    with open(path, "w", encoding="utf-8") as out:
        out.write(conf if isinstance(conf, str) else json.dumps(conf))
    return path


def leases(rkt: RktContext) -> list[str]:
    """Give the addresses that host-local has given away in the context."""
    top = f"{rkt.root()}/var/lib/cni/networks"
    found = []
    for place, _, names in os.walk(top):
        own = [name for name in names if not name.startswith(("lock", "last_reserved_ip"))]
        found += [f"{os.path.basename(place)}:{name}" for name in own]
    return sorted(found)


def net_image(rkt: RktContext) -> str:
    """Give the key of an image whose pod runs a script and has some ports."""
    builder = AciBuilder("example.com/net", exec=("/bin/sh", "-c"), app={"ports": PORTS}).busybox()
    path = builder.build(rkt.files).path
    return rkt.rkt(OPEN, "fetch", path).stdout.splitlines()[-1]


class Running:
    """A pod that sleeps."""

    def __init__(self, rkt: RktContext, image: str, *flags: str) -> None:
        uuid_file = f"{rkt.files}/uuid-{os.urandom(4).hex()}"
        self.process = rkt.spawn(
            OPEN, "run", f"--uuid-file-save={uuid_file}", *flags, image, "--",
            "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done",
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != b"ready\n":
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read().decode())
        with open(uuid_file) as file:
            self.uuid = file.read()
        self.dir = rkt.pod_dir(self.uuid)
        with open(f"{self.dir}/pid") as file:
            self.pid = int(file.read())
        with open(f"{self.dir}/net-info.json") as file:
            self.info: list[dict[str, str]] = json.load(file)
        self.ip = self.info[0]["ip"]

    def end(self) -> None:
        """End the pod as a user would."""
        self.process.terminate()
        assert self.process.wait(30) == 0


def rules(rkt: RktContext) -> str:
    """Give the context's firewall."""
    enter = rkt.enter_argv()
    return "".join(rkt.run([*enter, tool]).stdout for tool in ("iptables-save", "ip6tables-save"))


def collect(rkt: RktContext, **env: str) -> str:
    """Collect all ended pods at once; gives stderr."""
    rkt.rkt("gc", "--mark-only")
    return rkt.rkt("gc", "--grace-period=0s", env=env).stderr
