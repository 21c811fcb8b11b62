"""The metadata service, asked by pods and registered with by rkt."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.network import in_namespace, write_conf
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
TEXT = "text/plain; charset=us-ascii"
JSON = "application/json"
UUID = "5bc080ca-0d1f-4f2e-8beb-2b95f3d69a0f"
TOKEN = "0123456789abcdef" * 2
HASH = "sha512-" + "ab" * 32
IMAGE = {
    "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/redis",
    "annotations": [{"name": "a", "value": "image"}, {"name": "b", "value": "image"}],
}  # fmt: skip
POD = {
    "acVersion": "0.8.11", "acKind": "PodManifest",
    "apps": [{"name": "redis", "image": {"id": HASH},
              "annotations": [{"name": "c", "value": "pod"}, {"name": "a", "value": "pod"}]}],
    "volumes": None, "isolators": None, "ports": None,
    "annotations": [{"name": "ip-address", "value": "10.1.2.3"}],
}  # fmt: skip


class Answer(NamedTuple):
    """A status, the Content-Type and the body."""

    status: int
    kind: str
    body: bytes


class Service:
    """A metadata service in a context."""

    def __init__(
        self, rkt: RktContext, *flags: str, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.rkt = rkt
        self.socket = f"{rkt.root()}/run/rkt/metadata-svc.sock"
        self.process = process or rkt.spawn("metadata-service", *flags)
        assert self.process.stderr is not None
        self.said: list[str] = []
        while not self.said or self.said[-1] != "metadata service running...":
            line = self.process.stderr.readline().decode()
            assert line, self.said
            self.said.append(line.rstrip())
        assert self.said[0] == "metadata service starting..."

    def stop(self) -> str:
        """End the service; gives what it logged."""
        self.process.terminate()
        assert self.process.wait(20) == 0
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def register(self, method: str, path: str, body: object = None) -> Answer:
        """Speak to the unix socket."""
        connection = http.client.HTTPConnection("metadata")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return answer(connection, method, path, data, {})

    def both(self) -> None:
        """Register the pod and its app."""
        assert self.register("PUT", f"/pods/{UUID}?token={TOKEN}", POD).status == 200
        assert self.register("PUT", f"/pods/{UUID}/redis", IMAGE).status == 200

    def ask(
        self, path: str, form: dict[str, bytes] | None = None, *, method: str = "",
        token: str = TOKEN,
    ) -> Answer:  # fmt: skip
        """Ask as a pod does."""
        connection = http.client.HTTPConnection("127.0.0.1", 18112)
        connection.sock = tcp(self.rkt)
        body = urllib.parse.urlencode(form).encode() if form else b""
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        headers = {"Metadata-Flavor": "AppContainer", **kind}
        method = method or ("POST" if form else "GET")
        return answer(connection, method, f"/{token}/acMetadata/v1{path}", body, headers)


def tcp(rkt: RktContext) -> socket.socket:
    """Connect to the service in the network namespace of the context."""
    found: list[socket.socket] = []

    def connect() -> None:  # a thread may change its namespace without its process
        with open(f"/proc/{rkt.holder}/ns/net") as file:
            libc_setns(file.fileno())
        found.append(socket.create_connection(("127.0.0.1", 18112), 5))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return found[0]


def libc_setns(fd: int) -> None:
    """Enter a network namespace."""
    from rkt.linux import libc

    libc.setns(fd, libc.CLONE_NEWNET)


def answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes,
    headers: dict[str, str],
) -> Answer:  # fmt: skip
    """Send a request and read its answer."""
    connection.request(method, path, body, headers)
    got = connection.getresponse()
    result = Answer(got.status, got.getheader("Content-Type", ""), got.read())
    connection.close()
    return result


@pytest.fixture
def service(rkt: RktContext) -> Iterator[Service]:
    """Run the service for a test."""
    running = Service(rkt)
    yield running
    if running.process.poll() is None:
        running.stop()


def test_every_endpoint(service: Service) -> None:
    service.both()
    ask = service.ask
    assert ask("/pod/uuid") == (200, TEXT, UUID.encode())
    assert ask("/pod/annotations") == (200, JSON, b'[{"name":"ip-address","value":"10.1.2.3"}]')
    assert ask("/pod/annotations/") == ask("/pod/annotations")
    assert ask("/pod/annotations/ip-address") == (200, TEXT, b"10.1.2.3")
    got = ask("/pod/manifest")
    assert (got.status, got.kind, json.loads(got.body)) == (200, JSON, POD)
    got = ask("/apps/redis/image/manifest")
    assert (got.status, got.kind, json.loads(got.body)) == (200, JSON, IMAGE)
    assert ask("/apps/redis/image/id") == (200, TEXT, HASH.encode())
    got = ask("/apps/redis/annotations")
    assert (got.status, got.kind) == (200, JSON)
    assert [(a["name"], a["value"]) for a in json.loads(got.body)] == [
        ("a", "pod"), ("b", "image"), ("c", "pod"),
    ]  # fmt: skip
    assert ask("/apps/redis/annotations/a") == (200, TEXT, b"pod")


def test_failures_of_questions(service: Service) -> None:
    service.both()
    ask = service.ask
    assert ask("/pod/uuid", token="f" * 32) == (401, TEXT, b"pod not found\n")
    assert ask("/pod/uuid", token=UUID) == (401, TEXT, b"pod not found\n")
    assert ask("/apps/other/image/id") == (404, TEXT, b"app not found\n")
    assert ask("/pod/annotations/none") == (404, TEXT, b'Pod annotation "none" not found\n')
    text = b'Pod annotation "N" is not a valid AC Identifier\n'
    assert ask("/pod/annotations/N") == (400, TEXT, text)
    assert ask("/apps/redis/annotations/x") == (404, TEXT, b'App annotation "x" not found\n')
    assert ask("/nothing").status == 404
    assert ask("/pod/uuid", method="POST").status == 405
    text = b"content form value not found\n"
    assert ask("/pod/hmac/sign", {"x": b"1"}) == (400, TEXT, text)


def test_signatures(service: Service) -> None:
    service.both()
    other, token = UUID.replace("5bc0", "6bc0"), "f" * 32
    assert service.register("PUT", f"/pods/{other}?token={token}", POD).status == 200
    content = b"Old MacDonald Had \xff\x00 Farm"
    got = service.ask("/pod/hmac/sign", {"content": content})
    assert (got.status, got.kind) == (200, TEXT)
    assert len(base64.b64decode(got.body, validate=True)) == 64
    form = {"content": content, "uuid": UUID.encode(), "signature": got.body}
    path = "/pod/hmac/verify"
    assert service.ask(path, form) == (200, TEXT, b"")
    assert service.ask(path, form, token=token) == (200, TEXT, b"")
    assert service.ask(path, {**form, "content": b"x"}) == (403, TEXT, b"")
    assert service.ask(path, {**form, "uuid": other.encode()}) == (403, TEXT, b"")
    got = service.ask(path, {**form, "uuid": b"x"})
    assert (got.status, got.body[:34]) == (400, b"uuid field missing or malformed: b")
    got = service.ask(path, {**form, "signature": b"#"})
    assert got.body.startswith(b"signature field missing or corrupt: ")
    got = service.ask(path, {"uuid": UUID.encode(), "signature": b""})
    assert got.body == b"content field missing\n"
    assert service.ask(path, {"content": b"x" * (2 << 20)}).status == 413


def test_registration(service: Service) -> None:
    put = service.register
    bad = put("PUT", "/pods/nonsense?token=" + TOKEN, POD)
    assert bad.status == 400
    assert bad.body.startswith(b"UUID is missing or malformed: ")
    assert put("PUT", f"/pods/{UUID}", POD)[::2] == (400, b"token missing\n")
    assert put("PUT", f"/pods/{UUID}?token=short", POD)[::2] == (400, b"token missing\n")
    bad = put("PUT", f"/pods/{UUID}?token={TOKEN}", b"{")
    assert bad.status == 400
    assert bad.body.startswith(b"JSON-decoding failed: ")
    assert put("PUT", f"/pods/{UUID}/redis", IMAGE)[::2] == (
        404, b"Pod with given UUID not found\n",
    )  # fmt: skip
    assert put("DELETE", f"/pods/{UUID}")[::2] == (404, b"pod not found\n")
    service.both()
    assert put("PUT", f"/pods/{UUID}", POD).status == 200  # a change: the token stays
    assert service.ask("/pod/uuid").status == 200
    assert put("PUT", f"/pods/{UUID}", b"{").status == 400
    assert put("PUT", f"/pods/{UUID}/", IMAGE)[::2] == (400, b"app missing\n")
    assert put("PUT", f"/pods/{UUID}/other", IMAGE).status == 400
    assert put("DELETE", f"/pods/{UUID}").status == 200
    assert service.ask("/pod/uuid").status == 401
    log = service.stop()
    assert f"PUT /pods/{UUID}?token=**** - 200\n" in log
    assert "GET /****/acMetadata/v1/pod/uuid - 401\n" in log
    assert TOKEN not in log
    assert not os.path.exists(service.socket)


def test_it_gives_up_its_privileges(rkt: RktContext, service: Service) -> None:
    with open(f"/proc/{service.process.pid}/task/{service.process.pid}/children") as file:
        (child,) = file.read().split()
    with open(f"/proc/{child}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert set(status["Uid"].split()) == {str(0x7FFFFF9A)}
    assert set(status["Gid"].split()) == {str(0x7FFFFF9A)}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    mode = os.stat(service.socket).st_mode
    assert mode & 0o777 == 0o660
    assert os.stat(f"{rkt.root()}/run/rkt/metadata").st_mode & 0o777 == 0o700
    service.process.kill()
    rkt.wait_for(lambda: not os.path.exists(f"/proc/{child}/exe"))


def test_a_restart_forgets_nothing(rkt: RktContext) -> None:
    service = Service(rkt)
    service.both()
    signature = service.ask("/pod/hmac/sign", {"content": b"x"}).body
    service.stop()
    with open(f"{rkt.root()}/run/rkt/metadata/pods/{UUID[:-1]}0.json", "w") as file:
        file.write("damaged")
    again = Service(rkt)
    assert "rkt: warning: dropped a damaged registration: " in again.said[1]
    assert again.ask("/pod/uuid").body == UUID.encode()
    assert again.ask("/apps/redis/image/id").body == HASH.encode()
    form = {"content": b"x", "uuid": UUID.encode(), "signature": signature}
    assert again.ask("/pod/hmac/verify", form).status == 200
    again.stop()


def test_pods_are_known_for_a_while_after_their_end(rkt: RktContext) -> None:
    service = Service(rkt, "--ttl=0s")
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "b = sys.argv[3].encode(); "
        "s.sendall(f'PUT {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(b)}\\r\\n"
        "\\r\\n'.encode() + b); s.recv(9999); print('sent', flush=True); sys.stdin.read()"
    )
    path = f"/pods/{UUID}?token={TOKEN}"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, service.socket, path, json.dumps(POD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"sent\n"
    assert service.ask("/pod/uuid").status == 200
    owner.communicate()
    saved = f"{rkt.root()}/run/rkt/metadata/pods/{UUID}.json"

    def ended() -> bool:
        with open(saved) as file:
            return bool(json.load(file)["ended"] > 0)

    rkt.wait_for(ended)
    assert service.ask("/pod/uuid").status == 200  # the sweep comes every half a minute
    service.stop()
    service = Service(rkt, "--ttl=0s")
    assert service.ask("/pod/uuid").status == 401
    service.stop()


def test_socket_activation(rkt: RktContext) -> None:
    listening = socket.socket(socket.AF_UNIX)
    path = f"{rkt.root()}/run/rkt/metadata-svc.sock"
    listening.bind(path)
    listening.listen()
    start = f'exec 3<&{listening.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", start, "bash", *rkt.argv("metadata-service")], stderr=subprocess.PIPE,
        pass_fds=[listening.fileno()], env=rkt.env,
    )  # fmt: skip
    service = Service(rkt, process=process)
    service.both()
    assert service.ask("/pod/uuid").status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr is not None
    process.stderr.close()
    assert os.path.exists(path)  # it is systemd's
    listening.close()


def test_a_second_service_does_not_disturb_the_first(rkt: RktContext, service: Service) -> None:
    result = rkt.rkt("metadata-service", status=254)
    assert "cannot listen on TCP port 18112: Address already in use" in result.stderr
    result = rkt.rkt("metadata-service", "--listen-port=18113", status=254)
    assert 'cannot listen on "/run/rkt/metadata-svc.sock": Address already in use' in result.stderr
    service.both()
    assert service.ask("/pod/uuid").status == 200


def test_a_service_that_cannot_start_leaves_no_socket(rkt: RktContext, service: Service) -> None:
    os.unlink(service.socket)
    for flags in ([], ["--listen-port=18113", "--state-dir=/dev/null/x"]):
        rkt.rkt("metadata-service", *flags, status=254)
        assert not os.path.lexists(service.socket)
    env = {"LISTEN_FDS": "1"}
    done = rkt.run(
        ["sh", "-c", 'exec "$@" 3</dev/null', "sh", *rkt.argv("metadata-service")], env=env
    )
    text = "rkt: LISTEN_FDS=1: cannot use descriptor 3: Socket operation on non-socket\n"
    assert (done.status, done.stderr) == (254, f"metadata service starting...\n{text}")


@needs("cni")
@pytest.mark.parametrize("net", ["host", "default"])
def test_pods_find_the_service(rkt: RktContext, service: Service, net: str) -> None:
    script = "wget -qO- $AC_METADATA_URL/acMetadata/v1/pod/uuid; echo; echo $AC_METADATA_URL"
    image = AciBuilder("example.com/asks", exec=("/bin/sh", "-c", script)).busybox()
    path = image.build(rkt.files).path
    uuid_file = f"{rkt.files}/uuid"
    result = rkt.rkt(OPEN, "run", f"--net={net}", f"--uuid-file-save={uuid_file}", path)
    with open(uuid_file) as file:
        uuid = file.read()
    said, url = result.stdout.splitlines()
    assert said == uuid
    host = "127.0.0.1" if net == "host" else "172.16.28.1"
    assert url.startswith(f"http://{host}:18112/")
    assert os.path.exists(f"{rkt.pod_dir(uuid)}/mds-registered")
    rkt.rkt("rm", uuid)
    assert f"DELETE /pods/{uuid} - 200\n" in service.stop()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("flavor", ["oci", "fly"])
def test_the_token_is_not_for_everybody(rkt: RktContext, flavor: str) -> None:
    """Who has it can sign as the pod; any user of the host can list processes."""
    rkt.use_stage1(flavor)
    image = AciBuilder("example.com/asks", exec=("/bin/sh", "-c", "env; exec sleep 1000")).busybox()
    process = rkt.spawn(OPEN, "run", image.build(rkt.files).path)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    token = next(line for line in lines if line.startswith(b"AC_METADATA_URL=")).strip()[-32:]
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    assert b"--mds-token=" + b"*" * len(token) in words
    assert not [word for word in words if token in word]
    process.terminate()
    process.wait(30)


@pytest.mark.usefixtures("service")
def test_apps_that_come_and_go(rkt: RktContext) -> None:
    image = AciBuilder("example.com/late", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    rkt.rkt(OPEN, "fetch", image.path)
    path = f"{rkt.files}/uuid"
    process = rkt.spawn("app", "sandbox", f"--uuid-file-save={path}")
    rkt.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) == 36)
    with open(path) as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)

    def ask(app: str) -> str:
        script = f"wget -qO- $AC_METADATA_URL/acMetadata/v1/apps/{app}/image/id"
        return rkt.rkt("app", "exec", "--app=one", uuid, "/bin/sh", "-c", script,
                       status=None).stdout  # fmt: skip

    for name in ("one", "two"):
        result = rkt.rkt(OPEN, "app", "add", uuid, image.id, f"--name={name}")
        assert "metadata" not in result.stderr
    rkt.rkt("app", "start", uuid, "--app=one")
    assert ask("one").strip() == image.key
    assert ask("two").strip() == image.key
    rkt.rkt("app", "rm", uuid, "--app=two")
    assert ask("two") == ""
    assert ask("one").strip() == image.key
    process.terminate()
    process.wait(30)
    rkt.rkt("rm", uuid)


def test_old_names_of_the_endpoints(service: Service) -> None:
    """The specification called pods containers until 0.4."""
    service.both()
    ask = service.ask
    assert ask("/container/uid") == (200, TEXT, UUID.encode())
    assert ask("/container/annotations/") == ask("/pod/annotations")
    assert ask("/container/annotations/ip-address") == (200, TEXT, b"10.1.2.3")
    assert ask("/container/manifest") == ask("/pod/manifest")
    signature = ask("/container/hmac/sign", {"content": b"x"}).body
    form = {"content": b"x", "uid": UUID.encode(), "signature": signature}
    assert ask("/container/hmac/verify", form) == (200, TEXT, b"")
    assert ask("/container/hmac/verify", {**form, "content": b"y"}).status == 403
    # Without a token only the supervisor of a pod can say whose a connection is.
    connection = http.client.HTTPConnection("127.0.0.1", 18112)
    connection.sock = tcp(service.rkt)
    got = answer(connection, "GET", "/acMetadata/v1/pod/uuid", b"", {})
    assert got == (401, TEXT, b"pod not found\n")


def exchange(rkt: RktContext, *parts: bytes) -> bytes:
    """Send bytes to the service, in pieces, and read all of what it answers."""
    sock = tcp(rkt)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        sock.sendall(part)
        time.sleep(0.05)  # only to make pieces likely; any cut must do
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionResetError:
        found += b"(reset)"  # or the end: whichever the kernel tells first
    sock.close()
    return found


def test_connections_that_supervisors_carry(rkt: RktContext, service: Service) -> None:
    service.both()
    request = b"GET /acMetadata/v1/pod/uuid HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n"
    head, last = b"rkt-pod-token %s\n", request % b"close"
    both = (request % b"keep-alive") + last
    token = TOKEN.encode()
    assert exchange(rkt, head % token + both).count(UUID.encode()) == 2
    assert exchange(rkt, b"rkt-", b"pod-token " + token[:7], token[7:] + b"\n", last).endswith(
        UUID.encode()
    )
    assert exchange(rkt, b"G", last[1:]).startswith(b"HTTP/1.1 401 ")
    assert exchange(rkt, head % (b"f" * 32) + last).startswith(b"HTTP/1.1 401 ")
    assert exchange(rkt, head % b"\xff\x00" + last).startswith(b"HTTP/1.1 401 ")
    assert exchange(rkt, b"rkt-pod-token " + b"f" * 9999) in (b"", b"(reset)")
    assert exchange(rkt, b"rkt-pod-tokem\r\n\r\n").startswith(b"HTTP/1.")
    assert TOKEN not in service.stop()


def test_damaged_requests_are_no_tracebacks(rkt: RktContext, service: Service) -> None:
    service.both()
    start = f"/{TOKEN}/acMetadata/v1/pod/"
    for body in ("", "--y\r\n", "--x\r\n\r\n", '--x\r\nContent-Disposition: form-data; name="'):
        for kind in ("", "; boundary=x", "; boundary=" + "x" * 100):
            head = f"Content-Type: multipart/form-data{kind}\r\nContent-Length: {len(body)}"
            request = f"POST {start}hmac/sign HTTP/1.0\r\n{head}\r\n\r\n{body}".encode()
            assert exchange(rkt, request).startswith(b"HTTP/1.0 400 ")
    for text in (
        f"GET {start}\x1b HTTP/1.1\r\n\r\n", f"GET {start}{'a' * 50000} HTTP/1.1\r\n\r\n",
        f"GET {start}uuid HTTP/7.7\r\n\r\n", "\x16\x03\x01\r\n\r\n",
    ):  # fmt: skip
        assert exchange(rkt, text.encode()).startswith(b"HTTP/1.0 400 ")
    got = service.ask("/pod/hmac/verify", {"content": b"x", "uuid": UUID.encode()})
    assert got == (400, TEXT, b"signature field missing or corrupt: there is none\n")
    said = service.stop()
    assert "Traceback" not in said
    assert TOKEN not in said


def test_connections_without_a_request_keep_nobody_out(rkt: RktContext, service: Service) -> None:
    service.both()
    begun = b"GET /x HTTP/1.1\r\nHost: x\r\n"
    socks = []
    for _ in range(300):
        socks.append(tcp(rkt))
        try:
            socks[-1].sendall(begun)
        except ConnectionError:  # one too many
            pass
    closed = 0
    for sock in socks:
        sock.settimeout(30)
        try:
            assert sock.recv(1) == b""
        except ConnectionError:
            pass
        closed += 1
        sock.close()
    assert closed == 300
    assert service.ask("/pod/uuid") == (200, TEXT, UUID.encode())
    assert service.stop().count("\n") == 4


OLD = "http://169.254.169.255"


@needs("cni", "iptables")
@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("net", ["default", "default-restricted"])
def test_the_address_that_old_images_know(rkt: RktContext, net: str) -> None:
    """It leads to the service, in each pod to what is that pod's; port 80 stays the app's."""
    script = (
        "trap 'exit 0' TERM; "
        f"wget -qO- {OLD}/acMetadata/v1/container/uid; echo; "
        f"wget -qO- {OLD}:80/acMetadata/v1/apps/asks/image/id; echo; "
        "httpd -p 0.0.0.0:80 -h /bin && wget -qO /dev/null http://127.0.0.1/sh && echo served; "
        "ip -o -4 addr show lo; echo end; while :; do sleep 0.05; done"
    )
    image = AciBuilder("example.com/asks", exec=("/bin/sh", "-c", script)).busybox()
    path = image.build(rkt.files).path
    said, uuids = [], []
    pods = []
    for number in range(2):
        uuid_file = f"{rkt.files}/uuid{number}"
        pod = rkt.spawn(OPEN, "run", f"--net={net}", f"--uuid-file-save={uuid_file}", path)
        assert pod.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "end":
            line = pod.stdout.readline().decode()
            assert line, lines
            lines.append(line.rstrip())
        with open(uuid_file) as file:
            uuids.append(file.read())
        said.append(lines)
        pods.append(pod)
    assert [lines[0] for lines in said] == uuids
    assert len(set(uuids)) == 2
    for lines in said:
        assert lines[1].startswith("sha512-")
        assert lines[2] == "served"
        assert [line.split()[3] for line in lines[3:-1]] == ["127.0.0.1/8", "169.254.169.255/32"]
    for pod in pods:
        pod.terminate()
        assert pod.wait(30) == 0
        assert pod.stderr is not None
        assert "169.254" not in pod.stderr.read().decode()
    saved = rkt.run([*rkt.enter_argv(), "iptables-save"]).stdout
    assert "169.254" not in saved


@needs("cni", "iptables")
def test_the_old_address_is_the_pods_own_affair(rkt: RktContext, service: Service) -> None:
    """With the host's network, or unregistered, nothing is made; without iptables a warning."""
    script = f"wget -qO- {OLD}/acMetadata/v1/pod/uuid 2>&1; ip -o -4 addr show lo"
    image = AciBuilder("example.com/asks", exec=("/bin/sh", "-c", script)).busybox()
    path = image.build(rkt.files).path
    for flags in (["--net=host"], ["--net=default-restricted", "--mds-register=false"]):
        said = rkt.rkt(OPEN, "run", *flags, path).stdout
        assert "169.254.169.255/32" not in said
        assert "wget: " in said
    ipam = {"type": "host-local", "subnet": "10.33.0.0/24"}
    write_conf(rkt, "10-plain.conf", {"name": "plain", "type": "ptp", "ipam": ipam})
    empty = f"{rkt.files}/none"
    with open(empty, "w") as file:
        file.write("")
    tools = os.path.realpath("/usr/sbin/iptables-restore")
    hide = [*rkt.enter_argv(), "mount", "--bind", empty, tools]
    assert rkt.run(hide).status == 0
    result = rkt.rkt(OPEN, "run", "--net=plain", path)
    assert rkt.run([*rkt.enter_argv(), "umount", tools]).status == 0
    assert (
        "rkt: warning: the pod finds the metadata service by AC_METADATA_URL only, not at "
        "169.254.169.255: " in result.stderr
    )
    assert service.process.poll() is None


