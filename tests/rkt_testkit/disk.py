"""A file system of little room below one of a test's directories, to be filled and freed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

_FILLER = ".filler"
_CHUNK = 1 << 20


class SmallDisk:
    """A tmpfs at a path of the test's mount namespace; `close` unmounts it."""

    def __init__(self, rkt: RktContext, path: str, *, options: str = "size=32m") -> None:
        self._rkt = rkt
        self._inside = path
        self._command("mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "none", path)
        self.path = f"{rkt.root()}{path}"
        """By which this process sees it."""

    def _command(self, *argv: str) -> None:
        done = self._rkt.run([*self._rkt.enter_argv(), *argv])
        assert done.status == 0, done.stderr

    def fill(self, *, leave: int = 0) -> None:
        """Take all the room there is but so many bytes."""
        fd = os.open(f"{self.path}/{_FILLER}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        size = _CHUNK
        try:
            while size:
                try:
                    os.write(fd, bytes(size))
                except OSError as err:
                    assert err.errno == errno.ENOSPC, err
                    size //= 2
            os.ftruncate(fd, max(0, os.fstat(fd).st_size - leave))
        finally:
            os.close(fd)

    def fill_names(self, *, leave: int = 0) -> None:
        """Take all inodes but so many: no file can be made, those that are there can be written."""
        top = f"{self.path}/{_FILLER}s"
        os.makedirs(top, exist_ok=True)
        number = len(os.listdir(top))
        try:
            while True:
                with open(f"{top}/{number}", "xb"):
                    number += 1
        except OSError as err:
            assert err.errno == errno.ENOSPC, err
        for last in range(max(0, number - leave), number):
            os.unlink(f"{top}/{last}")

    def free(self) -> None:
        """Give back what `fill` and `fill_names` took."""
        self._command("rm", "-rf", f"{self._inside}/{_FILLER}", f"{self._inside}/{_FILLER}s")

    def files(self) -> list[str]:
        """Name all files, beneath the file system's top."""
        skip = len(self.path) + 1
        return sorted(
            f"{top}/{name}"[skip:]
            for top, _, names in os.walk(self.path)
            for name in names
            if _FILLER not in f"{top}/{name}"
        )

    def close(self) -> None:
        """Unmount it."""
        self._command("umount", self._inside)
