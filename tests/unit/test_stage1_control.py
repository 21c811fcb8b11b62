"""The control socket and the endpoints of an app's streams, without a pod."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from rkt.errors import PodStateError, RktError, SchemaError
from rkt.schema.textual import parse_sandbox_port
from rkt.stage1.streams import control, pump
from rkt.stage1.supervision import iomux

if TYPE_CHECKING:
    from pathlib import Path

    from rkt.stage1.streams.control import Message, Reply

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the socket is for root")


def _call(loop: pump.Loop, request: Message) -> Message | RktError:
    """Ask while the loop runs in this thread."""
    found: list[Message | RktError] = []

    def ask() -> None:
        try:
            found.append(control.call(request, timeout=20))
        except RktError as err:
            found.append(err)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        loop.step(limit=0.01)
    return found[0]


def test_requests_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loop = pump.Loop()

    def handle(request: Message, reply: Reply) -> None:
        if request.get("op") == "later":
            loop.after(0.05, lambda: reply({"late": True}))
        elif request.get("op") == "refused":
            raise RktError("no", hint="ask again")
        elif request.get("op") == "bug":
            raise ZeroDivisionError("oh")
        else:
            reply({"echo": request})

    server = control.Server(loop, handle)
    assert _call(loop, {"op": "x"}) == {"echo": {"op": "x"}}
    assert _call(loop, {"op": "later"}) == {"late": True}
    refused = _call(loop, {"op": "refused"})
    assert isinstance(refused, RktError)
    assert (refused.message, refused.hint) == ("no", "ask again")
    bug = _call(loop, {"op": "bug"})
    assert isinstance(bug, RktError)
    assert bug.message == "internal error: ZeroDivisionError: oh"
    server.close()
    assert not os.path.exists("control")
    with pytest.raises(PodStateError, match="the pod's supervisor does not listen"):
        control.call({"op": "x"})


def test_modes() -> None:
    key = "coreos.com/rkt/stage2/"
    plain = iomux.modes({})
    assert plain == {"stdin": "null", "stdout": "log", "stderr": "log"}
    assert iomux.is_plain(plain)
    assert not iomux.is_plain(iomux.modes({f"{key}stdout": "null"}))
    with pytest.raises(RktError, match='invalid stdin mode "log"'):
        iomux.modes({f"{key}stdin": "log"})


def test_an_endpoint_has_many_clients_and_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loop = pump.Loop()
    wanted = {"stdin": "stream", "stdout": "stream", "stderr": "log"}
    streams = iomux.Streams(loop, "a", wanted, str(tmp_path))
    directory = tmp_path / "rkt/iottymux/a"
    assert sorted(os.listdir(directory)) == ["endpoints", "env", "sock-stdin", "sock-stdout"]
    output = streams.output(1)
    assert output is not None
    assert streams.output(2) is None
    clients = []
    for _ in range(2):
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{directory}/sock-stdout")
        clients.append(client)
    typist = socket.socket(socket.AF_UNIX)
    typist.connect(f"{directory}/sock-stdin")
    typist.sendall(b"before the app runs")
    while loop.step(limit=0):
        pass
    output.write(b"hello")
    assert [client.recv(9) for client in clients] == [b"hello", b"hello"]
    for _ in range(40):  # one reads, one does not: it is cut off
        output.write(b"x" * 65536)
        got = 0
        while got < 65536:
            got += len(clients[0].recv(65536))
            loop.step(limit=0)
    assert len(output.clients) == 1
    app = streams.stdin()
    while loop.step(limit=0):
        pass
    assert os.read(app, 99) == b"before the app runs"
    streams.end()
    assert clients[0].recv(1) == b""
    assert os.read(app, 1) == b""
    os.close(app)
    streams.close()
    assert not directory.exists()
    for client in (*clients, typist):
        client.close()


def test_ports_of_a_sandbox() -> None:
    port = parse_sandbox_port("web:tcp:80:127.0.0.1:8080")
    assert port.pod_port is not None
    assert (port.name, port.host_port, port.host_ip) == ("web", 8080, "127.0.0.1")
    assert (port.pod_port.protocol, port.pod_port.port) == ("tcp", 80)
    assert parse_sandbox_port("web:udp:80::8080").host_ip is None
    for text, message in (
        ("web:80", "--port invalid format"),
        ("web:sctp:80::8080", 'invalid protocol "sctp"'),
        ("web:tcp:0::8080", '"0" is not a valid port number'),
        ("web:tcp:80:x:8080", '"x" is not a valid IP'),
    ):
        with pytest.raises(SchemaError) as caught:
            parse_sandbox_port(text)
        assert message in caught.value.message
