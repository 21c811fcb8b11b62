"""A publisher's web server for tests: real HTTPS on loopback, with a certificate authority.

One server answers for every host name.  Clients reach it through `proxy`, an HTTP proxy that leads
every CONNECT to it, so that names like example.com work without DNS, /etc/hosts or port 443; or
directly at `https://localhost:PORT/...`.  `env` has what a client needs for both.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from rkt_testkit.acibuilder import Aci


class Request(NamedTuple):
    """A request that came in."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    body: str = ""

    @property
    def url(self) -> str:
        """Give host and path without the query."""
        return (self.host + self.path.partition("?")[0]).rstrip("/")


class Resource:
    """What is at one URL, and what goes wrong there.

    `status` answers so instead of 200, `cut` ends the body after so many bytes, `stall` stops
    sending there and waits, `redirect` sends elsewhere, `authorization` is the header it wants to
    see, else it answers with `challenge`, `ranges` allows to continue, whatever has changed without
    `if_range`, `etag` is sent and honoured.
    `faults` is how many requests meet the fault (None: all of them).
    """

    def __init__(self, body: bytes = b"", *, kind: str = "application/octet-stream") -> None:
        self.body = body
        self.kind = kind
        self.status = 200
        self.cut: int | None = None
        self.stall: int | None = None
        self.redirect = ""
        self.authorization = ""
        self.challenge = "Basic"
        self.ranges = False
        self.if_range = True
        self.etag = ""
        self.headers: dict[str, str] = {}
        self.has_length = True
        self.faults: int | None = None

    def is_faulty(self) -> bool:
        """Say whether this request meets the fault, and count it."""
        if self.faults is None:
            return True
        self.faults -= 1
        return self.faults >= 0


