"""The caller's terminal and the pty of an interactive app."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import sys
import termios

from rkt.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.stage1.streams.pump import Loop

_WINSIZE = 8


class ConsoleSocket:
    """A unix socket on which the runtime hands over the pty's master side: `got(descriptor)`.

    Runtimes connect early.  One that fails sends nothing: it says why elsewhere.
    """

    __slots__ = ("_got", "_loop", "_sock", "path")

    def __init__(self, loop: Loop, directory: str, name: str, got: Callable[[int], None]) -> None:
        self.path = f"{directory}/{name}"
        self._loop = loop
        self._got = got
        _unlink(self.path)  # that of a process which had our PID and was killed
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._sock.bind(self.path)
        self._sock.listen(1)
        loop.watch(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        fd, _ = self._sock._accept()  # type: ignore[attr-defined]  # the C base of socket.accept
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        self._sock = _socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._loop.watch(fd, self._receive)
        self._receive()  # if it is there: what may end a short command is to be handled next

    def _receive(self) -> None:
        try:
            size = _socket.CMSG_SPACE(4)
            _, ancillary, _, _ = self._sock.recvmsg(4096, size, _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            ancillary = []
        self.close()
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(data) >= 4:
                self._got(_number(data[:4]))

    def close(self) -> None:
        """Close and remove the socket."""
        if self._sock.fileno() >= 0:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            _unlink(self.path)


class Terminal:
    """The caller's terminal in raw mode, until `restore`."""

    __slots__ = ("_fd", "_saved")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[object] | None = None

    def raw(self) -> None:
        """Let every key go through as it is."""
        attributes = termios.tcgetattr(self._fd)
        self._saved = list(attributes)
        iflag, oflag, cflag, lflag = (int(value) for value in attributes[:4])
        iflag &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
            | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        oflag &= ~termios.OPOST
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        controls = list(attributes[6])
        controls[termios.VMIN], controls[termios.VTIME] = 1, 0
        changed: list[object] = [iflag, oflag, cflag, lflag, attributes[4], attributes[5], controls]
        try:
            self._set(changed)
        except termios.error as err:
            raise KernelError("cannot use the terminal", OSError(*err.args)) from err

    def restore(self) -> None:
        """Give the terminal back as it was; does nothing when it was never changed."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            try:
                self._set(saved)
            except (OSError, termios.error):  # hung up
                pass

    def _set(self, attributes: list[object]) -> None:
        """Change the terminal; a background job is stopped on the way until it is brought back."""
        when = termios.TCSADRAIN
        while True:
            try:
                termios.tcsetattr(self._fd, when, attributes)  # type: ignore[arg-type]
                return
            except termios.error as err:
                if err.args[0] != errno.EINTR:
                    raise
                when = termios.TCSANOW

    def size(self) -> tuple[int, int]:
        """Give rows and columns."""
        raw = fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(_WINSIZE))
        return _number(raw[0:2]), _number(raw[2:4])

    def copy_size(self, master: int) -> None:
        """Give a pty the size of this terminal; the kernel tells its foreground job."""
        try:
            raw = fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(_WINSIZE))
            fcntl.ioctl(master, termios.TIOCSWINSZ, raw)
        except OSError:
            pass


class Keyboard:
    """Carries what the user types to the pty; holds at most one chunk."""

    __slots__ = ("_ended", "_loop", "_master", "_pending", "_source")

    def __init__(self, loop: Loop, source: int, master: int) -> None:
        self._loop = loop
        self._source = source
        self._master = os.dup(master)
        self._pending = b""
        self._ended = False
        loop.watch(source, self._read)

    @property
    def done(self) -> bool:
        """Whether all that there was to read has been written."""
        return self._ended and not self._pending

    def _read(self) -> None:
        try:
            self._pending = os.read(self._source, 4096)
        except OSError:
            self._pending = b""
        if not self._pending:
            self._ended = True
            self._loop.forget(self._source)
            return
        self._write()

    def _write(self) -> None:
        try:
            count = os.write(self._master, self._pending)
        except BlockingIOError:
            count = 0
        except OSError:  # the app's side has gone
            self.close()
            return
        self._pending = self._pending[count:]
        if self._pending:
            self._loop.forget(self._source)
            self._loop.watch(self._master, self._write, write=True)
        else:
            self._loop.forget(self._master)
            self._loop.watch(self._source, self._read)

    def close(self) -> None:
        """Stop reading keys."""
        self._loop.forget(self._source)
        if self._master >= 0:
            self._loop.forget(self._master)
            os.close(self._master)
            self._master = -1


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _number(raw: bytes) -> int:
    """Read an integer in this machine's byte order."""
    return int.from_bytes(raw, sys.byteorder)
