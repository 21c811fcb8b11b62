"""Capability sets of an app (rkt-config 8.1)."""

from __future__ import annotations

from rkt import log
from rkt.errors import RktError
from rkt.linux.caps import NAMES

DEFAULT = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETFCAP", "CAP_SYS_CHROOT",
)  # fmt: skip

RETAIN = "os/linux/capabilities-retain-set"
REMOVE = "os/linux/capabilities-remove-set"


def available(status: str) -> tuple[str, ...]:
    """Read the bounding set from the text of /proc/self/status."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
            return tuple(name for number, name in enumerate(NAMES) if bits >> number & 1)
    return NAMES


def select(
    isolators: list[tuple[str, object]], *, have: tuple[str, ...], unrestricted: bool
) -> list[str]:
    """Choose the bounding set of an app, in the kernel's order.

    What this host cannot give is left out, with a warning when it was asked for by name.
    """
    if unrestricted:
        return [name for name in NAMES if name in have]
    retain = _sets(isolators, RETAIN)
    remove = _sets(isolators, REMOVE)
    if retain is not None and remove is not None:
        raise RktError("capabilities-retain-set and capabilities-remove-set exclude each other")
    wanted = set(DEFAULT if retain is None else retain) - set(remove or ())
    missing = sorted(wanted.difference(have))
    if missing and retain is not None:
        log.warning(f"capabilities that rkt itself has not are left out: {' '.join(missing)}")
    return [name for name in NAMES if name in wanted and name in have]


def _sets(isolators: list[tuple[str, object]], wanted: str) -> list[str] | None:
    found: list[str] | None = None
    for name, value in isolators:
        if name != wanted:
            continue
        members = value.get("set") if isinstance(value, dict) else None
        if not isinstance(members, list) or not members:
            raise RktError(f'isolator "{wanted}": set must be non-empty')
        for member in members:
            if member not in NAMES:
                raise RktError(f'isolator "{wanted}": unknown capability "{member}"')
        found = (found or []) + [str(member) for member in members]
    return found
