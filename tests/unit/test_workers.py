"""Child processes that go through items for this one."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rkt.linux.workers import Gone, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ITEMS = [f"item-{number}" for number in range(50)]


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


def children() -> str:
    return Path("/proc/thread-self/children").read_text(encoding="ascii")


def twice(item: str) -> Iterator[str]:
    yield f"{item} 1 {os.getpid()}"
    yield f"{item} 2 {os.getpid()}"


def test_every_item_is_gone_through_once() -> None:
    said = [text.rsplit(" ", 1) for text in spread(ITEMS, twice, 4)]
    assert sorted(text for text, _ in said) == sorted(
        f"{item} {part}" for item in ITEMS for part in (1, 2)
    )
    assert len({pid for _, pid in said}) == 4
    assert str(os.getpid()) not in {pid for _, pid in said}


def test_what_an_item_yields_keeps_its_order() -> None:
    said = [text.split()[:2] for text in spread(ITEMS, twice, 3)]
    for item in ITEMS:
        assert [part for name, part in said if name == item] == ["1", "2"]


def test_text_of_any_bytes() -> None:
    odd = os.fsdecode(b"\xff\nx")
    assert list(spread([odd], lambda item: iter([item]), 1)) == [odd]


def test_fewer_items_than_children() -> None:
    assert len(list(spread(ITEMS[:2], twice, 8))) == 4
    assert list(spread([], twice, 8)) == []


def test_it_comes_while_the_work_goes_on() -> None:
    reader, writer = os.pipe()

    def wait(item: str) -> Iterator[str]:
        yield item
        os.read(reader, 1)  # only the parent ends this, once it has the text

    with closing(spread(["one"], wait, 1)) as said:
        assert next(said) == "one"
        os.write(writer, b"x")
        assert list(said) == []
    os.close(reader)
    os.close(writer)


def test_a_failure_arrives_with_its_traceback() -> None:
    def fail(item: str) -> Iterator[str]:
        if item == "item-9":
            raise ValueError(f"no {item}")
        yield item

    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in fail.*ValueError: no item-9"):
        list(spread(ITEMS, fail, 4))


def test_a_child_that_is_killed() -> None:
    def die(item: str) -> Iterator[str]:
        if item == "item-9":
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

    with pytest.raises(Gone, match="a worker process died"):
        list(spread(ITEMS, die, 4))


def test_who_stops_reading_leaves_no_child() -> None:
    with closing(spread(ITEMS, twice, 4)) as said:
        next(said)


def refuse(allowed: int) -> Callable[[], int]:
    """Give a fork that works so often, and then finds the system full."""
    fork, left = os.fork, iter(range(allowed))

    def limited() -> int:
        if next(left, None) is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    return limited


@pytest.mark.parametrize(("allowed", "workers"), [(2, 2), (0, 1)])
def test_as_many_children_as_the_system_lets_have(
    allowed: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", refuse(allowed))
    said = [text.rsplit(" ", 1) for text in spread(ITEMS, twice, 4)]
    assert sorted(text for text, _ in said) == sorted(
        f"{item} {part}" for item in ITEMS for part in (1, 2)
    )
    pids = {pid for _, pid in said}
    assert (len(pids), str(os.getpid()) in pids) == (workers, allowed == 0)
