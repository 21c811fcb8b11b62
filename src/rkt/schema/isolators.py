"""Isolators: limits and restrictions of apps and pods.  appc spec v0.8.11, ace.md.

An `Isolator` keeps its value as it was written; `typed()` reads it as the class that belongs to
its name, or None for a name that the spec does not know.
"""

from __future__ import annotations

from rkt.schema.codec import JSON, fold_object, json_type
from rkt.schema.struct import Struct
from rkt.schema.types import DIGITS, UPPER, ACIdentifier, BadValue, Quantity, is_made_of, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CPU = "resource/cpu"
MEMORY = "resource/memory"
BLOCK_BANDWIDTH = "resource/block-bandwidth"
BLOCK_IOPS = "resource/block-iops"
NETWORK_BANDWIDTH = "resource/network-bandwidth"
CAPS_RETAIN = "os/linux/capabilities-retain-set"
CAPS_REMOVE = "os/linux/capabilities-remove-set"
NO_NEW_PRIVILEGES = "os/linux/no-new-privileges"
SECCOMP_RETAIN = "os/linux/seccomp-retain-set"
SECCOMP_REMOVE = "os/linux/seccomp-remove-set"
SELINUX_CONTEXT = "os/linux/selinux-context"
CPU_SHARES = "os/linux/cpu-shares"
OOM_SCORE_ADJ = "os/linux/oom-score-adj"
SYSCTL = "os/unix/sysctl"

SECCOMP_ALL = "@appc.io/all"
SECCOMP_EMPTY = "@appc.io/empty"

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETFCAP",
    "CAP_SYS_CHROOT",
)
"""The bounding set of an app that has no capability isolator."""

_VALUE_KEYS = {
    key: key
    for key in ("request", "limit", "default", "set", "errno", "user", "role", "type", "level")
}


class Resource(Struct):
    """A guaranteed minimum and a maximum of a resource."""

    request: Quantity | None = None
    limit: Quantity | None = None
    default: bool = False


class CapabilitySet(Struct):
    """Capabilities to retain, or to remove from the default ones."""

    retain: bool
    names: tuple[str, ...]


class NoNewPrivileges(Struct):
    """Whether exec may give an app more privileges than it has."""

    value: bool


class SeccompFilter(Struct):
    """System calls to allow (retain) or to block, and what a blocked call returns.

    Without an errno a blocked call kills the process.
    """

    retain: bool
    names: tuple[str, ...]
    errno: str | None = None


class SELinuxContext(Struct):
    """The SELinux context of a process."""

    user: str
    role: str
    type: str
    level: str


class CPUShares(Struct):
    """The relative weight of CPU time, 1024 when not given."""

    value: int


class OOMScoreAdj(Struct):
    """The adjustment of the kernel's out-of-memory score."""

    value: int


class Sysctl(Struct):
    """Kernel parameters of the pod."""

    values: dict[str, str]


Typed = (
    Resource
    | CapabilitySet
    | NoNewPrivileges
    | SeccompFilter
    | SELinuxContext
    | CPUShares
    | OOMScoreAdj
    | Sysctl
)


class Isolator(Struct):
    """One isolator as it stands in a manifest; a known name's value is checked."""

    name: ACIdentifier
    value: JSON = None

    def __post_init__(self) -> None:
        self.typed()

    def typed(self) -> Typed | None:
        """Read the value; None for a name that the spec does not know."""
        parse = _PARSERS.get(self.name)
        return parse(self.name, self.value) if parse else None


def check_app_isolators(isolators: Iterable[Isolator]) -> None:
    """Apply the rules on an app's whole set: known names, no conflict, no excess instance."""
    seen: set[str] = set()
    for isolator in isolators:
        name = isolator.name
        if name not in _PARSERS:
            raise BadValue(f"invalid isolator: {quote(name)} is not known")
        if _CONFLICTS.get(name) in seen:
            raise BadValue("isolators set contains incompatible types")
        if name in seen and name in _SINGLE:
            # The stray quote is in the reference's text.
            raise BadValue(f'isolators set contains too many instances of type {name}"')
        seen.add(name)


def resource(name: str, amount: Quantity) -> Isolator:
    """Make a resource isolator whose request and limit are one amount."""
    return Isolator(name, {"request": str(amount), "limit": str(amount)})


def capabilities(names: Iterable[str], *, retain: bool) -> Isolator:
    """Make a capability isolator; raises BadValue for a set without names."""
    return Isolator(
        CAPS_RETAIN if retain else CAPS_REMOVE, {"set": [name for name in names if name]}
    )


def seccomp(names: Iterable[str], *, retain: bool, errno: str | None = None) -> Isolator:
    """Make a seccomp isolator; raises BadValue for an empty set or a bad errno."""
    value: dict[str, JSON] = {"set": list(names)}
    if errno:
        value["errno"] = errno
    return Isolator(SECCOMP_RETAIN if retain else SECCOMP_REMOVE, value)


def _object(name: str, value: JSON) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise BadValue(f"{name}: expected `object`, got `{json_type(value)}`")
    return fold_object(value, _VALUE_KEYS)