def test_registration_on_request(rkt: RktContext, service: Service) -> None:
    image = AciBuilder("example.com/asks", exec=("/bin/sh", "-c", "echo url=$AC_METADATA_URL"))
    path = image.busybox().build(rkt.files).path
    assert rkt.rkt(OPEN, "run", "--mds-register=auto", path).stdout.startswith("url=http://")
    for flag in ("--mds-register=false", "--register-mds=false", "--net=none"):
        assert rkt.rkt(OPEN, "run", flag, path).stdout == "url=\n"
    assert rkt.rkt(OPEN, "run", "--register-mds", path).stdout.startswith("url=http://127.0.0.1:")
    service.stop()
    result = rkt.rkt(OPEN, "run", path)
    assert (result.stdout, "metadata" in result.stderr) == ("url=\n", False)
    began = time.monotonic()
    words = ("run", "--mds-register", "--pod-name=asks", path)
    result = rkt.rkt(OPEN, *words, status=254)
    assert time.monotonic() - began > 2  # three attempts, a second apart
    assert result.stderr.endswith(
        'rkt: could not reach the metadata service. "/run/rkt/metadata-svc.sock": '
        "No such file or directory\n"
        "hint: run the pod with --mds-register=false, or start the service: rkt metadata-service\n"
    )
    assert "asks-reason=was not started: could not reach" in rkt.rkt("status", "asks").stdout


