"""The HTTP client and downloads against a real server on loopback."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from rkt.config import aws
from rkt.config.insecure import InsecureOptions
from rkt.errors import FetchError, HTTPStatusError, KernelError
from rkt.fetch.download import Sink, download, exclusive
from rkt.fetch.http import Client, Unreachable, proxy_for, shown
from rkt_testkit.origin import Origin
from rkt_testkit.probes import enforce

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

pytestmark = pytest.mark.loopback

BODY = os.urandom(300_000)
URL = "https://example.com/file"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Origin]:
    enforce(("openssl",))
    with Origin() as running:
        yield running


@pytest.fixture
def origin(server: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    server.resources.clear()
    server.requests.clear()
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server


def client(*, stall: float = 5, **insecure: bool) -> Client:
    """Make a client that is impatient."""
    return Client(InsecureOptions(**insecure), stall=stall)


def failure(url: str, *, using: Client | None = None, limit: int = LIMIT) -> str:
    """Give the text of a failure to read a document."""
    with pytest.raises(FetchError) as caught:
        (using or client()).read(url, limit=limit)
    return caught.value.message


def test_read_through_a_proxy_and_directly(origin: Origin) -> None:
    origin.put("example.com/file", BODY)
    origin.put("localhost/file", BODY)
    assert client().read(URL, limit=LIMIT) == BODY
    assert client().read(f"https://localhost:{origin.port}/file", limit=LIMIT) == BODY
    headers = origin.requests[0].headers
    assert headers["User-Agent"].startswith("rkt/")
    assert "Authorization" not in headers


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503, 204])
def test_status(origin: Origin, status: int) -> None:
    origin.put("example.com/file").status = status
    with pytest.raises(HTTPStatusError) as caught:
        client().read(URL, limit=LIMIT)
    assert caught.value.message == f'"{URL}": bad HTTP status code: {status}'
    assert caught.value.status == status


def test_body_that_ends_early(origin: Origin) -> None:
    origin.put("example.com/file", BODY).cut = 1000
    assert failure(URL) == f'"{URL}": cut short: the body ended after 1000 of 300000 bytes'


def test_body_that_is_too_large(origin: Origin) -> None:
    resource = origin.put("example.com/file", BODY)
    assert failure(URL, limit=1000) == f'"{URL}": larger than the 1000 bytes allowed'
    resource.has_length = False
    assert failure(URL, limit=1000) == f'"{URL}": larger than the 1000 bytes allowed'


def test_server_that_stalls(origin: Origin) -> None:
    origin.put("example.com/file", BODY).stall = 10
    text = failure(URL, using=client(stall=0.3))
    assert text == f'"{URL}": the server stalls: no data for 0.3 s'


def test_certificate_of_another_host_and_unknown_authority(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = failure("https://example.org/file")
    assert text.startswith('"https://example.org/file": TLS certificate verification failed: Host')
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    text = failure(URL)
    assert text.startswith(f'"{URL}": TLS certificate verification failed: unable to get local')
    origin.put("example.com/file", BODY)
    assert client(tls=True).read(URL, limit=LIMIT) == BODY


def test_disabled_tls_check_is_said_once(
    origin: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    origin.put("example.com/file", BODY)
    lax = client(tls=True)
    lax.read(URL, limit=LIMIT)
    lax.read(URL, limit=LIMIT)
    assert capsys.readouterr().err == "rkt: warning: TLS verification has been disabled\n"


@pytest.mark.usefixtures("origin")
def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match=r'"https://localhost:1/x": connection refused'):
        client().read("https://localhost:1/x", limit=LIMIT)


@pytest.mark.usefixtures("origin")
def test_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@localhost:1")
    text = f'"{URL}": through the proxy "http://localhost:1": connection refused'
    assert failure(URL) == text
    monkeypatch.setenv("HTTPS_PROXY", "socks5://localhost:1")
    assert "unsupported scheme socks5" in failure(URL)


@pytest.mark.parametrize(("excepted", "url", "is_direct"), [
    ("localhost", "https://localhost:1/x", True),
    ("example.com", "https://dl.example.com/x", True),
    (".example.com", "https://dl.example.com/x", True),
    ("example.com", "https://badexample.com/x", False),
    ("*", "https://example.com/x", True),
    ("127.0.0.1", "https://127.0.0.1:1/x", True),
    ("a/b,10.0.0.0/8, 127.0.0.0/8", "https://127.1.2.3:1/x", True),
    ("10.0.0.0/8", "https://127.0.0.1:1/x", False),
    ("::/64", "https://[::1]:1/x", True),
    ("", "https://example.com/x", False),
])  # fmt: skip
@pytest.mark.usefixtures("origin")
def test_hosts_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, excepted: str, url: str, is_direct: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", excepted)
    monkeypatch.setenv("HTTPS_PROXY", "me:secret@localhost:1")
    assert proxy_for(url) == ("" if is_direct else "http://me:secret@localhost:1")


@pytest.mark.parametrize("url", ["ftp://example.com/x", "https:///x", "example.com"])
def test_not_a_url(url: str) -> None:
    assert failure(url).endswith("not an http or https URL")


def test_redirects(origin: Origin) -> None:
    origin.put("example.com/a").redirect = "/b"
    origin.put("example.com/b").redirect = "https://dl.example.com/c"
    origin.put("dl.example.com/c", BODY)
    assert client().read("https://example.com/a", limit=LIMIT) == BODY
    origin.put("example.com/loop").redirect = "/loop"
    assert failure("https://example.com/loop").endswith("more than 10 redirects")
    assert len(origin.asked("example.com/loop")) == 11


def test_redirect_to_plain_http_only_when_allowed(origin: Origin) -> None:
    plain = f"http://localhost:{origin.plain_port}/file"
    origin.put("example.com/a").redirect = plain
    origin.put("localhost/file", BODY)
    assert failure("https://example.com/a") == (
        f'"https://example.com/a": redirects to plain http ("{plain}")'
    )
    assert client(http=True).read("https://example.com/a", limit=LIMIT) == BODY
    origin.put("example.com/f").redirect = "file:///etc/passwd"
    assert failure("https://example.com/f").endswith('redirects to "file:///etc/passwd"')


def test_credentials_stay_with_their_host(origin: Origin) -> None:
    origin.put("example.com/a").redirect = "https://dl.example.com/b"
    origin.put("dl.example.com/b", BODY)

    def credentials(url: str) -> dict[str, str]:
        return {"Authorization": "Bearer secret"} if url == "https://example.com/a" else {}

    using = Client(InsecureOptions(), credentials=credentials)
    using.read("https://example.com/a", limit=LIMIT)
    assert origin.requests[0].headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in origin.requests[1].headers
    using.read("https://user:pass@example.com/a", limit=LIMIT)
    assert origin.requests[2].headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert "Authorization" not in origin.requests[3].headers


def test_what_is_signed_for_aws_is_what_is_sent(origin: Origin) -> None:
    now = time.gmtime(0)
    key = aws.Key("AK", "SK")
    using = Client(InsecureOptions(), credentials=lambda url: aws.sign(key, url, now))
    for host in ("example.com", "example.com:443", "Example.COM", "example.com:"):
        for path in ("/", "/a%20b/%c3%a4+c~", "/?b=%7e&a"):
            failure(f"https://{host}{path}", using=using)
            sent = origin.requests[-1]
            headers = sent.headers
            again = aws.sign(key, f"https://{headers['Host']}{sent.path}", now)
            assert headers["Authorization"] == again["Authorization"]


def test_credentials_are_neither_shown_nor_sent_over_http(origin: Origin) -> None:
    assert shown("https://user:pass@example.com:1/x?y") == "https://example.com:1/x?y"
    assert "pass" not in failure("https://user:pass@example.com/none")
    origin.put("localhost/file", BODY)

    def credentials(url: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {url}"}

    using = Client(InsecureOptions(http=True), credentials=credentials)
    using.read(f"http://user:pass@localhost:{origin.plain_port}/file", limit=LIMIT)
    assert "Authorization" not in origin.requests[-1].headers


def test_private_headers_stay_with_their_host(origin: Origin) -> None:
    origin.put("example.com/a").redirect = "https://example.com/b"
    origin.put("example.com/b").redirect = "https://dl.example.com/c"
    origin.put("dl.example.com/c").redirect = f"http://localhost:{origin.plain_port}/d"
    origin.put("localhost/d", BODY)
    using = client(http=True)
    with using.open("https://example.com/a", {"Accept": "x/y"}, private={"Authorization": "a"}):
        pass
    sent = [request.headers.get("Authorization") for request in origin.requests]
    assert sent == ["a", "a", None, None]
    assert [request.headers.get("Accept") for request in origin.requests] == ["x/y"] * 4


# --- downloads ---------------------------------------------------------------------------------


class Collect(Sink):
    """Keeps what it was fed."""

    def __init__(self) -> None:
        self.data = b""

    def restart(self) -> None:
        """Begin again."""
        self.data = b""

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take bytes."""
        self.data += bytes(chunk)


