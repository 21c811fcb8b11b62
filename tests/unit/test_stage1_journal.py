"""The journal files of pods, read back by journalctl where there is one; calls on the bus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from rkt.stage1.host import dbus
from rkt.stage1.host.journal import AppJournal, Journal
from rkt.stage1.host.journalfile import jenkins

UUID = "12345678-1234-1234-1234-123456789abc"
needs_journalctl = pytest.mark.skipif(not shutil.which("journalctl"), reason="no journalctl")


def read(directory: str, *options: str) -> list[dict[str, object]]:
    """Give the entries of a journal after a look at its soundness."""
    subprocess.run(["journalctl", "--verify", "-q", "-D", directory], check=True,
                   capture_output=True)  # fmt: skip
    done = subprocess.run(["journalctl", "-q", "-D", directory, "-o", "json", "--all", *options],
                          check=True, capture_output=True)  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("data", "hashed"),
    [(b"", 0xDEADBEEFDEADBEEF), (b"Four score and seven years ago", 0x17770551CE7226E6)],
)
def test_the_hash_is_lookup3(data: bytes, hashed: int) -> None:
    assert jenkins(data) == hashed


@needs_journalctl
def test_lines_come_back(tmp_path: object) -> None:
    journal = Journal(str(tmp_path), UUID, "host")
    web, db = AppJournal(journal, "web"), AppJournal(journal, "db")
    web.pid = 42
    web.write(1, b"hello\n<3>bad\npart")
    db.write(2, b"\xff binary\n\n")
    web.write(1, b"ial\nlast")
    web.note("it starts again")
    web.close()
    db.close()
    journal.close()
    entries = read(str(tmp_path), "-u", "web")
    assert [entry["MESSAGE"] for entry in entries] == [
        "hello", "bad", "partial", "rkt: it starts again", "last"
    ]  # fmt: skip
    assert [entry["PRIORITY"] for entry in entries] == ["6", "3", "6", "5", "6"]
    assert entries[0]["_PID"] == "42"
    assert entries[0]["_MACHINE_ID"] == UUID.replace("-", "")
    assert [entry["MESSAGE"] for entry in read(str(tmp_path), "-t", "db")] == [
        list(b"\xff binary"), ""
    ]  # fmt: skip


@needs_journalctl
def test_files_are_rotated_and_the_oldest_go(tmp_path: object) -> None:
    journal = Journal(str(tmp_path), UUID, "host")
    number = 0
    while not any(name.startswith("system@") for name in os.listdir(str(tmp_path))):
        number += 1
        journal.append(journal.common, b"MESSAGE=%d %s" % (number, bytes(40_000)), number)
    for more in range(number, 5 * number):
        journal.append(journal.common, b"MESSAGE=%d %s" % (more + 1, bytes(40_000)), more + 1)
    journal.close()
    assert len(os.listdir(str(tmp_path))) == 4
    entries = read(str(tmp_path), "--output-fields=_HOSTNAME")
    assert 2 * number < len(entries) < 5 * number


@needs_journalctl
def test_a_flood_is_cut_and_the_journal_says_so(tmp_path: object) -> None:
    journal = Journal(str(tmp_path), UUID, "host")
    app = AppJournal(journal, "web")
    app.write(1, b"x\n" * 10_005)
    app.close()
    journal.close()
    entries = read(str(tmp_path))
    assert len(entries) == 10_001
    assert str(entries[-1]["MESSAGE"]).startswith("rkt: 5 lines are not in the journal")


def test_a_journal_that_cannot_be_written_is_given_up(tmp_path: object) -> None:
    journal = Journal(f"{tmp_path}/missing", UUID, "host")
    app = AppJournal(journal, "web")
    app.write(1, b"hello\n")
    app.close()
    journal.close()
    assert os.listdir(str(tmp_path)) == []


def test_a_bus_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(dbus.CallError, match="cannot reach the system bus: No such file"):
        dbus.Bus(path=f"{tmp_path}/bus")


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(dbus.CallError, match="something that is no message"):
        dbus.decode(2, b"l\2\0\1" + bytes(12) + b"\5\x01u", 200, 216)
