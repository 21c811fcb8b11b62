"""What a service manager does that activates by sockets, and an app that is activated."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rkt_testkit.context import RktContext

HOST_USR = ("--volume=usr,kind=host,source=/usr,readOnly=true", "--mount=volume=usr,target=/usr")
"""Gives an app the Python of the host."""

# Answers each connection, and each datagram, with what it was told and what it has.  It ends with
# the status that a client sends.
SERVER = """\
#!/usr/bin/python3
import os, select, socket, sys
if int(os.environ.get("LISTEN_PID", "0")) != os.getpid():
    sys.exit("LISTEN_PID is %s, and this is %d" % (os.environ.get("LISTEN_PID"), os.getpid()))
count = int(os.environ["LISTEN_FDS"])
names = os.environ.get("LISTEN_FDNAMES", "").split(":")
open_fds = [fd for fd in range(64) if os.path.exists("/proc/self/fd/%d" % fd)]
socks = {fd: socket.socket(fileno=fd) for fd in range(3, 3 + count)}
print("up", flush=True)
while True:
    for fd in select.select(list(socks), [], [])[0]:
        name = (names[fd - 3] if len(names) == count else "") or "-"
        text = "%s %s %d %s %d\\n" % (os.environ["AC_APP_NAME"], name, os.getuid(),
                                   ",".join(map(str, open_fds)), os.getpid())
        if socks[fd].type == socket.SOCK_DGRAM:
            _, peer = socks[fd].recvfrom(100)
            socks[fd].sendto(text.encode(), peer)
            continue
        try:
            conn, _ = socks[fd].accept()
        except BlockingIOError:
            continue
        word = conn.recv(100).decode().strip()
        if word.isdigit():
            conn.close()
            sys.exit(int(word))
        conn.sendall(text.encode())
        conn.close()
"""


def image(
    files: str, ports: Sequence[Mapping[str, object]], *, name: str = "example.com/server",
    app: Mapping[str, object] | None = None,
) -> str:  # fmt: skip
    """Build the image of a server with socket-activated ports; gives its path."""
    all_ports = [{"socketActivated": True, **port} for port in ports]
    builder = AciBuilder(name, exec=["/serve"], app={"ports": all_ports, **(app or {})}).busybox()
    builder.symlink("lib", "usr/lib").symlink("lib64", "usr/lib64")
    builder.file("serve", SERVER, mode=0o755)
    return str(builder.build(files).path)


def tcp() -> socket.socket:
    """Listen on the loopback interface of the host, not of the test's machine."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    return sock


def port_of(sock: socket.socket) -> int:
    """Give the port of a socket."""
    return int(sock.getsockname()[1])


def spawn(
    rkt: RktContext, sockets: Sequence[socket.socket], *args: str, names: str | None = None,
    env: Mapping[str, str] | None = None, fds: str = "",
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start rkt as a service manager does that has these sockets for it."""
    moves = "".join(f"exec {3 + i}<&{sock.fileno() + 100}; " for i, sock in enumerate(sockets))
    closes = "".join(f"exec {sock.fileno() + 100}<&-; " for sock in sockets)
    told = f"export LISTEN_FDS={fds or len(sockets)} LISTEN_PID=$$; "
    told += f"export LISTEN_FDNAMES={names}; " if names else ""
    # bash has no descriptors of its own among those that are moved from above.
    high = [os.dup2(sock.fileno(), sock.fileno() + 100) for sock in sockets]
    try:
        process = subprocess.Popen(
            ["bash", "-c", f'{moves}{closes}{told}exec "$@"', "bash", *rkt.argv(*args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**rkt.env, **(env or {})}, cwd=rkt.files, pass_fds=high,
        )  # fmt: skip
    finally:
        for fd in high:
            os.close(fd)
    rkt.adopt(process)
    return process


def ask(sock: socket.socket, word: str = "") -> list[str]:
    """Connect to where a socket listens, or send a datagram; gives the words of the answer."""
    client = socket.socket(type=sock.type)
    client.settimeout(60)
    try:
        client.connect(sock.getsockname())
        client.sendall(f"{word}\n".encode())
        return client.recv(1000).decode().split()
    finally:
        client.close()


def holders(sock: socket.socket) -> set[int]:
    """Give the processes, besides this one, that have a socket open."""
    return holders_of(os.readlink(f"/proc/self/fd/{sock.fileno()}")) - {os.getpid()}


def holders_of(wanted: str) -> set[int]:
    """Give the processes that have something open, by the link of its descriptor in /proc."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if wanted in links:
            found.add(int(pid))
    return found
