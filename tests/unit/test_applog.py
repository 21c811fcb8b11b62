"""The log of an app, written by stage1 and read by rkt: two programs that share a format only."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rkt.const import LOG_DIR, LOG_MAGIC
from rkt.linux import lock
from rkt.pod import logs
from rkt.pod.lifecycle import Pod
from rkt.stage1.streams import applog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNKS = st.lists(st.tuples(st.sampled_from((1, 2)), st.text("ab\n", min_size=1, max_size=12)))

LINES = {s: b"".join(b"%d:%08d\n" % (s, i) for i in range(250000)) for s in (1, 2)}


class Rig:
    """A pod directory with one log, its writer, and readers."""

    def __init__(self, top: str) -> None:
        self.pod = Pod(top, ".", "pod", lock.open_dir(top))
        self.directory = f"{top}/{LOG_DIR}/a"
        self.said: list[str] = []
        self.writer = self.write_anew()

    def write_anew(self, size: int = applog.DEFAULT_SIZE) -> applog.AppLog:
        return applog.AppLog(self.directory, "a", size, self.said.append)

    def reader(self) -> logs.AppLog:
        return logs.AppLog(self.pod, "a")

    def text(self, stream: int = logs.STDOUT, *, final: bool = True) -> bytes:
        blocks = self.reader().blocks(final=final)
        return b"".join(block.data for block in blocks if block.stream == stream)

    def files(self) -> list[str]:
        return sorted(os.listdir(self.directory))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(str(tmp_path))
    yield made
    made.writer.close()
    made.pod.close()


def test_the_directory_is_roots_alone(rig: Rig) -> None:
    assert os.stat(rig.directory).st_mode & 0o777 == 0o700
    assert os.listdir(rig.directory) == []
    rig.writer.write(logs.STDOUT, b"x")
    assert os.stat(f"{rig.directory}/00000001").st_mode & 0o777 == 0o600


@given(CHUNKS, st.sets(st.integers(0, 30)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_torn_however_it_is_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, str]], looks: set[int]
) -> None:
    rig = Rig(str(tmp_path_factory.mktemp("log")))
    reader, found = rig.reader(), {1: b"", 2: b""}

    def look(*, final: bool) -> None:
        for block in reader.blocks(final=final):
            assert final or block.data.endswith(b"\n")
            found[block.stream] += block.data

    for index, (stream, text) in enumerate(chunks):
        rig.writer.write(stream, text.encode())
        if index in looks:
            look(final=False)
    rig.writer.close()
    look(final=True)
    whole = {s: "".join(text for t, text in chunks if t == s).encode() for s in (1, 2)}
    assert found == whole
    reader.close()
    rig.pod.close()


@given(st.lists(st.tuples(st.sampled_from((1, 2)), st.integers(1, 40000)), max_size=60))
@settings(max_examples=25, deadline=None)
def test_rotation_keeps_whole_lines_and_the_bound(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, int]]
) -> None:
    rig = Rig(str(tmp_path_factory.mktemp("log")))
    rig.writer.close()
    rig.writer = rig.write_anew(applog.LEAST_SIZE)
    sent, position = LINES, {1: 0, 2: 0}
    for stream, size in chunks:
        piece = sent[stream][position[stream] : position[stream] + size]
        position[stream] += len(piece)
        rig.writer.write(stream, piece)
    rig.writer.close()
    total = sum(os.path.getsize(f"{rig.directory}/{name}") for name in rig.files())
    assert total <= applog.LEAST_SIZE + 2 * len(LOG_MAGIC)
    for stream in (1, 2):
        kept = rig.text(stream)
        assert sent[stream][: position[stream]].endswith(kept)
        before = position[stream] - len(kept)
        assert before == 0 or sent[stream][before - 1 : before] == b"\n"
    rig.pod.close()


def test_a_reader_follows_through_rotation(rig: Rig) -> None:
    rig.writer = rig.write_anew(applog.LEAST_SIZE)
    reader, got = rig.reader(), b""
    for index in range(40):
        rig.writer.write(1, b"%03d" % index * 3333)
        rig.writer.write(1, b"\n")
        if index % 3 == 0:
            got += b"".join(block.data for block in reader.blocks(final=False))
    got += b"".join(block.data for block in reader.blocks(final=True))
    assert [line[:3] for line in got.splitlines()] == [b"%03d" % index for index in range(40)]


def test_a_reader_that_is_too_slow_loses_whole_lines(rig: Rig) -> None:
    rig.writer = rig.write_anew(applog.LEAST_SIZE)
    reader = rig.reader()
    rig.writer.write(1, b"begun")
    assert list(reader.blocks(final=False)) == []
    for index in range(100):
        rig.writer.write(1, b"%03d" % index * 3333 + b"\n")
    lines = b"".join(block.data for block in reader.blocks(final=True)).splitlines()
    assert 10 < len(lines) < 40
    # The file that it had open is read to its end.
    assert {len(line) for line in lines} == {9999, 9999 + len("begun")}


def test_times_streams_and_notes(rig: Rig) -> None:
    rig.writer.write(1, b"one\ntw")
    rig.writer.write(2, b"bad\n")
    rig.writer.note("it starts again")
    rig.writer.write(1, b"o\nthree\n")
    blocks = list(rig.reader().blocks(final=False))
    assert [(b.stream, b.data) for b in blocks] == [
        (1, b"one\n"), (2, b"bad\n"), (0, b"it starts again\n"), (1, b"two\n"), (1, b"three\n"),
    ]  # fmt: skip
    assert blocks[0].time == blocks[3].time < blocks[1].time < blocks[4].time
    assert [block.order for block in blocks] == sorted(block.order for block in blocks)


def test_a_writer_killed_in_the_middle_of_a_record(rig: Rig) -> None:
    rig.writer.write(1, b"whole\n")
    rig.writer.write(1, b"half of it\n")
    os.truncate(f"{rig.directory}/00000001", os.path.getsize(f"{rig.directory}/00000001") - 6)
    assert rig.text(final=False) == b"whole\n"
    assert rig.text() == b"whole\nhalf "


@pytest.mark.parametrize("tail", [bytes(4096), b"\xff" * 4096, b"x"])
def test_what_a_power_cut_leaves_is_said_and_skipped(rig: Rig, tail: bytes) -> None:
    rig.writer.write(1, b"whole\n")
    with open(f"{rig.directory}/00000001", "ab") as file:
        file.write(tail)
    rig.writer.close()
    rig.writer = rig.write_anew()
    rig.writer.write(1, b"later\n")
    assert rig.text() == b"whole\nlater\n"
    said = b"the log is damaged: the rest of file 00000001 cannot be read\n"
    assert rig.text(logs.NOTE) == (said if len(tail) > 1 else b"")


@pytest.mark.parametrize("content", [b"", b"rkt", b"no log at all"])
def test_a_file_without_its_head(rig: Rig, content: bytes) -> None:
    with open(f"{rig.directory}/00000001", "wb") as file:
        file.write(content)
    assert rig.text() == b""


def test_a_line_without_end_does_not_grow_in_memory(rig: Rig) -> None:
    for _ in range(40):
        rig.writer.write(1, bytes(65536))
    reader = rig.reader()
    sizes = [len(block.data) for block in reader.blocks(final=False)]
    assert sizes
    assert max(sizes) < 2 << 20
    assert len(b"".join(b.data for b in reader.blocks(final=True))) + sum(sizes) == 40 * 65536


def test_the_pieces_of_a_long_line_count_as_one(rig: Rig) -> None:
    long = b"a" * (3 << 20)
    for at in range(0, len(long), 65536):
        rig.writer.write(1, long[at : at + 65536])
    rig.writer.write(1, b"end\nafter\n")
    found = list(rig.reader().blocks(final=True))
    assert len({block.time for block in found[:-1]}) == 1
    for count, text in ((1, b"after\n"), (2, long + b"end\nafter\n"), (3, long + b"end\nafter\n")):
        last = logs.tail(rig.reader().blocks(final=True), count)
        assert b"".join(block.data for block in last) == text
    assert [block.begins for block in found] == [True, False, False, True]


def test_a_tail_has_no_end_of_a_line_whose_beginning_it_has_not() -> None:
    blocks = [
        logs.Block("a", 1, 1, 1, b"long "), logs.Block("a", 2, 2, 2, b"other\n"),
        logs.Block("a", 1, 1, 3, b"end\n", begins=False),
    ]  # fmt: skip
    assert [block.data for block in logs.tail(blocks, 1)] == [b"other\n"]
    assert [block.data for block in logs.tail(blocks, 2)] == [b"long ", b"other\n", b"end\n"]


def test_what_follows_a_long_line_without_end_is_a_line_of_its_own(rig: Rig) -> None:
    for _ in range(17):
        rig.writer.write(1, b"a" * 65536)
    rig.writer.close()
    rig.writer = rig.write_anew()
    rig.writer.write(1, b"new\n")
    assert rig.text() == b"a" * 17 * 65536 + b"\nnew\n"


def test_other_files_in_the_directory_are_none_of_the_log(rig: Rig) -> None:
    rig.writer.write(1, b"line\n")
    for name in ("3", "000000007", "\u00b2", "00000001.old"):
        with open(f"{rig.directory}/{name}", "wb") as file:
            file.write(b"no log at all")
    assert rig.text() == b"line\n"


def test_a_full_disk_is_said_once_and_accounted_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.writer.write(1, b"before\nhalf a ")
    real = os.writev

    def full(_fd: int, _parts: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def short(fd: int, parts: list[bytes]) -> int:
        return real(fd, [*parts[:-1], parts[-1][:3]])  # the note fits, what follows does not

    for fake in (full, short, full):
        monkeypatch.setattr(os, "writev", fake)
        rig.writer.write(1, b"lost\nlost ")
    monkeypatch.setattr(os, "writev", real)
    rig.writer.write(1, b"too\nafter\n")
    said = 'warning: app "a": its log cannot be written (No space left on device); '
    assert rig.said == [f"{said}the app goes on, output is lost"]
    assert rig.text() == b"before\nhalf a \nafter\n"
    assert rig.text(logs.NOTE) == b"30 bytes of output were lost: no room for them\n"


def test_the_last_lines() -> None:
    def blocks() -> Iterator[logs.Block]:
        for index in range(50):
            yield logs.Block(
                "a", 1, index, index, b"".join(b"%d\n" % (3 * index + i) for i in range(3))
            )

    for count in (0, 1, 2, 3, 4, 149, 150, 151, 1000):
        found = b"".join(block.data for block in logs.tail(blocks(), count)).split()
        assert found == [b"%d" % i for i in range(150)][max(0, 150 - count) :]
    whole = b"".join(block.data for block in logs.tail(blocks(), 150, room=50 << 10))
    assert whole.split() == [b"%d" % i for i in range(150)]
    assert len(logs.tail(blocks(), 3, room=1000)) == 1
    with pytest.raises(logs.TooLong, match="the last 149 lines take more than 0 MiB"):
        logs.tail(blocks(), 149, room=1000)