def get(directory: pathlib.Path, *, stall: float = 5, limit: int = LIMIT) -> bytes:
    """Download the file; sink and file must agree."""
    sink = Collect()
    with exclusive(str(directory), URL), download(
        client(stall=stall), URL, str(directory), sink=sink, limit=limit
    ) as got:  # fmt: skip
        with open(got.path, "rb") as file:
            data = file.read()
    assert data == sink.data
    return data


def left(directory: pathlib.Path) -> list[str]:
    """Give what lies in the directory."""
    return sorted(os.listdir(directory))


def test_download(origin: Origin, tmp_path: pathlib.Path) -> None:
    origin.put("example.com/file", BODY)
    assert get(tmp_path) == BODY
    origin.resources["example.com/file"].has_length = False
    assert get(tmp_path) == BODY
    assert left(tmp_path) == []


@pytest.mark.parametrize(("what", "value", "text"), [
    ("cut", 1000, "cut short: the body ended after 1000 of 300000 bytes"),
    ("stall", 1000, "the server stalls: no data for 0.3 s"),
    ("status", 404, "bad HTTP status code: 404"),
    ("status", 206, "bad HTTP status code: 206"),
    ("status", 304, "bad HTTP status code: 304"),
])  # fmt: skip
def test_broken_download_leaves_nothing(
    origin: Origin, tmp_path: pathlib.Path, what: str, value: int, text: str
) -> None:
    setattr(origin.put("example.com/file", BODY), what, value)
    with pytest.raises(FetchError, match=text):
        get(tmp_path, stall=0.3)
    assert left(tmp_path) == []


