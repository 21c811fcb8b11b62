"""Calling a method on the system bus: as much of D-Bus as registering a machine takes.

A library costs 30 ms at each start of a pod, which is as much as the rest of it; this costs two.
"""

from __future__ import annotations

import _socket
import os
import struct
import time

from rkt.errors import RktError

SOCKET = "/run/dbus/system_bus_socket"
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_LONGEST = 1 << 20
Value = tuple[str, object]
"""A D-Bus type and a value of it: lists for arrays, tuples for structures, a Value for `v`."""


class CallError(RktError):
    """The bus or who was called said no; `name` is the D-Bus name of the error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{message} ({name})" if name else message)
        self.name = name


class Bus:
    """A connection to the system bus.  Whatever goes wrong is a CallError."""

    def __init__(self, *, timeout: float = 10.0, path: str = SOCKET, direct: bool = False) -> None:
        """Connect to a bus, or with `direct` to the one program at the socket's other end."""
        self.what = path if direct else "the system bus"
        self.body = b""
        """Of the last message that was received."""
        self._deadline = time.monotonic() + timeout
        self._serial = 0
        self._buffer = b""
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(path)
            identity = str(os.geteuid()).encode("ascii").hex()
            # All at once to systemd, as its own tools do: a message or a descriptor that arrived
            # while it still reads our first lines it would take amiss.
            more = "NEGOTIATE_UNIX_FD\r\nBEGIN\r\n" if direct else ""
            self._send(f"\0AUTH EXTERNAL {identity}\r\n{more}".encode("ascii"))
            answer = self._line()
            if not answer.startswith(b"OK "):
                text = answer.decode(errors="replace")
                raise CallError("", f"{self.what} refuses us: {text}")
            if direct:
                if self._line() != b"AGREE_UNIX_FD":
                    raise CallError("", f"{self.what} takes no file descriptors")
            else:
                self._send(b"BEGIN\r\n")
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "Hello")
        except OSError as err:
            self.close()
            raise CallError("", f"cannot reach {self.what}: {err.strerror or err}") from err
        except CallError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def call(
        self, destination: str, path: str, member: str, arguments: tuple[Value, ...] = (),
        interface: str = "", fds: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """Call a method and wait for its end; what it gives is in `body`.

        A value of type `h` is the place of a descriptor in `fds`.
        """
        self._serial += 1
        serial = self._serial
        data = encode(
            serial, destination, path, interface or destination, member, arguments, fds=len(fds)
        )
        self._send(data, fds)
        while True:
            kind, answered, name, text = self._receive()
            if kind == _SIGNAL:
                self.heard(name)
            if answered == serial and kind == _RETURN:
                return
            if answered == serial and kind == _ERROR:
                raise CallError(name, text or f"{member} failed")

    def heard(self, member: str) -> None:
        """Take note of a signal, whose arguments are in `body`."""

    def wait_for_signal(self) -> None:
        """Wait until `heard` has been called again."""
        while True:
            kind, _, name, _ = self._receive()
            if kind == _SIGNAL:
                self.heard(name)
                return

    def _send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        try:
            if fds:
                packed = struct.pack(f"{len(fds)}i", *fds)
                carried = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
                data = data[self._sock.sendmsg([data], carried) :]
            self._sock.sendall(data)
        except OSError as err:
            raise CallError("", f"cannot write to {self.what}: {err.strerror or err}") from err

    def _fill(self, count: int) -> None:
        """Have so many bytes in the buffer."""
        while len(self._buffer) < count:
            try:
                self._sock.settimeout(max(0.01, self._deadline - time.monotonic()))
                data = self._sock.recv(65536)
            except OSError as err:
                reason = err.strerror or "it does not answer"
                raise CallError("", f"cannot read from {self.what}: {reason}") from err
            if not data or count > _LONGEST:
                raise CallError("", f"{self.what} has hung up")
            self._buffer += data

    def _take(self, count: int) -> bytes:
        self._fill(count)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill(len(self._buffer) + 1)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _receive(self) -> tuple[int, int, str, str]:
        """Give type, answered serial, error or signal name and an error's text of what comes."""
        self._fill(16)
        body, _, fields = struct.unpack_from("<III", self._buffer, 4)
        if self._buffer[:1] != b"l" or body > _LONGEST or fields > _LONGEST:
            raise CallError("", f"{self.what} speaks in an unknown way")
        kind, start = self._buffer[1], 16 + fields + (-fields % 8)
        data = self._take(start + body)
        self.body = data[start:]
        return decode(kind, data, fields, start)


def encode(
    serial: int, destination: str, path: str, interface: str, member: str,
    arguments: tuple[Value, ...], *, fds: int = 0,
) -> bytes:  # fmt: skip
    """Give the bytes of a method call."""
    body = bytearray()
    for kind, value in arguments:
        _put(body, kind, value)
    header = bytearray()
    signature = "".join(kind for kind, _ in arguments)
    for code, kind, text in ((1, "o", path), (2, "s", interface), (3, "s", member),
                             (6, "s", destination), (8, "g", signature)):  # fmt: skip
        if text:
            _align(header, 8)
            header.append(code)
            _put(header, "g", kind)
            _put(header, kind, text)
    if fds:
        _align(header, 8)
        header.append(9)
        _put(header, "g", "u")
        _put(header, "u", fds)
    head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(header))
    return head + bytes(header) + bytes(-len(header) % 8) + bytes(body)


