"""Mappings that go to a file when they become large: the same answers there as in memory."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rkt.linux.spill import Scratch, Table, marks, numbers, texts

if TYPE_CHECKING:
    import pathlib

KEYS = st.binary(max_size=2)
STEPS = st.lists(st.tuples(st.sampled_from("gspci"), KEYS, st.integers(0, 9)), max_size=40)


@given(steps=STEPS, room=st.sampled_from((0, 400, 1 << 20)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_it_is_a_mapping(
    tmp_path: pathlib.Path, steps: list[tuple[str, bytes, int]], room: int
) -> None:
    model: dict[bytes, int] = {}
    with Scratch.within(str(tmp_path)) as scratch:
        table: Table[bytes, int] = numbers(scratch, room=room)
        for what, key, value in steps:
            if what == "s":
                table[key] = model[key] = value
            elif what == "p":
                assert table.pop(key) == model.pop(key, None)
            elif what == "g":
                assert table.get(key) == model.get(key)
            elif what == "c":
                assert (key in table) == (key in model)
            else:
                above = sorted(item for item in model.items() if item[0] >= key)
                below = sorted((i for i in model.items() if i[0] <= key), reverse=True)
                assert list(table.items(key)) == above
                assert list(table.items(key, reverse=True)) == below
        assert list(table.items()) == sorted(model.items())
        assert bool(table) == bool(model)


def test_many_in_order(tmp_path: pathlib.Path) -> None:
    with Scratch.within(str(tmp_path)) as scratch:
        table: Table[int, bytes] = texts(scratch, room=100_000)
        for number in range(3000, 0, -1):
            table[number] = b"%d" % number
        assert [key for key, _ in table.items()] == list(range(1, 3001))
        assert [key for key, _ in table.items(reverse=True)] == list(range(3000, 0, -1))
        for key, _ in table.items():
            table.pop(key)
            table[key + 10_000] = b"later"  # seen or not, but the end is reached
            if key > 10_000:
                break
        assert table.get(5000) is None


def test_what_comes_while_it_is_read(tmp_path: pathlib.Path) -> None:
    with Scratch.within(str(tmp_path)) as scratch:
        table: Table[int, bytes] = texts(scratch, room=100_000)
        for number in range(100):
            table[number] = b""
        seen = []
        for key, _ in table.items():
            seen.append(key)
            for number in range(1000, 2000):
                table[number] = b"x"  # it goes to the file now
            table.pop(key)
        assert seen[:100] == list(range(100))


def test_nothing_is_left_of_it(tmp_path: pathlib.Path) -> None:
    with Scratch.within(str(tmp_path)) as scratch:
        one: Table[bytes, bool] = marks(scratch, room=0)
        two: Table[bytes, bool] = marks(scratch, room=0)
        one[b"a"] = two[b"b"] = True
        assert (b"a" in one, b"a" in two) == (True, False)
        one.drop()
        assert b"b" in two
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_place_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with Scratch(lambda: nullcontext(str(tmp_path / "none"))) as scratch:
        table: Table[bytes, bool] = marks(scratch, room=0)
        with pytest.raises(OSError, match="cannot use a temporary file: unable to open") as caught:
            table[b"a"] = True
        assert caught.value.errno == errno.EIO
