"""A pod for the metadata service to know, and a client that asks for it without pause."""

from __future__ import annotations

import socket

TOKEN = "0123456789abcdef" * 2
ASK = """
import select, socket, sys, time
request = f"GET /{sys.argv[1]}/acMetadata/v1/pod/uuid HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode()
poll, found, failed, done, wanted = select.epoll(), {}, 0, 0, 20000
begun = time.time()
for _ in range(32):
    s = socket.create_connection(("127.0.0.1", 18112))
    found[s.fileno()] = s
    poll.register(s, select.EPOLLIN)
    s.sendall(request)
while done < wanted:
    for fd, _ in poll.poll():
        failed += not found[fd].recv(4096).startswith(b"HTTP/1.1 200 ")
        done += 1
        found[fd].sendall(request)
print(int(wanted / (time.time() - begun)), failed)
"""


def register() -> None:
    """Register a pod without apps with the metadata service."""
    manifest = b'{"acVersion":"0.8.11","acKind":"PodManifest","apps":[]}'
    head = (
        f"PUT /pods/5bc080ca-0d1f-4f2e-8beb-2b95f3d69a0f?token={TOKEN} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(manifest)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/rkt/metadata-svc.sock")
        sock.sendall(head.encode() + manifest)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
