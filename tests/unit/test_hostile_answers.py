"""Answers of web servers and discovery pages that must not get an image into the store.

Each has the line that it earns, and leaves nothing behind.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from rkt.config.insecure import InsecureOptions
from rkt.errors import RktError, describe
from rkt.fetch.finder import Finder, Options
from rkt.keystore.keys import Keystore
from rkt.store.images import Store
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.origin import Origin
from rkt_testkit.probes import enforce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.loopback

ACI = AciBuilder("example.com/app").file("f", bytes(5000)).tar()
OK = b"HTTP/1.1 200 OK\r\n"


class Server:
    """Answers every request on a loopback port with the same bytes, then hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(5)
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += peer.recv(65536)
                peer.sendall(self.answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
            except OSError:
                pass  # a client that hangs up is part of the test

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="module")
def running_origin() -> Iterator[Origin]:
    enforce(("openssl",))
    with Origin() as running:
        yield running


@pytest.fixture
def origin(running_origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    running_origin.resources.clear()
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in running_origin.env.items():
        monkeypatch.setenv(name, value)
    return running_origin


def failure(tmp_path: Path, address: str, **insecure: bool) -> str:
    """Give the line of a fetch that must fail, and check that it leaves nothing."""
    store = Store(f"{tmp_path}/data")
    keystore = Keystore(system=f"{tmp_path}/system", local=f"{tmp_path}/local")
    options = Options("update", InsecureOptions(**insecure), max_image_size=1 << 20)
    with pytest.raises(RktError) as caught:
        Finder(store, keystore, options).find(address)
    line = describe(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    assert store.list() == []
    for kind in ("tmp", "tree", "split", "blob", "sig", "manifest", "partial", "imagelocks"):
        path = f"{store.path}/{kind}"
        assert not os.path.exists(path) or os.listdir(path) == [], kind
    store.close()
    return line


def chunked(*pieces: bytes) -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)


def sized(body: bytes, size: str, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in (f"Content-Length: {size}", *more))
    return OK + lines.encode() + b"\r\n" + body


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


ANSWERS: dict[str, tuple[bytes, str]] = {
    "silence": (b"", '"URL": the server hung up without an answer'),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", '"URL": the answer is not HTTP'),
    "no status": (b"HTTP/1.1\r\n\r\n", '"URL": the answer is not HTTP'),
    "status that is no number": (b"HTTP/1.1 abc OK\r\n\r\n", '"URL": the answer is not HTTP'),
    "status 999": (
        b"HTTP/1.1 999 Why\r\nContent-Length: 0\r\n\r\n",
        '"URL": bad HTTP status code: 999',
    ),
    "negative status": (b"HTTP/1.1 -200 OK\r\n\r\n", '"URL": the answer is not HTTP'),
    "endless status line": (
        b"HTTP/1.1 200 " + b"A" * 200_000,
        '"URL": malformed answer: got more than 65536 bytes when reading status line',
    ),
    "endless header": (
        OK + b"X: " + b"A" * 200_000 + b"\r\n\r\n",
        '"URL": malformed answer: got more than 65536 bytes when reading header line',
    ),
    "many headers": (
        OK + b"X: y\r\n" * 5000 + b"\r\n",
        '"URL": malformed answer: got more than 100 headers',
    ),
    "a thousand interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        '"URL": the server hung up without an answer',
    ),
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + ACI,
        '"URL": bad HTTP status code: 101',
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", '"URL": bad HTTP status code: 204'),
    "a part that nobody asked for": (
        (
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\n"
            b"Content-Length: 5\r\n\r\n"
            b"abcde"
        ),
        '"URL": bad HTTP status code: 206',
    ),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", '"URL": bad HTTP status code: 304'),
    "wants a password": (
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="\x1b[2J\r\nContent-Length: 0\r\n\r\n',
        '"URL": bad HTTP status code: 401',
    ),
    "redirect to nowhere": (
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        '"URL": bad HTTP status code: 302',
    ),
    "redirect to a file": (
        redirect("file:///etc/passwd"),
        '"URL": redirects to "file:///etc/passwd"',
    ),
    "redirect to another protocol": (
        redirect("gopher://localhost/1"),
        '"URL": redirects to "gopher://localhost/1"',
    ),
    "redirect to itself": (redirect("/x.aci"), '"URL": more than 10 redirects'),
    "redirect to no host": (redirect("http://"), '"URL": more than 10 redirects'),
    "redirect to a bad port": (
        redirect("http://localhost:99999/"),
        '"http://localhost:99999/": Failed to parse: http://localhost:99999/',
    ),
    "redirect to a broken address": (
        redirect("http://[::1/"),
        '"URL": redirects to a malformed URL',
    ),
    "redirect with escapes": (
        redirect("http://localhost:1/\x1b[31m"),
        '"http://localhost:1/\\x1b[31m": connection refused',
    ),
    "size is negative": (sized(ACI, "-5"), '"URL": malformed Content-Length'),
    "size is a word": (sized(ACI, "many"), '"URL": malformed Content-Length'),
    "size beyond all bounds": (
        sized(ACI, "9" * 30),
        '"URL": larger than the 1048576 bytes allowed',
    ),
    "size over the limit": (
        sized(ACI, str(1 << 40)),
        '"URL": larger than the 1048576 bytes allowed',
    ),
    "two sizes": (
        sized(ACI, str(len(ACI)), "Content-Length: 5"),
        '"URL": malformed answer: Content-Length contained multiple unmatching values (10240, 5)',
    ),
    "size too large": (
        sized(ACI, str(len(ACI) + 1)),
        '"URL": cut short: the body ended after 10240 of 10241 bytes',
    ),
    "size too small": (
        sized(ACI, "5000"),
        'image "URL": malformed archive: unexpected end of file',
    ),
    "no body": (sized(b"", "0"), 'image "URL": error: unknown image filetype'),
    "body without end": (
        OK + b"\r\n" + bytes(3 << 20),
        '"URL": larger than the 1048576 bytes allowed',
    ),
    "chunk size is a word": (
        chunked(b"zz\r\nabc\r\n0\r\n\r\n"),
        '"URL": cut short: the body ended after 0 bytes',
    ),
    "chunk size is negative": (
        chunked(b"-5\r\nabc\r\n0\r\n\r\n"),
        '"URL": cut short: the body ended after 10 bytes',
    ),
    "chunk size beyond all bounds": (
        chunked(b"f" * 40 + b"\r\nabc\r\n"),
        '"URL": cut short: the body ended after 5 bytes',
    ),
    "chunk larger than the limit": (
        chunked(b"40000000\r\n", bytes(2 << 20)),
        '"URL": larger than the 1048576 bytes allowed',
    ),
    "chunks cut short": (chunked(b"10\r\nabc"), '"URL": cut short: the body ended after 3 bytes'),
    "no last chunk": (chunked(b"3\r\nabc\r\n"), '"URL": cut short: the body ended after 3 bytes'),
    "page in place of an image": (
        sized(b"<html>gone</html>" * 60, "1020"),
        'image "URL": error: unknown image filetype',
    ),
    "compressed on the way": (
        sized(b"\x1f\x8b" + bytes(1000), "1002", "Content-Encoding: gzip"),
        (
            'image "URL": gzip data of the archive is damaged: Error -5 Gzip/zlib wrapper '
            "specifies unsupported compress method"
        ),
    ),
    "unknown coding": (
        sized(ACI[:600], "600", "Transfer-Encoding: rot13"),
        'image "URL": malformed archive: unexpected end of file',
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_hostile_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    answer, text = ANSWERS[case]
    server.answer = answer
    url = f"http://localhost:{server.port}/x.aci"
    line = failure(tmp_path, url, http=True, image=True).replace(url, "URL")
    assert line == text


def meta(content: str, name: str = "ac-discovery") -> bytes:
    return f'<html><head><meta name="{name}" content="{content}"></head></html>'.encode()


TEMPLATE = "example.com/app https://example.com/{name}.{ext}"

PAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "~ found no ACI meta tags"),
    "binary": (bytes(range(256)) * 100, "~ found no ACI meta tags"),
    "utf-16": (meta(TEMPLATE).decode().encode("utf-16"), "~ found no ACI meta tags"),
    "huge": (
        b" " * (2 << 20) + meta(TEMPLATE),
        '~ "https://example.com?ac-discovery=1": larger than the 1048576 bytes allowed',
    ),
    "in a comment": (b"<!-- " + meta(TEMPLATE) + b" -->", "~ found no ACI meta tags"),
    "in a script": (b"<script>" + meta(TEMPLATE) + b"</script>", "~ found no ACI meta tags"),
    "in a comment that never ends": (b"<!-- " + meta(TEMPLATE), "~ found no ACI meta tags"),
    "in a text": (b"<textarea>" + meta(TEMPLATE) + b"</textarea>", "~ found no ACI meta tags"),
    "tag that never ends": (
        b'<meta name="ac-discovery" content="' + b"x" * 500_000,
        "~ found no ACI meta tags",
    ),
    "half a million tags": (b"<meta>" * 150_000, "~ found no ACI meta tags"),
    "for another name": (
        meta("example.com/other https://example.com/{name}.{ext}"),
        "~ no endpoints discovered",
    ),
    "for a longer name": (
        meta("example.com/application https://example.com/{name}.{ext}"),
        "~ no endpoints discovered",
    ),
    "without an address": (meta("example.com/app"), "~ found no ACI meta tags"),
    "unknown variable": (
        meta("example.com/app https://example.com/{os}-{secret}.{ext}"),
        "~ no endpoints discovered",
    ),
    "file": (
        meta("example.com/app file:///etc/{name}.{ext}"),
        '~ discovered location "file:///etc/example.com/app.aci" is not an https URL',
    ),
    "plain http": (
        meta("example.com/app http://example.com/{name}.{ext}"),
        '~ discovered location "http://example.com/example.com/app.aci" is not an https URL',
    ),
    "script": (
        meta("example.com/app javascript:alert({name}.{ext})"),
        '~ discovered location "javascript:alert(example.com/app.aci)" is not an https URL',
    ),
    "relative": (
        meta("example.com/app /{name}.{ext}"),
        '~ discovered location "/example.com/app.aci" is not an https URL',
    ),
    "no host": (
        meta("example.com/app https:///{name}.{ext}"),
        '! "https:///example.com/app.aci.asc": not an http or https URL',
    ),
    "bad port": (
        meta("example.com/app https://example.com:99999/{name}.{ext}"),
        (
            '! "https://example.com:99999/example.com/app.aci.asc": Failed to parse: '
            "https://example.com:99999/example.com/app.aci.asc"
        ),
    ),
    "broken address": (
        meta("example.com/app https://[::1/{name}.{ext}"),
        '~ "https://[::1/example.com/app.aci": malformed URL',
    ),
    "newline in the address": (
        meta("example.com/app https://example.com/a\nb{ext}"),
        '! "https://example.com/abaci.asc": bad HTTP status code: 404',
    ),
    "escape in the address": (
        meta("example.com/app https://example.com/\x1b[2J.{ext}"),
        '! "https://example.com/\\x1b[2J.aci.asc": bad HTTP status code: 404',
    ),
    "blank in the address": (
        meta("example.com/app https://example.com/a b.{ext}"),
        '! "https://example.com/a b.aci.asc": bad HTTP status code: 404',
    ),
    "request in the address": (
        meta("example.com/app https://example.com/a HTTP/1.1\r\nHost: evil\r\n\r\n{ext}"),
        '! "https://example.com/a HTTP/1.1Host: evilaci.asc": bad HTTP status code: 404',
    ),
    "another host": (
        meta("example.com/app https://internal.test/{name}.{ext}"),
        (
            '! "https://internal.test/example.com/app.aci.asc": TLS certificate '
            "verification failed: Hostname mismatch, certificate is not valid for 'internal.test'"
        ),
    ),
    "keys only": (
        meta("example.com/app https://example.com/key", "ac-discovery-pubkeys"),
        "~ no endpoints discovered",
    ),
}


@pytest.mark.parametrize("case", PAGES)
def test_hostile_pages(origin: Origin, tmp_path: Path, case: str) -> None:
    page, text = PAGES[case]
    for url in ("example.com/app", "example.com"):
        origin.put(url, page, kind="text/html")
    text = text.replace("~", 'discovery failed for "example.com/app":', 1)
    text = text.replace("!", "error downloading the signature file:", 1)
    assert failure(tmp_path, "example.com/app") == text