def _number(name: str, value: JSON) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue(f"{name}: expected `int`, got `{json_type(value)}`")
    return value


def _bool(name: str, value: JSON) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{name}: expected `bool`, got `{json_type(value)}`")
    return value


def _str(name: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{name}: expected `str`, got `{json_type(value)}`")
    return value


def _quantity(name: str, value: JSON) -> Quantity | None:
    if value is None:
        return None
    if isinstance(value, (bool, dict, list)):
        raise BadValue(f"{name}: expected `str`, got `{json_type(value)}`")
    try:
        # Go reads a bare number like the same text in quotes.
        amount = Quantity.parse(str(value))
    except BadValue as err:
        raise BadValue(f"{name}: {err.message}") from None
    if amount.nano() < 0:
        raise BadValue(f"{name}: quantity must not be negative")
    return amount


def _resource(name: str, value: JSON) -> Resource:
    fields = _object(name, value)
    default = _bool(f"{name}: default", fields.get("default", False))
    request = _quantity(f"{name}: request", fields.get("request"))
    limit = _quantity(f"{name}: limit", fields.get("limit"))
    if name in (CPU, MEMORY):
        if default:
            raise BadValue(f"{name}: default must be false")
        return Resource(limit if request is None else request, limit)
    if not default:
        raise BadValue(f"{name}: default must be true")
    if request is not None:
        raise BadValue(f"{name}: request not supported by this resource, must be empty")
    return Resource(None, limit, default=True)


def _names(name: str, fields: Mapping[str, JSON]) -> tuple[str, ...]:
    items = fields.get("set", [])
    if not isinstance(items, list):
        raise BadValue(f"{name}: set: expected `array`, got `{json_type(items)}`")
    if not items:
        raise BadValue(f"{name}: set must be non-empty")
    return tuple(_str(f"{name}: set", item) for item in items)


def _capabilities(name: str, value: JSON) -> CapabilitySet:
    return CapabilitySet(name == CAPS_RETAIN, _names(name, _object(name, value)))


def _seccomp(name: str, value: JSON) -> SeccompFilter:
    fields = _object(name, value)
    errno = _str(f"{name}: errno", fields.get("errno", ""))
    if errno and not errno.startswith("E"):
        raise BadValue(f"{name}: errno must start with an 'E' character, got {quote(errno)[1:-1]}")
    if errno and not is_made_of(errno, UPPER + DIGITS):
        raise BadValue(
            f"{name}: errno can only contain upper case or numeric characters, "
            f"got {quote(errno)[1:-1]}"
        )
    return SeccompFilter(name == SECCOMP_RETAIN, _names(name, fields), errno or None)


def _no_new_privileges(name: str, value: JSON) -> NoNewPrivileges:
    return NoNewPrivileges(_bool(name, value))


def _selinux(name: str, value: JSON) -> SELinuxContext:
    fields = _object(name, value)
    parts = []
    for part in ("user", "role", "type", "level"):
        text = _str(f"{name}: {part}", fields.get(part, ""))
        if not text or (part != "level" and ":" in text) or "\0" in text:
            raise BadValue(f"{name}: invalid {part} value {quote(text)}")
        parts.append(text)
    return SELinuxContext(*parts)


def _ranged(name: str, value: JSON, low: int, high: int) -> int:
    number = _number(name, value)
    if not low <= number <= high:
        raise BadValue(f"{name} must be between {low} and {high}, got {str(number)[:32]}")
    return number


def _cpu_shares(name: str, value: JSON) -> CPUShares:
    return CPUShares(_ranged(name, value, 2, 262144))


def _oom_score_adj(name: str, value: JSON) -> OOMScoreAdj:
    return OOMScoreAdj(_ranged(name, value, -1000, 1000))


def _sysctl(name: str, value: JSON) -> Sysctl:
    if not isinstance(value, dict):
        raise BadValue(f"{name}: expected `object`, got `{json_type(value)}`")
    return Sysctl({key: _str(f"{name}: {quote(key)}", item) for key, item in value.items()})


_PARSERS: dict[str, Callable[[str, JSON], Typed]] = {
    CPU: _resource,
    MEMORY: _resource,
    BLOCK_BANDWIDTH: _resource,
    BLOCK_IOPS: _resource,
    NETWORK_BANDWIDTH: _resource,
    CAPS_RETAIN: _capabilities,
    CAPS_REMOVE: _capabilities,
    NO_NEW_PRIVILEGES: _no_new_privileges,
    SECCOMP_RETAIN: _seccomp,
    SECCOMP_REMOVE: _seccomp,
    SELINUX_CONTEXT: _selinux,
    CPU_SHARES: _cpu_shares,
    OOM_SCORE_ADJ: _oom_score_adj,
    SYSCTL: _sysctl,
}
_SINGLE = frozenset(
    (SECCOMP_RETAIN, SECCOMP_REMOVE, SELINUX_CONTEXT, CPU_SHARES, OOM_SCORE_ADJ, SYSCTL)
)
_CONFLICTS = {SECCOMP_RETAIN: SECCOMP_REMOVE, SECCOMP_REMOVE: SECCOMP_RETAIN}
KNOWN = frozenset(_PARSERS)
"""The isolator names of the spec."""