def test_download_that_is_too_large(origin: Origin, tmp_path: pathlib.Path) -> None:
    origin.put("example.com/file", BODY).ranges = True
    with pytest.raises(FetchError, match="larger than the 1000 bytes allowed"):
        get(tmp_path, limit=1000)
    assert left(tmp_path) == []


DATES = ("Wed, 21 Oct 2015 07:28:00 GMT", "Thu, 22 Oct 2015 07:28:00 GMT")


def resumable(origin: Origin, *, cut: int, faults: int | None) -> None:
    """Publish the file on a server that can continue."""
    resource = origin.put("example.com/file", BODY)
    resource.ranges, resource.etag, resource.cut, resource.faults = True, '"one"', cut, faults


def test_download_is_continued_at_once(origin: Origin, tmp_path: pathlib.Path) -> None:
    resumable(origin, cut=100_000, faults=1)
    assert get(tmp_path) == BODY
    asked = [request.headers.get("Range") for request in origin.asked("example.com/file")]
    assert asked == [None, "bytes=100000-"]
    assert origin.requests[1].headers["If-Range"] == '"one"'
    assert left(tmp_path) == []


def test_download_is_continued_by_a_later_run(origin: Origin, tmp_path: pathlib.Path) -> None:
    resumable(origin, cut=100_000, faults=None)
    with pytest.raises(FetchError, match="cut short"):
        get(tmp_path)
    name = hashlib.sha256(URL.encode()).hexdigest()
    assert left(tmp_path) == [name, f"{name}.json"]
    assert os.stat(tmp_path / name).st_mode & 0o777 == 0o600
    resumable(origin, cut=0, faults=0)
    origin.requests.clear()
    assert get(tmp_path) == BODY
    assert origin.requests[0].headers["Range"] == "bytes=100000-"
    assert left(tmp_path) == []


