"""The journal of a pod: what `journalctl -M rkt-UUID` shows, also after the pod's end.

docs/devel/systemd.md says why rkt writes the files itself.  The whole output is in the pod's own
log (`rkt logs`); here, as with journald, an app that writes a flood loses what is beyond its share.
"""

from __future__ import annotations

import os
import time

from rkt import log
from rkt.const import JOURNALS
from rkt.stage1.host.journalfile import JournalFile

_FILE_SIZE = 8 << 20
_FILES = 4
_LONGEST_LINE = 48 << 10
_BURST, _INTERVAL = 10_000, 30.0  # journald's defaults
_COST = 512  # a longer line counts as several


def identity(uuid: str) -> str:
    """Give the machine ID of a pod."""
    return uuid.replace("-", "")


def make(uuid: str) -> str:
    """Make the directory of a pod's journal; gives its path, "" where the host has no journal."""
    for place in JOURNALS:
        path = f"{place}/{identity(uuid)}"
        try:
            above = os.stat(place)
            os.mkdir(path, 0o750)
            os.chmod(path, 0o750 | above.st_mode & 0o2000)
        except FileExistsError:
            return path
        except FileNotFoundError:
            continue
        except OSError as err:
            log.debug(f'cannot make the journal "{path}": {err.strerror}')
            continue
        return path
    return ""


def remove(uuid: str) -> list[str]:
    """Remove a pod's journal; nothing there is success.  Gives what could not be done."""
    left = []
    for place in JOURNALS:
        path = f"{place}/{identity(uuid)}"
        try:
            for name in os.listdir(path):
                os.unlink(f"{path}/{name}")
            os.rmdir(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as err:
            left.append(f'cannot remove the journal "{path}": {err.strerror}')
    return left


class Journal:
    """A directory of journal files, the oldest of which go."""

    def __init__(self, directory: str, uuid: str, hostname: str) -> None:
        self._directory = directory
        self._machine = bytes.fromhex(identity(uuid))
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip().replace("-", "")
        self._boot = bytes.fromhex(boot)
        self.uuid = uuid
        common = (f"_BOOT_ID={boot}", f"_MACHINE_ID={identity(uuid)}", f"_HOSTNAME={hostname}",
                  "_TRANSPORT=stdout", f"CONTAINER_UUID={uuid}")  # fmt: skip
        self.common = tuple(field.encode() for field in common)
        self._series = os.urandom(16)
        self._file: JournalFile | None = None
        self._broken = False
        self._begin(1)

    def append(self, fields: tuple[bytes, ...], message: bytes, when: int) -> None:
        """Add an entry; after a failure the journal stays as it is."""
        if self._file is None:
            return
        try:
            self._file.append(fields, message, when)
            if self._file.size >= _FILE_SIZE:
                self._rotate()
        except (OSError, ValueError) as err:
            self._give_up(err)

    def publish(self) -> None:
        """Wake up who follows."""
        if self._file is not None:
            try:
                self._file.publish()
            except OSError as err:
                self._give_up(err)

    def close(self) -> None:
        """Finish."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as err:
                log.debug(f"journal: {err.strerror}")
            self._file = None

    def _begin(self, seqnum: int) -> None:
        try:
            self._file = JournalFile(
                f"{self._directory}/system.journal", machine=self._machine, boot=self._boot,
                series=self._series, seqnum=seqnum,
            )  # fmt: skip
        except OSError as err:
            self._give_up(err)

    def _rotate(self) -> None:
        if self._file is None:
            return
        done, self._file = self._file, None
        done.close(archive=True)
        number, when = done.first
        name = f"system@{done.series.hex()}-{number:016x}-{when:016x}.journal"
        os.rename(done.path, f"{self._directory}/{name}")
        old = sorted(name for name in os.listdir(self._directory) if name.startswith("system@"))
        for name in old[: 1 - _FILES]:
            os.unlink(f"{self._directory}/{name}")
        self._begin(done.seqnum)

    def _give_up(self, err: Exception) -> None:
        log.debug(f"the journal of the pod ends here: {err}")
        self.close()


class AppJournal:
    """What one app says, cut into lines."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name
        self.pid = 0
        self._fields = (f"SYSLOG_IDENTIFIER={name}".encode(),
                        f"_SYSTEMD_UNIT={name}.service".encode())  # fmt: skip
        self._partial = [b"", b"", b""]
        self._since = 0.0
        self._spent = self._dropped = 0

    def write(self, stream: int, data: bytes) -> None:
        """Take what an app wrote to a stream."""
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._partial[stream] = rest
        if lines:
            now = time.time_ns() // 1000
            for line in lines:
                self._line(line, now)
            self._journal.publish()

    def note(self, text: str) -> None:
        """Add a line of rkt's own."""
        self._put(f"rkt: {text}".encode("utf-8", "replace"), b"PRIORITY=5", time.time_ns() // 1000)
        self._journal.publish()

    def close(self) -> None:
        """Write what has no end of line yet, and what is missing."""
        now = time.time_ns() // 1000
        for rest in self._partial:
            if rest:
                self._line(rest, now)
        self._partial = [b"", b"", b""]
        self._account(now)
        self._journal.publish()

    def _line(self, line: bytes, when: int) -> None:
        if not self._allowed(len(line), when):
            self._dropped += 1
            return
        priority = b"PRIORITY=6"
        if line[:1] == b"<" and line[2:3] == b">" and line[1:2].isdigit() and line[1] < 56:
            priority = b"PRIORITY=" + line[1:2]  # sd-daemon(3)
            line = line[3:]
        while len(line) > _LONGEST_LINE:
            self._put(line[:_LONGEST_LINE], priority, when)
            line = line[_LONGEST_LINE:]
        self._put(line, priority, when)

    def _put(self, line: bytes, priority: bytes, when: int) -> None:
        fields = (*self._journal.common, *self._fields, priority, b"_PID=%d" % self.pid)
        self._journal.append(fields, b"MESSAGE=" + line, when)

    def _allowed(self, length: int, when: int) -> bool:
        now = time.monotonic()
        if not self._since or now - self._since > _INTERVAL:
            self._since = now
            self._spent = 0
            self._account(when)
        self._spent += 1 + length // _COST
        return self._spent <= _BURST

    def _account(self, when: int) -> None:
        if self._dropped:
            text = f"{self._dropped} lines are not in the journal: too many at once; "
            text += f"`rkt logs --app={self._name} {self._journal.uuid}` has them"
            self._dropped = 0
            self._put(f"rkt: {text}".encode(), b"PRIORITY=4", when)