def _align(out: bytearray, to: int) -> None:
    out += bytes(-len(out) % to)


def _put(out: bytearray, kind: str, value: object) -> None:
    if kind in ("s", "o") and isinstance(value, str):
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError as err:
            raise CallError("", f"cannot send a text that is no UTF-8: {value!a}") from err
        if b"\0" in data:
            raise CallError("", f"cannot send a text with a zero byte: {value!a}")
        _align(out, 4)
        out += struct.pack("<I", len(data)) + data + b"\0"
    elif kind == "g" and isinstance(value, str):
        out += bytes((len(value),)) + value.encode("ascii") + b"\0"
    elif kind in _NUMBERS and isinstance(value, int):
        size, form = _NUMBERS[kind]
        _align(out, size)
        out += struct.pack(form, value)
    elif kind == "v" and isinstance(value, tuple):
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    elif kind == "ay" and isinstance(value, bytes):
        _align(out, 4)
        out += struct.pack("<I", len(value)) + value
    elif kind == "a(sv)" and isinstance(value, list):
        _put_array(out, "(sv)", [(name, (sort, own)) for name, sort, own in value])
    elif kind[:1] == "a" and isinstance(value, list):
        _put_array(out, kind[1:], value)
    elif kind[:1] == "(" and isinstance(value, tuple):
        _align(out, 8)
        for sort, own in zip(_split(kind[1:-1]), value, strict=True):
            _put(out, sort, own)
    else:
        raise CallError("", f'cannot send a value of the D-Bus type "{kind}"')


_NUMBERS = {"u": (4, "<I"), "b": (4, "<I"), "i": (4, "<i"), "h": (4, "<I"), "t": (8, "<Q")}


def _put_array(out: bytearray, kind: str, values: list[object]) -> None:
    _align(out, 4)
    at = len(out)
    out += bytes(4)
    _align(out, 8 if kind[0] in "(t" else 4)
    start = len(out)
    for value in values:
        _put(out, kind, value)
    struct.pack_into("<I", out, at, len(out) - start)


def _split(signature: str) -> list[str]:
    """Cut a signature into its complete types."""
    found: list[str] = []
    at = 0
    while at < len(signature):
        end = at
        while signature[end] == "a":
            end += 1
        depth = 0
        while True:
            depth += (signature[end] == "(") - (signature[end] == ")")
            end += 1
            if depth == 0:
                break
        found.append(signature[at:end])
        at = end
    return found


def decode(kind: int, data: bytes, fields: int, start: int) -> tuple[int, int, str, str]:
    """Read what matters of a message; raises CallError for one that is no message."""
    answered, name, text, signature = 0, "", "", ""
    at, end = 16, 16 + fields
    try:
        while at < end:
            at += -at % 8
            code, size = data[at], data[at + 1]
            sort = data[at + 2 : at + 2 + size].decode("ascii")
            at += 3 + size
            if sort == "g":
                signature = data[at + 1 : at + 1 + data[at]].decode("ascii")
                at += data[at] + 2
                continue
            at += -at % 4
            (number,) = struct.unpack_from("<I", data, at)
            at += 4
            if sort in ("s", "o"):
                if code == (3 if kind == _SIGNAL else 4):
                    name = data[at : at + number].decode("utf-8", "replace")
                at += number + 1
            elif code == 5:
                answered = number
        if kind == _ERROR and signature.startswith("s"):
            (number,) = struct.unpack_from("<I", data, start)
            text = data[start + 4 : start + 4 + number].decode("utf-8", "replace")
    except (IndexError, ValueError, struct.error) as err:
        raise CallError("", "something that is no message came by D-Bus") from err
    return kind, answered, name, text