def test_download_is_continued_by_its_date(origin: Origin, tmp_path: pathlib.Path) -> None:
    resumable(origin, cut=100_000, faults=1)
    resource = origin.resources["example.com/file"]
    resource.etag, resource.headers = "", {"ETag": 'W/"one"', "Last-Modified": DATES[0]}
    assert get(tmp_path) == BODY
    assert origin.requests[1].headers["If-Range"] == DATES[0]
    assert origin.requests[1].headers["Range"] == "bytes=100000-"


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("by", ["etag", "date"])
def test_changed_file_is_not_continued(
    origin: Origin, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], by: str,
    if_range: bool,
) -> None:  # fmt: skip
    for cut, body, version in ((100_000, BODY, 0), (None, BODY[::-1], 1)):
        resource = origin.put("example.com/file", body)
        resource.ranges, resource.if_range, resource.cut = True, if_range, cut
        if by == "etag":
            resource.etag = f'"{version}"'
        resource.headers = {"Last-Modified": DATES[version]}
        if cut is not None:
            with pytest.raises(FetchError, match="cut short"):
                get(tmp_path)
    assert get(tmp_path) == BODY[::-1]
    text = "rkt: cannot use cached partial download, resource updated.\n"
    assert text in capsys.readouterr().err


def test_file_that_others_may_write_is_not_continued(
    origin: Origin, tmp_path: pathlib.Path
) -> None:
    resumable(origin, cut=100_000, faults=None)
    with pytest.raises(FetchError, match="cut short"):
        get(tmp_path)
    resumable(origin, cut=0, faults=0)
    (path,) = [tmp_path / name for name in left(tmp_path) if not name.endswith(".json")]
    os.chmod(path, 0o660)
    path.write_bytes(b"evil" * 1000)
    assert get(tmp_path) == BODY
    os.symlink("/etc/passwd", path)
    assert get(tmp_path) == BODY


def test_full_disk_leaves_nothing(
    origin: Origin, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumable(origin, cut=0, faults=0)
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path)) and len(data) > 1000:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr("rkt.fetch.download.os.write", write)
    with pytest.raises(KernelError, match="No space left on device"):
        get(tmp_path)
    assert left(tmp_path) == []


def test_stale_partial_files_are_removed(origin: Origin, tmp_path: pathlib.Path) -> None:
    origin.put("example.com/file", BODY)
    for name, age in (("a" * 64, 8 * 86400), ("b" * 64, 60), ("c" * 63, 8 * 86400)):
        (tmp_path / name).write_bytes(b"x")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    get(tmp_path)
    assert left(tmp_path) == ["b" * 64, "c" * 63]


def test_one_download_at_a_time(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    entered = threading.Event()

    def second() -> None:
        with exclusive(str(tmp_path), URL):
            entered.set()

    with exclusive(str(tmp_path), URL):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set()
    text = "rkt: another rkt instance is downloading this file, waiting...\n"
    assert capsys.readouterr().err == text
    assert left(tmp_path) == []
