"""Taking away what a pod left of its networks when its supervisor could not (gc, after reboot)."""

from __future__ import annotations

import _socket
import errno
import os
import time

from rkt import log
from rkt.errors import LockedError, NetworkError, describe
from rkt.linux import lock
from rkt.network import firewall, links, record, result
from rkt.network.attach import Caller, filtered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.network.record import Attachment

_PATIENCE = 10.0
_LEASES = "/var/lib/cni/networks"
_LINKS = "veth"  # what both plugins call their ends on the host
_DHCP = "/run/cni/dhcp.sock"


def reclaim(pod_dir: str, uuid: str) -> list[str]:
    """Release what is recorded for a pod that has ended; gives what could not be released.

    The namespace has no processes any more.  Plugins get the chance to release what they gave;
    then whatever is provably the pod's is removed, whether they are still installed or not: leases
    with its UUID, firewall chains named after it, and before all links that still lead to it.
    """
    found = record.load(pod_dir)
    if found is None:
        return []
    if found.uuid != uuid:
        return [f'"{record.STATE}" is of another pod, {found.uuid}']
    lock_fd = lock.open_dir(f"{pod_dir}/{record.DIRECTORY}")
    try:
        _wait_for_plugins(lock_fd, uuid)
        return _release(found, pod_dir, lock_fd)
    finally:
        os.close(lock_fd)


def _release(found: record.Record, pod_dir: str, lock_fd: int) -> list[str]:
    left: list[str] = []
    failures: list[NetworkError] = []
    caller = Caller(found, "", lock_fd)
    names = [item.conf.name for item in found.attachments]
    try:
        # First: once released, an address may be another pod's, with the same rules.
        firewall.remove(found.uuid, [], _own_addresses(found))
    except NetworkError as err:
        left.append(describe(err))
    for item in reversed(found.attachments):
        left += _delete_links(item)
        failed = [failure for failure in caller.remove(item) if failure is not None]
        failures += failed
        if failed and not _release_leases(item, found.uuid):
            left += [describe(failure) for failure in failed]
    try:
        firewall.remove(found.uuid, names)
    except NetworkError as err:
        left.append(describe(err))
    for failure in failures:
        # Said in any case: a plugin may have kept something that only it knows of.
        log.warning(f"{describe(failure)}: released what is known to be the pod's")
    if not left:
        record.forget(pod_dir)
    return left


def _delete_links(item: Attachment) -> list[str]:
    """Delete what still leads to a namespace without processes; gives what is not possible.

    The kernel keeps it for minutes if the pod has sent what nobody took.  The name may be another
    pod's by now: the MAC address tells.
    """
    if item.conf.plugins[0]["type"] not in ("bridge", "ptp"):
        return []
    failed = []
    for name, mac in result.host_ends(item.result or {}):
        if not name.startswith(_LINKS) or not mac:  # the bridge itself stays
            continue
        try:
            if links.mac_address(name) == mac.lower():
                links.delete_link(name)
        except OSError as err:
            if err.errno != errno.ENODEV:
                failed.append(f'cannot delete interface "{name}": {err.strerror}')
    return failed


def _own_addresses(found: record.Record) -> list[str]:
    """Give the addresses that the plugin `firewall` let through and that are still the pod's."""
    own: list[str] = []
    for item in found.attachments:
        try:
            item.addresses = result.addresses(item.result or {})
        except NetworkError as err:
            log.debug(f"the recorded addresses are unusable: {err.message}")
        addresses = filtered(item)
        if addresses and item.conf.ipam.get("type") == "host-local":
            directory = _lease_directory(item)
            # host-local writes those of IPv6 as they are, since a file name may have colons.
            addresses = [ip for ip in addresses if _owner(f"{directory}/{ip}") == found.uuid]
        own += addresses
    return own


def _wait_for_plugins(fd: int, uuid: str) -> None:
    """Wait until no plugin runs that the dead supervisor had started."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            lock.acquire(fd, blocking=False)
            return
        except LockedError:
            if time.monotonic() > deadline:
                log.warning(f"a network plugin of pod {uuid} is still running")
                return
            time.sleep(0.02)


def _release_leases(item: Attachment, uuid: str) -> bool:
    """Remove the pod's leases of a network; False if that is not possible.

    host-local keeps a file for each address, with the container's ID in its first line, and locks
    the file `lock` beside them.
    """
    ipam = item.conf.ipam
    if ipam.get("type") == "dhcp":
        return not _is_served(ipam)
    if ipam.get("type") != "host-local":
        return not ipam or ipam.get("type") == "static"
    directory = _lease_directory(item)
    try:
        lock_fd = os.open(f"{directory}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return not os.path.isdir(directory)
    try:
        lock.acquire(lock_fd, what=directory)
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            if name[0].isalnum() and name != "lock" and _owner(path) == uuid:
                os.unlink(path)
    except OSError as err:
        log.warning(f'cannot release leases in "{directory}": {err.strerror}')
        return False
    finally:
        os.close(lock_fd)
    return True


def _lease_directory(item: Attachment) -> str:
    return f"{item.conf.ipam.get('dataDir') or _LEASES}/{item.conf.name}"


def _is_served(ipam: dict[str, object]) -> bool:
    """Say whether the daemon runs that keeps the leases of `dhcp`, in its memory only."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_PATIENCE)
        sock.connect(str(ipam.get("daemonSocketPath") or _DHCP))
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        sock.close()
    return True


def _owner(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.readline(256).strip().decode("ascii", "replace")
    except OSError:
        return ""
