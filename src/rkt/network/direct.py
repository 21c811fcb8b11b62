"""Leaving a point-to-point network without waiting for the kernel.

Deleting a link, as the plugin does, takes the kernel some 60 ms.  Here the link only goes down,
which removes its routes at once; it vanishes with the pod's namespace a moment later, or is deleted
at the end after all if the kernel still sends for the pod.  The plugin still releases the address;
the masquerading rule, which it would not touch without a namespace, is removed beside it.
"""

from __future__ import annotations

import errno

from rkt.errors import NetworkError, describe
from rkt.network import firewall, links, netns, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rkt.network.attach import Caller
    from rkt.network.record import Attachment

_OLD = ("0.1.0", "0.2.0")  # do not name their interfaces


def link_of(item: Attachment) -> str:
    """Give the host's end of the link if this network may be left so, else ""."""
    conf = item.conf
    if len(conf.plugins) != 1 or conf.plugins[0]["type"] != "ptp" or conf.version in _OLD:
        return ""
    if any(address.version != 4 for address in item.addresses):
        return ""
    names = [name for name, _ in result.host_ends(item.result or {})]
    return names[0] if len(names) == 1 else ""


def remove(caller: Caller, item: Attachment, link: str) -> Iterator[NetworkError | None]:
    """Leave the network; `caller` has no namespace.  As `Caller.remove`."""
    try:
        links.shut(link)
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


def finish(namespace: int, items: Iterable[Attachment]) -> Iterator[NetworkError]:
    """Delete the links that were left, if the namespace outlives the pod's processes, all of which
    have ended; gives the failures.
    """
    names = [name for name in map(link_of, items) if name]
    try:
        if not names or not netns.sockets(namespace):
            return
    except (NetworkError, OSError) as err:
        yield NetworkError(f"cannot look for the pod's connections: {describe(err)}")
        return
    for name in names:
        try:
            links.delete_link(name)
        except OSError as err:
            if err.errno != errno.ENODEV:
                yield NetworkError(f'cannot delete interface "{name}": {err.strerror}')
