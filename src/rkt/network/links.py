"""Links of the caller's network namespace, by rtnetlink(7) and netdevice(7).

All raise OSError.
"""

from __future__ import annotations

import _socket
import os
import struct
from fcntl import ioctl

_RTM_DELLINK = 17
_RTM_NEWADDR = 20
_REQUEST_ACK = 0x1 | 0x4
_CREATE = 0x400
_IFA_LOCAL = 2
_IFLA_IFNAME = 3
_SIOCSIFFLAGS = 0x8914
_SIOCGIFHWADDR = 0x8927
_SCOPE_HOST = 254
_LOOPBACK = 1  # the first interface of every namespace
_TIMEOUT = 5.0


def add_local_address(ip: str) -> None:
    """Give the loopback interface an IPv4 address, for use in this namespace only."""
    body = struct.pack("=BBBBi", _socket.AF_INET, 32, 0, _SCOPE_HOST, _LOOPBACK)
    _request(_RTM_NEWADDR, _CREATE, body + _attribute(_IFA_LOCAL, _socket.inet_aton(ip)))


def delete_link(name: str) -> None:
    """Delete a virtual link, both ends of it, and wait until the kernel has done so."""
    body = struct.pack("=BBHiII", _socket.AF_UNSPEC, 0, 0, 0, 0, 0)
    _request(_RTM_DELLINK, 0, body + _attribute(_IFLA_IFNAME, name.encode() + b"\0"))


def mac_address(name: str) -> str:
    """Give the hardware address of a link as `02:00:00:00:00:01`."""
    return _of_device(_SIOCGIFHWADDR, name)[18:24].hex(":")


def shut(name: str) -> None:
    """Take a link down: its routes go at once."""
    _of_device(_SIOCSIFFLAGS, name)


def _of_device(request: int, name: str) -> bytes:
    """Do a request of netdevice(7) whose argument is zero: flags, for one."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        return ioctl(sock.fileno(), request, name.encode().ljust(40, b"\0"))
    finally:
        sock.close()


def _attribute(kind: int, value: bytes) -> bytes:
    head = struct.pack("=HH", 4 + len(value), kind)
    return head + value + bytes(-len(value) % 4)


def _request(kind: int, flags: int, body: bytes) -> None:
    head = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0)
    sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
    try:
        sock.settimeout(_TIMEOUT)
        sock.send(head + body)
        answer = sock.recv(4096)
    finally:
        sock.close()
    (code,) = struct.unpack_from("=i", answer, 16)
    if code != 0:
        raise OSError(-code, os.strerror(-code))
