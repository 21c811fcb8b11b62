"""The progress line."""

from __future__ import annotations

import io
import re

import pytest

from rkt import log
from rkt.fetch.progress import Board, Progress, line_text, size_text


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (473, "473 B"), (999, "999 B"), (1000, "1 KB"), (12_000, "12 KB"),
        (3_250_000, "3.25 MB"), (3_700_000, "3.7 MB"), (999_600, "1 MB"), (10**18, "1e+03 PB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_line_of_the_guide() -> None:
    line = line_text("Downloading aci", 3_250_000, 3_700_000)
    assert line == f"Downloading aci: [{'=' * 39}{' ' * 6}] 3.25 MB/3.7 MB"


@pytest.mark.parametrize("total", [1, 999, 123_456, 9_990_000, 2**40])
def test_line_fits(total: int) -> None:
    for done in (0, total // 3, total, total + 5):
        assert len(line_text("Downloading aci", done, total)) <= 80


def test_line_without_a_total() -> None:
    assert line_text("Downloading aci", 12_000, None) == (
        "Downloading aci: 12 KB of an unknown total size"
    )
    assert "] 0 B/0 B" in line_text("Downloading aci", 0, 0)


def test_one_plain_line_without_a_terminal() -> None:
    stream = io.StringIO()
    bar = Progress("Downloading aci", 10, stream=stream)
    for _ in range(10):
        bar.advance(1)
    bar.finish()
    assert stream.getvalue() == f"Downloading aci: [{'=' * 45}] 10 B/10 B\n"
    stream = io.StringIO()
    Progress("Downloading aci", 10, stream=stream).abort()
    assert stream.getvalue() == ""


def test_redrawn_in_place_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rkt.fetch.progress.time.monotonic", lambda: now)
    screen = Screen()
    bar = Progress("Downloading aci", 1000, start=100, stream=screen)
    for _ in range(90):
        bar.advance(10)
        now += 0.1
    bar.finish()
    drawn = screen.getvalue()
    assert drawn.startswith("\rDownloading aci: [")
    assert drawn.rstrip(" \n").endswith("] 1 KB/1 KB")
    assert drawn.count("\r") == 10
    assert drawn.count("\n") == 1


def test_abort_ends_a_line_that_was_begun() -> None:
    screen = Screen()
    bar = Progress("Downloading aci", 1000, stream=screen)
    bar.advance(1)
    bar.abort()
    bar.abort()
    assert screen.getvalue().count("\n") == 1


def shown(written: str) -> list[str]:
    """Give the lines on a terminal that got this."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\x1b[J":
            del lines[row + 1 :]
            lines[row] = ""
        elif part[0] == "\x1b":
            assert part[-1] == "A"
            row -= int(part[2:-1])
            assert row >= 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part != "\r":
            assert lines[row] == ""  # only cleared lines are written to
            lines[row] = part
    assert (row, lines[-1]) == (len(lines) - 1, "")
    return lines[:-1]


def test_several_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rkt.fetch.progress.time.monotonic", lambda: now)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with Board(stream=screen) as board:
        one, two = board.begin("one", 1000), board.begin("two", 2000)
        assert [line[:4] for line in shown(screen.getvalue())] == ["one:", "two:"]
        now += 2
        board.advance(two, 500)
        before = screen.getvalue()
        board.advance(one, 100)  # too soon to be drawn
        assert screen.getvalue() == before
        assert [line.split("] ")[1] for line in shown(before)] == ["0 B/1 KB", "500 B/2 KB"]
        log.info("something to say")
        lines = shown(screen.getvalue())
        assert lines[0] == "rkt: something to say"
        assert [line[:4] for line in lines[1:]] == ["one:", "two:"]
        board.advance(two, 1500)
        board.end(two)
        three = board.begin("three", 30)
        board.restart(three)
        lines = shown(screen.getvalue())
        assert [line.split(":")[0] for line in lines] == ["rkt", "two", "one", "three"]
        assert lines[1].endswith("=] 2 KB/2 KB")
    lines = shown(screen.getvalue())
    assert [line.split(":")[0] for line in lines] == ["rkt", "two", "one", "three"]
    board.advance(one, 100)
    board.end(one)  # of a download that nobody waits for any more
    assert shown(screen.getvalue()) == lines


def test_nothing_is_drawn_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dumb = Screen()
    monkeypatch.setenv("TERM", "dumb")
    for stream in (io.StringIO(), dumb):
        with Board(stream=stream) as board:
            row = board.begin("one", 10)
            board.advance(row, 10)
            log.info("said")
            board.end(row)
        assert stream.getvalue() == ""
    assert capsys.readouterr().err == "rkt: said\nrkt: said\n"
