"""What holds for every test: probes, no network in unit tests, one context a test."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import probes
from rkt_testkit.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from rkt_testkit.context import RktContext

HERE = os.path.dirname(os.path.abspath(__file__))
LOOPBACK = ("127.", "localhost", "::1")


def pytest_configure() -> None:
    """Have signals end what the tests start, though they may run under nohup or in the background.

    A shell without job control has what it starts with `&` ignore SIGINT and SIGQUIT.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/integration, tests/bed and tests/e2e."""
    for item in items:
        if item.path.parent.name in ("integration", "bed", "e2e"):
            item.add_marker("integration")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose needs the machine does not meet."""
    for mark in item.iter_markers("needs"):
        probes.enforce(mark.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a failure what still ran: a test that hung cannot be asked afterwards."""
    report = yield
    context = getattr(item, "funcargs", {}).get("rkt")
    if report.when == "call" and report.failed and context is not None:
        report.sections.append(("what runs", "\n".join(context.running())))
    return report


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let unit tests open no connection: only the loopback interface, and only if marked so."""
    if request.path.parent != type(request.path)(HERE, "unit"):
        return
    marked = request.node.get_closest_marker("loopback") is not None
    connect, bind = socket.socket.connect, socket.socket.bind

    def check(address: object) -> None:
        if isinstance(address, tuple) and not (
            marked and str(address[0]).startswith(LOOPBACK)
        ):  # fmt: skip
            raise AssertionError(f"a unit test may not use the network: {address}")

    def guarded_connect(self: socket.socket, address: tuple[str, int]) -> None:
        check(address)
        connect(self, address)

    def guarded_bind(self: socket.socket, address: tuple[str, int]) -> None:
        check(address)
        bind(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "bind", guarded_bind)


@pytest.fixture
def rkt() -> Iterator[RktContext]:
    """Give a machine of its own to a test; it is checked for leaks afterwards."""
    probes.enforce(("root", "namespaces", "rkt"))
    from rkt_testkit.context import RktContext

    with RktContext() as context:
        yield context


@pytest.fixture(scope="session")
def keyring() -> Iterator[Keyring]:
    """Give a gpg home for keys that live as long as the test run."""
    probes.enforce(("gpg",))
    with Keyring() as home:
        yield home


@pytest.fixture(scope="session")
def publisher(keyring: Keyring) -> str:
    """Give the fingerprint of a publisher's key."""
    return keyring.make("Test Publisher <publisher@example.com>")
