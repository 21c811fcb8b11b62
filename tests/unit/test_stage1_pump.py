"""Lines, the poll loop, back-pressure: no pods needed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import NotFound
from rkt.stage1.host import cgroup, runtime
from rkt.stage1.streams import pump

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _cut(chunks: list[bytes], cap: int = 8) -> bytes:
    lines = pump.Lines(b"p: ", cap)
    return b"".join([lines.feed(chunk) for chunk in chunks] + [lines.finish()])


def test_lines_torn_empty_and_unfinished() -> None:
    assert _cut([b"a\nb", b"c\n", b"\n", b"end"]) == b"p: a\np: bc\np: \np: end\n"
    assert _cut([]) == b""
    assert _cut([b"a\n"]) == b"p: a\n"


def test_a_line_beyond_the_cap_is_cut() -> None:
    assert _cut([b"123456789", b"0\n"]) == b"p: 12345678\np: 90\n"
    assert _cut([b"12345678\n"]) == b"p: 12345678\n"
    assert _cut([b"x" * 20]) == b"p: xxxxxxxx\np: xxxxxxxx\np: xxxx\n"


@given(st.lists(st.binary(max_size=40)), st.integers(1, 16))
def test_the_cutting_does_not_depend_on_how_the_bytes_arrive(chunks: list[bytes], cap: int) -> None:
    whole = b"".join(chunks)
    cut = _cut(chunks, cap)
    assert cut == _cut([whole], cap)
    lines = cut.split(b"\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"p: ") and len(line) <= cap + 3 for line in lines)
    body = b"".join(line[3:] for line in lines)
    assert body == whole.replace(b"\n", b"")


class Carrier:
    """Pipes with the pump between them."""

    def __init__(self) -> None:
        self.loop = pump.Loop()
        read, self.app = os.pipe()
        self.user, write = os.pipe()
        self.sink = pump.Sink(self.loop, write)
        os.close(write)
        self.source = pump.Source(self.loop, read, self.sink, None)
        self.source.resume()
        os.set_blocking(self.app, False)

    def fill(self) -> int:
        """Write until nothing more is taken."""
        total = 0
        for _ in range(10000):
            try:
                total += os.write(self.app, bytes(65536))
            except BlockingIOError:
                if not self.loop.step(limit=0.01):
                    return total
        raise AssertionError("it takes everything")


@pytest.fixture
def carrier() -> Iterator[Carrier]:
    made = Carrier()
    yield made
    made.source.close()
    made.sink.close()
    for fd in (made.app, made.user):
        try:
            os.close(fd)
        except OSError:
            pass


def test_memory_is_bounded_while_nobody_reads(carrier: Carrier) -> None:
    total = carrier.fill()
    assert total < 1 << 20
    assert len(carrier.sink.pending) < 400 << 10
    os.close(carrier.app)
    got = 0
    while not carrier.source.closed or carrier.sink.pending:
        got += len(os.read(carrier.user, 65536))
        while carrier.loop.step(limit=0.01):
            pass
    os.set_blocking(carrier.user, False)
    try:
        while True:
            got += len(os.read(carrier.user, 65536))
    except BlockingIOError:
        pass
    assert got == total


def test_a_reader_that_goes_away_is_no_failure(carrier: Carrier) -> None:
    os.close(carrier.user)
    for _ in range(100):
        os.write(carrier.app, bytes(4096))
        carrier.loop.step(limit=0.01)
    assert carrier.sink.dead
    assert not carrier.sink.pending


def test_the_callers_descriptor_stays_blocking() -> None:
    read, write = os.pipe()
    sink = pump.Sink(pump.Loop(), write)
    assert os.get_blocking(write)
    sink.close()
    os.write(write, b"x")
    os.close(read)
    os.close(write)


def test_timers_come_in_time_and_once() -> None:
    loop, seen = pump.Loop(), []
    loop.after(0.02, lambda: seen.append(1))
    while not seen:
        loop.step(limit=1)
    assert not loop.step(limit=0.03)
    assert seen == [1]


# The runtime


def _program(directory: Path, name: str) -> str:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("installed", "unified", "have", "chosen"), [
    ("crun runc", False, (), "crun"), ("runc", False, (), "runc"), ("crun", True, (), "crun"),
    ("crun runc", True, (), "runc"), ("crun runc", True, ("CAP_SYS_RESOURCE",), "crun"),
])  # fmt: skip
def test_choosing_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, unified: bool,
    have: tuple[str, ...], chosen: str,
) -> None:  # fmt: skip
    for name in installed.split():
        _program(tmp_path / "bin", name)
    monkeypatch.setattr(runtime, "_SEARCH", str(tmp_path / "bin"))
    layout = cgroup.Layout("", "")
    layout.unified = unified
    found = runtime.choose("/pod", layout, "", have)
    assert found.name == chosen
    assert found.run_argv("a", "/pod/bundle/a", "/sock") == [
        f"{tmp_path}/bin/{chosen}", "--root", "/pod/runtime", "--log", "/pod/bundle/a/log",
        "--log-format", "json", "run", "--detach", "--bundle", "/pod/bundle/a",
        "--pid-file", "/pod/bundle/a/pid", "--console-socket", "/sock", "a",
    ]  # fmt: skip
    assert found.run_argv("a", "/pod/bundle/a", passed=2)[-3:] == ["--preserve-fds", "2", "a"]


def test_another_runtime_may_be_asked_for(tmp_path: Path) -> None:
    path = _program(tmp_path / "bin", "youki")
    found = runtime.choose("/pod", cgroup.Layout("", ""), path, ())
    assert (found.path, found.forgets_by_removal) == (path, False)


def test_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_SEARCH", str(tmp_path))
    layout = cgroup.Layout("", "")
    with pytest.raises(NotFound, match="neither crun nor runc is installed") as caught:
        runtime.choose("/pod", layout, "", ())
    assert caught.value.hint == (
        "install crun or runc (Debian: apt install crun, Fedora: dnf install crun)"
    )
    with pytest.raises(NotFound, match='OCI runtime "kata": no such program'):
        runtime.choose("/pod", layout, "kata", ())


def test_what_a_runtime_said(tmp_path: Path) -> None:
    assert runtime.failure_text(str(tmp_path), b"") == "no reason given"
    assert runtime.failure_text(str(tmp_path), b"first\nlast\n") == "last"
    entries = [{"level": "warning", "msg": "w"}, {"level": "error", "msg": "it\n failed"}]
    log = "not json\n" + "\n".join(json.dumps(entry) for entry in entries)
    (tmp_path / "log").write_text(log)
    assert runtime.failure_text(str(tmp_path), b"x") == "it failed"