class Origin:
    """An HTTPS server, its authority and its proxy, as long as the context is open.

    `netns` is the PID of a process in whose network namespace the server listens.
    """

    def __init__(self, *names: str, netns: int | None = None, port: int = 0) -> None:
        self.top = tempfile.mkdtemp(prefix="rkt-origin-")
        self.resources: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.ca = f"{self.top}/ca.pem"
        _make_certificates(self.top, ("localhost", *(names or ("example.com", "*.example.com"))))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.top}/server.pem", f"{self.top}/server.key")
        with _inside(netns):
            self._https = _Server(("127.0.0.1", port), self, context)
            self._plain = _Server(("127.0.0.1", 0), self, None)
            self._proxy = _Proxy(("127.0.0.1", 0), self)
        self.port = int(self._https.server_address[1])
        self.plain_port = int(self._plain.server_address[1])
        self.proxy = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self._netns = netns
        self._servers = (self._https, self._plain, self._proxy)
        for server in self._servers:
            work: Callable[..., None] = server.serve_forever
            threading.Thread(target=work, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Origin:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        shutil.rmtree(self.top)

    @property
    def env(self) -> dict[str, str]:
        """Give the environment of a client that is to reach and believe this server."""
        return {"SSL_CERT_FILE": self.ca, "HTTPS_PROXY": self.proxy, "NO_PROXY": "localhost"}

    def connect(self) -> socket.socket:
        """Open a connection to the HTTPS port from within its network namespace."""
        with _inside(self._netns):
            return socket.create_connection(("127.0.0.1", self.port))

    # -- what is published

    def put(self, url: str, body: bytes | str = b"", *, kind: str = "") -> Resource:
        """Publish something at `host/path`."""
        raw = body.encode() if isinstance(body, str) else body
        resource = Resource(raw, kind=kind or "application/octet-stream")
        self.resources[url] = resource
        return resource

    def page(self, url: str, *tags: tuple[str, str]) -> Resource:
        """Publish a discovery page with (name, content) meta tags."""
        lines = [f'<meta name="{name}" content="{content}">' for name, content in tags]
        text = "<!DOCTYPE html>\n<html><head>\n" + "\n".join(lines) + "\n</head></html>\n"
        return self.put(url, text, kind="text/html")

    def publish(self, name: str, aci: Aci, *, keys: bytes | None = None) -> str:
        """Publish an image with signature, page and maybe keys; gives the image's URL."""
        host = name.partition("/")[0]
        base = f"{host}/dist/{name.replace('/', '-')}"
        with open(aci.path, "rb") as file:
            self.put(f"{base}.aci", file.read())
        if aci.signature:
            with open(aci.signature, "rb") as file:
                self.put(f"{base}.aci.asc", file.read())
        tags = [("ac-discovery", f"{name} https://{base}.{{ext}}")]
        if keys is not None:
            self.put(f"{host}/keys.gpg", keys)
            tags.append(("ac-discovery-pubkeys", f"{name} https://{host}/keys.gpg"))
        self.page(name, *tags)
        return f"https://{base}.aci"

    def asked(self, url: str) -> list[Request]:
        """Give the requests for `host/path`."""
        url = url.removeprefix("https://")
        return [request for request in self.requests if request.url == url]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], origin: Origin, context: ssl.SSLContext | None
    ) -> None:
        self.origin = origin
        self.context = context
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        """Close what `setup` has made; the server only knows the socket below it."""
        super().finish()
        if self.server.context is not None:
            self.request.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer from the table of resources."""
        origin = self.server.origin
        host = self.headers.get("Host", "").partition(":")[0]
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length).decode()
        request = Request(self.command, host, self.path, dict(self.headers.items()), body)
        origin.requests.append(request)
        found = origin.resources.get(request.url)
        if found is None:
            self._head(404, {}, 0)
            return
        faulty = found.is_faulty()
        if found.authorization and self.headers.get("Authorization") != found.authorization:
            self._head(401, {"WWW-Authenticate": found.challenge}, 0)
        elif found.redirect and faulty:
            self._head(302, {"Location": found.redirect}, 0)
        elif found.status != 200 and faulty:
            self._head(found.status, {}, 0)
        elif found.etag and self.headers.get("If-None-Match") == found.etag:
            self._head(304, {"ETag": found.etag, **found.headers}, None)
        else:
            self._body(found, faulty=faulty)

    do_POST = do_GET

    def _body(self, found: Resource, *, faulty: bool) -> None:
        headers = {"Content-Type": found.kind, **found.headers}
        if found.etag:
            headers["ETag"] = found.etag
        start, status = 0, 200
        if found.ranges:
            headers["Accept-Ranges"] = "bytes"
            wanted = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
            condition = self.headers.get("If-Range") if found.if_range else None
            same = condition in (None, headers.get("ETag"), headers.get("Last-Modified"))
            if wanted.isdigit() and same:
                start, status = int(wanted), 206
                total = len(found.body)
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body = found.body[start:]
        self._head(status, headers, len(body) if found.has_length else None)
        stop = found.cut if found.cut is not None else found.stall
        if stop is not None and faulty:
            self.wfile.write(body[: max(stop - start, 0)])
            self.wfile.flush()
            if found.stall is not None:
                self.server.origin.released.wait(30)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], origin: Origin) -> None:
        self.origin = origin
        super().__init__(address, _Tunnel)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class _Tunnel(socketserver.StreamRequestHandler):
    server: _Proxy
    rbufsize = 0

    def handle(self) -> None:
        """Lead a CONNECT to the HTTPS server, whatever host it names."""
        line = self.rfile.readline(4096)
        while self.rfile.readline(4096).strip():
            pass
        if not line.startswith(b"CONNECT "):
            self.wfile.write(b"HTTP/1.1 501 Only CONNECT\r\nContent-Length: 0\r\n\r\n")
            return
        with self.server.origin.connect() as inner:
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            ends = {self.connection: inner, inner: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 60)[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)


@contextlib.contextmanager
def _inside(pid: int | None) -> Iterator[None]:
    """Run the body with this thread in the network namespace of a process."""
    if pid is None:
        yield
        return
    from rkt.linux import libc

    mine = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(theirs, libc.CLONE_NEWNET)
        try:
            yield
        finally:
            libc.setns(mine, libc.CLONE_NEWNET)
    finally:
        os.close(mine)
        os.close(theirs)


def _make_certificates(top: str, names: tuple[str, ...]) -> None:
    """Make an authority and a server certificate for the names."""

    def openssl(*args: str) -> None:
        done = subprocess.run(["openssl", *args], cwd=top, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=rkt test authority",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=rkt test")
    alternatives = ",".join(f"DNS:{name}" for name in names)
    with open(f"{top}/ext", "w", encoding="ascii") as file:
        file.write(f"subjectAltName={alternatives},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        file.write("authorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", "server.pem",
    )  # fmt: skip
