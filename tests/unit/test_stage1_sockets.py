"""Which sockets of a service manager are whose."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from rkt.errors import RktError
from rkt.stage1.app import manifest, spec
from rkt.stage1.app.sockets import Socket, Sockets, names, take
from rkt.stage1.host import podnet
from rkt.stage1.planning import LISTEN, announce_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.loopback


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give what closes sockets at the end."""
    with ExitStack() as found:
        yield found


def made(
    stack: ExitStack, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET, name: str = ""
) -> Socket:
    """Make a socket on the loopback interface."""
    sock = stack.enter_context(socket.socket(family, kind))
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return Socket(sock.fileno(), name)


def pod(
    apps: dict[str, list[dict[str, object]]], exposed: list[dict[str, object]] | None = None
) -> manifest.Pod:
    """Make a pod of apps with ports."""
    found = []
    for name, ports in apps.items():
        image: dict[str, object] = {"name": "x", "app": {"exec": ["/x"], "ports": ports}}
        found.append(manifest.App({"name": name}, image, "pod"))
    return manifest.Pod({"ports": exposed or []}, found)


def port(number: int, name: str = "web", **more: object) -> dict[str, object]:
    """Make a socket-activated port."""
    return {"name": name, "protocol": "tcp", "port": number, "socketActivated": True, **more}


def test_protocol_and_port_decide(stack: ExitStack) -> None:
    tcp, other = made(stack), made(stack)
    six, udp = made(stack, family=socket.AF_INET6), made(stack, socket.SOCK_DGRAM)
    sockets = Sockets([other, six, udp, tcp])
    one = pod({"a": [port(tcp.port), port(udp.port, "dns", protocol="udp"), port(six.port, "six")]})
    assert sockets.of_app(one.apps[0], one) == [six, udp, tcp]  # in the order of the manager
    wrong = pod({"a": [port(udp.port), port(tcp.port, "x", protocol="udp")]})
    assert Sockets([udp, tcp]).of_app(wrong.apps[0], wrong) == []
    plain = pod({"a": [port(tcp.port, socketActivated=False)]})
    assert Sockets([tcp]).of_app(plain.apps[0], plain) == []


def test_a_range_of_ports_and_one_of_the_host(stack: ExitStack) -> None:
    tcp = made(stack)
    wide = pod({"a": [port(tcp.port - 2, count=3)]})
    assert Sockets([tcp]).of_app(wide.apps[0], wide) == [tcp]
    narrow = pod({"a": [port(tcp.port - 2, count=2)]})
    assert Sockets([tcp]).of_app(narrow.apps[0], narrow) == []
    mapped = pod({"a": [port(80)]}, [{"name": "web", "hostPort": tcp.port}])
    assert Sockets([tcp]).of_app(mapped.apps[0], mapped) == [tcp]
    same = pod({"a": [port(tcp.port)]}, [{"name": "web", "hostPort": 0}])
    assert Sockets([tcp]).of_app(same.apps[0], same) == [tcp]
    # --port moves it away from the manifest's port.
    moved = pod({"a": [port(tcp.port)]}, [{"name": "web", "hostPort": 1}])
    assert Sockets([tcp]).of_app(moved.apps[0], moved) == []


def test_a_socket_has_one_owner_until_that_has_gone(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    tcp = made(stack)
    both = pod({"a": [port(tcp.port)], "b": [port(tcp.port, "other")]})
    sockets = Sockets([tcp])
    a, b = both.apps
    assert sockets.of_app(a, both) == [tcp]
    assert sockets.of_app(b, both) == []
    assert 'app "a" has it; it has to listen itself' in capsys.readouterr().err
    assert sockets.of_app(a, both) == [tcp]
    later = pod({"b": [port(tcp.port, "other")]})
    assert sockets.of_app(later.apps[0], later) == [tcp]


def test_ports_of_sockets_are_not_forwarded(stack: ExitStack) -> None:
    tcp = made(stack)
    exposed: list[dict[str, object]] = [
        {"name": "web", "hostPort": tcp.port}, {"name": "plain", "hostPort": 81},
    ]  # fmt: skip
    two = pod({"a": [port(80), port(81, "plain", socketActivated=False)]}, exposed)
    found = podnet.forwards(two, Sockets([tcp]))
    assert [forward.host_port for forward in found] == [81]
    assert len(podnet.forwards(two, Sockets([]))) == 2
    # A sandbox has no apps yet: the socket has to do.
    own = {"name": "web", "hostPort": tcp.port, "podPort": {"name": "web", "port": 80}}
    assert podnet.forwards(pod({}, [own]), Sockets([tcp])) == []
    assert len(podnet.forwards(pod({}, [{**own, "hostPort": 1}]), Sockets([tcp]))) == 1


def test_what_nobody_wants_is_closed_and_named(
    capsys: pytest.CaptureFixture[str], stack: ExitStack
) -> None:
    tcp = made(stack)
    read, write = os.pipe()
    left = os.dup(tcp.fd)
    sockets = Sockets([Socket(left, "http"), Socket(read, "pipe")])
    sockets.close_rest()
    sockets.close_rest()
    why = "is not used: no app has a socket-activated port for it"
    assert capsys.readouterr().err.splitlines() == [
        f'rkt: warning: socket "http" (tcp port {tcp.port}) {why}',
        f'rkt: warning: socket "pipe" (no socket) {why}',
    ]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)
    os.close(write)


@pytest.mark.parametrize(("count", "text"), [
    ("x", 'LISTEN_FDS="x" is not a number from 0 to 252'),
    ("-1", 'LISTEN_FDS="-1" is not a number from 0 to 252'),
    ("253", 'LISTEN_FDS="253" is not a number from 0 to 252'),
    ("99999999999", "is not a number from 0 to 252"),
    ("252", "LISTEN_FDS=252, but descriptor "),
])  # fmt: skip
def test_numbers_that_cannot_be(count: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkt.stage1.app.sockets.FIRST", 5000)
    env = {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(RktError, match=text):
        take(env)
    assert env == {}


def test_what_is_for_another_process_is_left_alone() -> None:
    env = {"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDNAMES": "a", "B": "c"}
    assert take(env) == []
    assert env == {"B": "c"}


def test_an_app_is_told_by_a_program(stack: ExitStack) -> None:
    plan = spec.AppPlan("a", "/root")
    plan.args = ["/serve", "-x"]
    plan.sockets = [made(stack, name="one"), made(stack, name="two")]
    announce_sockets(plan, "keep", "/stage1")
    assert plan.args == [LISTEN, "keep", "2", "one:two", "/serve", "-x"]
    (bind,) = plan.binds
    assert (bind.source, bind.target, bind.read_only) == (
        "/stage1/usr/libexec/listen", LISTEN, True,
    )  # fmt: skip
    assert names([made(stack), made(stack)]) == ""
