"""Leaving a point-to-point network without waiting for the kernel.

Deleting a link, as the plugin does, takes the kernel some 60 ms.  Here the link only goes down,
which removes its routes at once; it vanishes with the pod's namespace a moment later.  The plugin
still releases the address; the masquerading rule, which it would not touch without a namespace, is
removed beside it.
"""

from __future__ import annotations

import _socket
from fcntl import ioctl

from rkt.errors import NetworkError
from rkt.network import firewall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.network.attach import Caller
    from rkt.network.record import Attachment

_SIOCSIFFLAGS = 0x8914
_NAME_LIMIT = 15
_OLD = ("0.1.0", "0.2.0")  # do not name their interfaces


def link_of(item: Attachment) -> str:
    """Give the host's end of the link if this network may be left so, else ""."""
    conf = item.conf
    if len(conf.plugins) != 1 or conf.plugins[0]["type"] != "ptp" or conf.version in _OLD:
        return ""
    if any(address.version != 4 for address in item.addresses):
        return ""
    interfaces = (item.result or {}).get("interfaces")
    names = [
        found.get("name")
        for found in (interfaces if isinstance(interfaces, list) else [])
        if isinstance(found, dict) and not found.get("sandbox")
    ]
    name = names[0] if len(names) == 1 else ""
    return name if isinstance(name, str) and 0 < len(name) <= _NAME_LIMIT else ""


def remove(caller: Caller, item: Attachment, link: str) -> Iterator[NetworkError | None]:
    """Leave the network; `caller` has no namespace.  As `Caller.remove`."""
    try:
        _down(link)
    except OSError as err:
        yield NetworkError(f'cannot shut interface "{link}": {err.strerror}')
    uuid, name = caller.record.uuid, item.conf.name
    work = None
    if item.conf.masquerades:
        work = firewall.unmasquerade(uuid, name, [address.ip for address in item.addresses])
    yield from caller.remove(item)
    if work is None:
        return
    try:
        if not firewall.succeeded(*work.wait()):  # the rule is not as expected: look for it
            firewall.remove(uuid, [name])
    except NetworkError as err:
        yield err


def _down(link: str) -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        ioctl(sock.fileno(), _SIOCSIFFLAGS, link.encode().ljust(40, b"\0"))
    finally:
        sock.close()
