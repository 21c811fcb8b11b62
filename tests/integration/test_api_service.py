"""The API service, asked by Google's own client about real pods."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from rkt.services import api_pb2 as pb
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.context import TIMEOUT
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
SHELL = ("--exec=/bin/sh", "--", "-c")
NO_SUCH = "5bc080ca-0d1f-4f2e-8beb-2b95f3d69a0f"
STREAMS = ("ListenEvents", "GetLogs")


class Client:
    """The methods of the API over a channel."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        make = self.channel.unary_stream if name in STREAMS else self.channel.unary_unary
        call: Callable[..., Any] = make(
            f"/v1alpha.PublicAPI/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        return lambda request, **more: call(request, timeout=TIMEOUT, wait_for_ready=True, **more)


class Service:
    """A service that systemd started for a unix socket, and a client of it."""

    def __init__(self, rkt: RktContext, *privileges: str) -> None:
        self.path = f"{rkt.files}/api.sock"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen()
        os.chmod(self.path, 0o666)
        command = rkt.argv("api-service")
        if privileges:  # in the namespaces, but less of a root
            at = command.index("--") + 1
            command[at:at] = ["setpriv", *privileges, "--"]
        start = f'exec 3<&{listening.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", start, "bash", *command],
            stderr=subprocess.PIPE, pass_fds=[listening.fileno()], env=rkt.env, text=True,
        )  # fmt: skip
        listening.close()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        rkt.wait_for(lambda: "API service running" in self.said)
        self.client = Client(f"unix:{self.path}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))

    def stop(self) -> None:
        self.client.channel.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0, self.said
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert self.said[-1] == "API service exiting..."
        assert "Traceback" not in "\n".join(self.said)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(TIMEOUT)
        return sock


@pytest.fixture
def service(rkt: RktContext) -> Iterator[Service]:
    one = Service(rkt)
    yield one
    one.stop()


@pytest.fixture
def image(rkt: RktContext) -> str:
    return AciBuilder("example.com/app").busybox().build(rkt.files).path


def failure(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def test_info(rkt: RktContext, service: Service) -> None:
    info = service.client.GetInfo(pb.GetInfoRequest()).info
    assert (info.appc_version, info.api_version) == ("0.8.11", "1.0.0-alpha")
    assert f"rkt Version: {info.rkt_version}" in rkt.rkt("version").stdout
    assert info.global_flags.dir == rkt.data
    assert info.global_flags.local_config_dir == rkt.local
    assert info.global_flags.insecure_flags == "none"
    assert service.said[:2] == ["API service starting...", "API service running"]
    assert service.said[2] == "GetInfo - OK"


def test_pods_in_every_state(rkt: RktContext, image: str, service: Service) -> None:
    ask = service.client
    assert list(ask.ListPods(pb.ListPodsRequest()).pods) == []
    prepared = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    save = f"--uuid-file-save={rkt.files}/uuid"
    rkt.rkt(OPEN, "run", save, image, *SHELL, "exit 3", status=3)
    with open(f"{rkt.files}/uuid") as file:
        exited = file.read()
    running = rkt.rkt(OPEN, "run", "--detach", image, *SHELL, "sleep 1000").stdout.strip()
    pods = {pod.id: pod for pod in ask.ListPods(pb.ListPodsRequest()).pods}
    assert {uuid: pod.state for uuid, pod in pods.items()} == {
        prepared: pb.POD_STATE_PREPARED, exited: pb.POD_STATE_EXITED,
        running: pb.POD_STATE_RUNNING,
    }  # fmt: skip
    basic = pods[exited]
    assert (basic.manifest, basic.apps[0].name, basic.apps[0].state) == (b"", "app", 0)
    assert basic.apps[0].image.base_format.type == pb.IMAGE_TYPE_APPC
    assert basic.started_at > basic.created_at > 10**18
    assert (basic.gc_marked_at, pods[prepared].started_at) == (0, 0)
    pod = ask.InspectPod(pb.InspectPodRequest(id=exited)).pod
    app = pod.apps[0]
    assert (app.state, app.exit_code) == (pb.APP_STATE_EXITED, 3)
    assert (app.image.name, app.image.version) == ("example.com/app", "1.0.0")
    assert json.loads(pod.manifest)["apps"][0]["name"] == "app"
    pod = ask.InspectPod(pb.InspectPodRequest(id=running)).pod
    assert pod.apps[0].state == pb.APP_STATE_RUNNING
    assert f"pid={pod.pid}\n" in rkt.rkt("status", running).stdout
    assert pod.cgroup.endswith(f"/rkt-{running}")
    detailed = ask.ListPods(pb.ListPodsRequest(detail=True)).pods
    assert next(one for one in detailed if one.id == running) == pod

    def found(**wanted: Any) -> set[str]:
        filters = [pb.PodFilter(**wanted)]
        return {one.id for one in ask.ListPods(pb.ListPodsRequest(filters=filters)).pods}

    everything = {prepared, exited, running}
    assert found() == everything
    assert found(ids=[exited, NO_SUCH]) == {exited}
    assert found(states=[pb.POD_STATE_RUNNING, pb.POD_STATE_PREPARED]) == {running, prepared}
    assert found(app_names=["app"]) == everything
    assert found(app_names=["app", "other"]) == set()
    assert found(image_ids=[app.image.id]) == everything
    assert found(network_names=["nowhere"]) == set()
    assert found(annotations=[pb.KeyValue(Key="no", value="such")]) == set()
    assert found(cgroups=[pod.cgroup, "/x"]) == {running}
    assert found(pod_sub_cgroups=[f"{pod.cgroup}/app/deeper"]) == {running}
    assert found(pod_sub_cgroups=[f"{pod.cgroup}x"]) == set()
    assert found(ids=[exited], states=[pb.POD_STATE_RUNNING]) == set()
    either = [pb.PodFilter(ids=[exited]), pb.PodFilter(states=[pb.POD_STATE_RUNNING])]
    assert {p.id for p in ask.ListPods(pb.ListPodsRequest(filters=either)).pods} == {
        exited, running,
    }  # fmt: skip
    rkt.rkt("gc")
    marked = ask.InspectPod(pb.InspectPodRequest(id=exited)).pod
    assert marked.state == pb.POD_STATE_GARBAGE
    assert marked.gc_marked_at > marked.started_at
    rkt.rkt("stop", "--force", running)
    rkt.rkt("status", "--wait", running)


def test_networks_of_a_pod(rkt: RktContext, image: str, service: Service) -> None:
    os.makedirs(f"{rkt.local}/net.d")
    with open(f"{rkt.local}/net.d/10-own.conf", "w") as file:
        json.dump({"name": "own", "type": "ptp", "ipam": {
            "type": "host-local", "subnet": "10.99.0.0/24"}}, file)  # fmt: skip
    run = (OPEN, "run", "--detach", "--net=own", image, *SHELL, "sleep 1000")
    uuid = rkt.rkt(*run).stdout.strip()
    wanted = pb.PodFilter(network_names=["own"])
    (pod,) = service.client.ListPods(pb.ListPodsRequest(filters=[wanted])).pods
    assert pod.id == uuid
    own = next(network for network in pod.networks if network.name == "own")
    assert own.ipv4.startswith("10.99.0.")
    assert f"own:ip4={own.ipv4}" in rkt.rkt("list", "--full").stdout
    rkt.rkt("stop", "--force", uuid)
    rkt.rkt("status", "--wait", uuid)


def test_images(rkt: RktContext, image: str, service: Service) -> None:
    ask = service.client
    assert list(ask.ListImages(pb.ListImagesRequest()).images) == []
    builder = AciBuilder("example.com/tools/other").busybox()
    builder.manifest["annotations"] = [{"name": "authors", "value": "somebody"}]
    other = builder.build(rkt.files).path
    rkt.rkt(OPEN, "fetch", image, other)

    def found(**wanted: Any) -> list[str]:
        filters = [pb.ImageFilter(**wanted)]
        images = ask.ListImages(pb.ListImagesRequest(filters=filters)).images
        return sorted(one.name.rpartition("/")[2] for one in images)

    listed = {one.name: one for one in ask.ListImages(pb.ListImagesRequest()).images}
    app = listed["example.com/app"]
    assert (app.version, app.manifest) == ("1.0.0", b"")
    assert app.id in rkt.rkt("image", "list", "--full").stdout
    assert app.size > 10_000
    assert {item.Key: item.value for item in app.labels}["version"] == "1.0.0"
    both = ["app", "other"]
    assert found() == both
    assert found(ids=[app.id]) == ["app"]
    assert found(full_names=["example.com/app", "x"]) == ["app"]
    assert found(prefixes=["example.com/t"]) == ["other"]
    assert found(base_names=["other", "tools"]) == ["other"]
    assert found(keywords=["ools/o"]) == ["other"]
    assert found(labels=[pb.KeyValue(Key="version", value="1.0.0")]) == both
    assert found(labels=[pb.KeyValue(Key="version", value="2")]) == []
    assert found(annotations=[pb.KeyValue(Key="authors", value="somebody")]) == ["other"]
    assert found(imported_after=app.import_timestamp - 100) == both
    assert found(imported_before=app.import_timestamp - 100) == []
    whole, short = (
        ask.InspectImage(pb.InspectImageRequest(id=image_id)).image
        for image_id in (app.id, app.id[:30])
    )
    assert json.loads(whole.manifest)["name"] == "example.com/app"
    assert whole == short
    whole.manifest = b""
    assert whole == app


def test_logs(rkt: RktContext, image: str, service: Service) -> None:
    ask = service.client

    def lines(**wanted: Any) -> list[str]:
        replies = ask.GetLogs(pb.GetLogsRequest(pod_id=uuid, **wanted))
        return [line for reply in replies for line in reply.lines]

    script = r"echo one; echo two >&2; until [ -e /go ]; do sleep 0.02; done; printf 'z\377\nend'"
    uuid = rkt.rkt(OPEN, "run", "--detach", image, *SHELL, script).stdout.strip()
    for _ in range(20):
        left = ask.GetLogs(pb.GetLogsRequest(pod_id=uuid, follow=True))
        next(left)
        left.cancel()
    rkt.wait_for(lambda: service.said.count("GetLogs - CANCELLED") == 20)
    stream = ask.GetLogs(pb.GetLogsRequest(pod_id=uuid, follow=True, lines=5))
    first: list[str] = []
    while len(first) < 2:
        first += next(stream).lines
    assert sorted(first) == ["one", "two"]
    rkt.rkt("enter", uuid, "/bin/touch", "/go")
    assert [line for reply in stream for line in reply.lines] == ["z\ufffd", "end"]
    assert sorted(lines()) == ["end", "one", "two", "z\ufffd"]
    assert lines(lines=1) == ["end"]
    assert lines(app_name="app", lines=2) == ["z\ufffd", "end"]
    assert lines(since_time=int(time.time()) + 100) == []
    assert lines(until_time=int(time.time()) - 1000) == []
    assert len(lines(since_time=int(time.time()) - 1000, follow=True)) == 4
    text = f'pod "{uuid}": no app "nobody"'
    assert failure(lambda: lines(app_name="nobody")) == ("NOT_FOUND", text)
    assert failure(lambda: lines(lines=-1))[0] == "INVALID_ARGUMENT"
    uuid = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    assert failure(lines) == (
        "FAILED_PRECONDITION", f'pod "{uuid}" has not been started: it is prepared',
    )  # fmt: skip


def test_a_flood_of_lines_waits_for_a_slow_client(
    rkt: RktContext, image: str, service: Service
) -> None:
    script = "i=0; while [ $i -lt 200000 ]; do echo line $i of a flood; i=$((i+1)); done"
    save = f"--uuid-file-save={rkt.files}/uuid"
    rkt.rkt(OPEN, "run", save, image, *SHELL, script)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    stream = service.client.GetLogs(pb.GetLogsRequest(pod_id=uuid))
    first = next(stream).lines
    assert first[0] == "line 0 of a flood"
    assert service.client.GetInfo(pb.GetInfoRequest()).info.api_version  # others are served
    found = [*first, *(line for reply in stream for line in reply.lines)]
    assert found == [f"line {number} of a flood" for number in range(200000)]


def test_clients_that_do_not_read_logs_take_bounded_memory(
    rkt: RktContext, image: str, service: Service
) -> None:
    script = "yes 0123456789abcde | head -c 12000000"
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", image, *SHELL, script)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    ask = service.client.GetLogs
    everything = pb.GetLogsRequest(pod_id=uuid, lines=2**31 - 1)
    assert failure(lambda: list(ask(everything))) == (
        "RESOURCE_EXHAUSTED", "the last 2147483647 lines take more than 8 MiB",
    )  # fmt: skip
    (reply,) = ask(pb.GetLogsRequest(pod_id=uuid, lines=3))
    assert list(reply.lines) == ["0123456789abcde"] * 3
    clients = [Client(f"unix:{service.path}") for _ in range(4)]
    streams = [clients[n % 4].GetLogs(pb.GetLogsRequest(pod_id=uuid)) for n in range(64)]
    for stream in streams:
        next(stream)
    late = failure(lambda: next(ask(pb.GetLogsRequest(pod_id=uuid))))
    assert late == ("RESOURCE_EXHAUSTED", "too many streams at a time")
    with open(f"/proc/{service.process.pid}/status") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert memory < 400 << 10
    for client in clients:
        client.channel.close()
    rkt.wait_for(lambda: service.said.count("GetLogs - CANCELLED") == 64)


def test_events_as_they_happen(rkt: RktContext, image: str, service: Service) -> None:
    ask = service.client
    stream = ask.ListenEvents(pb.ListenEventsRequest())
    stream.initial_metadata()  # from now on everything is told
    rkt.rkt(OPEN, "run", "--pod-name=web", image, *SHELL, "exit 3", status=3)
    rkt.rkt("rm", "web")
    found: list[Any] = []
    while not found or found[-1].type != pb.EVENT_TYPE_POD_GARBAGE_COLLECTED:
        found += next(stream).events
    stream.cancel()
    rkt.wait_for(lambda: "ListenEvents - CANCELLED" in service.said)
    told = [event for event in found if event.type != pb.EVENT_TYPE_IMAGE_IMPORTED]
    assert [event.type for event in told] == [
        pb.EVENT_TYPE_POD_STARTED, pb.EVENT_TYPE_APP_STARTED, pb.EVENT_TYPE_APP_EXITED,
        pb.EVENT_TYPE_POD_EXITED, pb.EVENT_TYPE_POD_GARBAGE_COLLECTED,
    ]  # fmt: skip
    assert getattr(told[0], "from") == "web"
    assert {item.Key: item.value for item in told[2].data}["exit-code"] == "3"
    assert abs(told[0].time - time.time()) < 1000
    assert len(found) > len(told)
    only = pb.EventFilter(types=[pb.EVENT_TYPE_IMAGE_IMPORTED], names=["example.com/app"],
                          since_time=1, until_time=int(time.time()) + 2)  # fmt: skip
    replies = list(ask.ListenEvents(pb.ListenEventsRequest(filter=only)))
    assert [getattr(e, "from") for reply in replies for e in reply.events] == ["example.com/app"]


def test_failures_name_what_is_wrong(service: Service) -> None:
    ask = service.client
    assert failure(lambda: ask.InspectPod(pb.InspectPodRequest(id=NO_SUCH))) == (
        "NOT_FOUND", f'no pod "{NO_SUCH}"',
    )  # fmt: skip
    assert failure(lambda: ask.InspectPod(pb.InspectPodRequest(id="../x"))) == (
        "INVALID_ARGUMENT", '"../x" is not the UUID of a pod',
    )  # fmt: skip
    assert failure(lambda: ask.InspectImage(pb.InspectImageRequest(id="sha512-00"))) == (
        "NOT_FOUND", "no image IDs found",
    )  # fmt: skip
    assert failure(lambda: list(ask.GetLogs(pb.GetLogsRequest(pod_id=NO_SUCH)))) == (
        "NOT_FOUND", f'no pod "{NO_SUCH}"',
    )  # fmt: skip
    call = ask.channel.unary_unary("/v1alpha.PublicAPI/StopPod")
    assert failure(lambda: call(b"", timeout=TIMEOUT))[0] == "UNIMPLEMENTED"
    call = ask.channel.unary_unary("/v1alpha.PublicAPI/ListPods")
    assert failure(lambda: call(b"\xff" * 50, timeout=TIMEOUT)) == (
        "INVALID_ARGUMENT", "the request is damaged",
    )  # fmt: skip
    filters = [pb.PodFilter(ids=[NO_SUCH] * 200_000)]
    assert failure(lambda: ask.ListPods(pb.ListPodsRequest(filters=filters))) == (
        "RESOURCE_EXHAUSTED", re.sub(r"N", str(pb.ListPodsRequest(filters=filters).ByteSize()),
                                     "a request of N bytes is larger than 4194304 bytes"),
    )  # fmt: skip
    filters = [pb.PodFilter(ids=[NO_SUCH] * 50_000)]
    assert list(ask.ListPods(pb.ListPodsRequest(filters=filters)).pods) == []


def test_a_damaged_pod_hides_no_other(rkt: RktContext, image: str, service: Service) -> None:
    good = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    bad = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    with open(f"{rkt.pod_dir(bad)}/pod", "w") as file:
        file.write("{")
    assert [pod.id for pod in service.client.ListPods(pb.ListPodsRequest()).pods] == [good]
    code, text = failure(lambda: service.client.InspectPod(pb.InspectPodRequest(id=bad)))
    assert (code, text.startswith(f'pod "{bad}": pod manifest')) == ("INTERNAL", True)


GARBAGE = (
    b"", b"\0" * 100_000, b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(1000),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + b"\x04\0" + b"\0" * 4
    + struct.pack(">I", 0xFFFFFF)[1:] + b"\x01\x04\0\0\0\1" + b"\xff" * 1000,
)  # fmt: skip


def test_garbage_and_many_clients(service: Service) -> None:
    for garbage in GARBAGE * 5:
        with service.connect() as sock:
            try:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except OSError:  # it had enough of it
                pass
    idle = [service.connect() for _ in range(400)]  # more than it takes
    closed = 0
    for sock in idle[300:]:
        sock.settimeout(TIMEOUT)
        try:
            while sock.recv(65536):
                pass
            closed += 1
        except ConnectionError:
            closed += 1
    assert closed == 100
    for sock in idle:
        sock.close()
    clients = [Client(f"unix:{service.path}") for _ in range(8)]
    with ThreadPoolExecutor(32) as pool:
        calls = [
            pool.submit(clients[n % 8].ListPods, pb.ListPodsRequest(detail=True))
            for n in range(400)
        ]
        assert all(list(call.result().pods) == [] for call in calls)
    streams = [c.ListenEvents(pb.ListenEventsRequest()) for c in clients for _ in range(8)]
    for stream in streams:
        stream.initial_metadata()
    late = clients[0].ListenEvents(pb.ListenEventsRequest())
    assert failure(lambda: next(late)) == (
        "RESOURCE_EXHAUSTED", "too many streams at a time",
    )  # fmt: skip
    with open(f"/proc/{service.process.pid}/status") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    assert memory < 200 << 10
    for client in clients:
        client.channel.close()


def test_calls_that_are_cancelled_leave_nothing_open(
    rkt: RktContext, image: str, service: Service
) -> None:
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", image, *SHELL, "echo line")
    with open(f"{rkt.files}/uuid") as file:
        request = pb.GetLogsRequest(pod_id=file.read())
    directory = f"/proc/{service.process.pid}/fd"
    assert len(list(service.client.GetLogs(request))) == 1
    before = len(os.listdir(directory))
    for pause in range(200):
        calls = [service.client.GetLogs(request) for _ in range(5)]
        threading.Event().wait(pause * 2e-5)  # so that each step is met by some
        for call in calls:
            call.cancel()
    rkt.wait_for(lambda: len(os.listdir(directory)) == before)
    assert len(list(service.client.GetLogs(request))) == 1


def test_who_is_not_root_gets_no_logs(rkt: RktContext, image: str) -> None:
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", image, *SHELL, "echo secret")
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    for folder in ("", "/pods", "/pods/run", f"/pods/run/{uuid}"):
        os.chmod(f"{rkt.data}{folder}", 0o755)
    service = Service(rkt, "--reuid=65534", "--regid=0", "--clear-groups")
    pod = service.client.InspectPod(pb.InspectPodRequest(id=uuid)).pod
    assert pod.state == pb.POD_STATE_EXITED
    code, text = failure(lambda: list(service.client.GetLogs(pb.GetLogsRequest(pod_id=uuid))))
    assert code == "PERMISSION_DENIED"
    assert "secret" not in text
    service.stop()


def test_the_capabilities_of_the_unit_are_enough(rkt: RktContext, image: str) -> None:
    with open(os.path.join(os.path.dirname(__file__), "../../systemd/rkt-api.service")) as file:
        found = re.search(r"^CapabilityBoundingSet=(.*)$", file.read(), re.MULTILINE)
    assert found
    own = "".join(f",+{name.removeprefix('CAP_').lower()}" for name in found[1].split())
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", image, *SHELL, "echo something")
    with open(f"{rkt.files}/uuid") as uuid_file:
        uuid = uuid_file.read()
    os.chown(f"{rkt.data}/cas/db", -1, 12345)  # as if there were the group
    service = Service(rkt, f"--bounding-set=-all{own}", "--no-new-privs")
    images = service.client.ListImages(pb.ListImagesRequest(detail=True)).images
    assert "example.com/app" in [one.name for one in images]
    (reply,) = service.client.GetLogs(pb.GetLogsRequest(pod_id=uuid))
    assert list(reply.lines) == ["something"]
    service.stop()


def test_addresses(rkt: RktContext) -> None:
    for address in ("nonsense", "127.0.0.1:http", "127.0.0.1:99999"):
        told = rkt.rkt("api-service", f"--listen={address}", status=254).stderr
        assert f'invalid address "{address}": must be HOST:PORT' in told
    first = rkt.spawn("api-service")
    assert first.stderr is not None
    lines = [first.stderr.readline() for _ in range(2)]
    assert lines == [b"API service starting...\n", b"API service running\n"]
    told = rkt.rkt("api-service", "--listen=127.0.0.1:15441", status=254).stderr
    assert told.endswith('rkt: cannot listen on "127.0.0.1:15441": Address already in use\n')
    first.send_signal(signal.SIGINT)
    assert first.wait(TIMEOUT) == 0
    listening = socket.socket(socket.AF_UNIX)
    with listening:
        started = subprocess.run(
            ["bash", "-c", 'exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "bash",
             *rkt.argv("api-service", "--listen=127.0.0.1:1")],
            stdin=listening.fileno(), stderr=subprocess.PIPE, env=rkt.env, text=True, check=False,
        )  # fmt: skip
    assert started.returncode == 254
    assert "started under systemd.socket(5), but --listen passed! Quitting." in started.stderr