def test_a_service_that_does_not_answer_is_worth_a_warning(rkt: RktContext) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{rkt.root()}/run/rkt/metadata-svc.sock")
    listening.listen()

    def reply() -> None:
        connection, _ = listening.accept()
        connection.recv(1 << 20)
        connection.sendall(b"SSH-2.0-hello\r\n")
        connection.close()

    thread = threading.Thread(target=reply)
    thread.start()
    path = AciBuilder("example.com/true", exec=("/bin/true",)).busybox().build(rkt.files).path
    result = rkt.rkt(OPEN, "run", path)
    thread.join()
    listening.close()
    lines = [line for line in result.stderr.splitlines() if "metadata" in line]
    wanted = '"/run/rkt/metadata-svc.sock": the answer is not HTTP'
    assert lines == [f"rkt: warning: the pod is not registered with the metadata service: {wanted}"]


def test_two_thousand_requests_a_second(rkt: RktContext, service: Service) -> None:
    """Whatever the machine: no error, and at least a good part of what `make bench` wants."""
    service.both()
    script = (
        "import socket, time\n"
        f"r = b'GET /{TOKEN}/acMetadata/v1/pod/uuid HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'\n"
        "s = [socket.create_connection(('127.0.0.1', 18112)) for _ in range(16)]\n"
        "t = time.time()\n"
        "for _ in range(125):\n"
        "    for c in s: c.sendall(r)\n"
        f"    for c in s: assert c.recv(4096).endswith(b'{UUID}')\n"
        "print(2000 / (time.time() - t))"
    )
    process = service.process
    assert process.stderr is not None
    drain = threading.Thread(target=process.stderr.read)
    drain.start()
    argv = in_namespace(rkt.holder, [sys.executable, "-c", script])
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 500
    process.terminate()
    assert process.wait(20) == 0
    drain.join()
