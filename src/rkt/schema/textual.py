"""Text forms of volumes, mounts, ports and image names, and architecture names.

The errors speak of the value; who calls says which flag it was given with.
appc spec v0.8.11, schema/types and discovery; rkt v1.30.0, rkt/cli_apps.go.
"""

from __future__ import annotations

import os

from rkt.schema.image import MountPoint, Port
from rkt.schema.pod import ExposedPort, Mount, Volume, host_address
from rkt.schema.struct import Struct
from rkt.schema.types import (
    DIGITS,
    HEX,
    BadValue,
    is_made_of,
    parse_ac_identifier,
    parse_ac_name,
    parse_bool,
    quote,
)

RUNNABLE_ARCHES = (
    "amd64",
    "i386",
    "aarch64",
    "aarch64_be",
    "armv6l",
    "armv7l",
    "armv7b",
    "ppc64le",
)
"""The `arch` labels, under os linux, that rkt v1.30.0 runs (stage0/arch.go)."""

_MAX_DIGITS = 18
_MACHINES = {"x86_64": "amd64", "i486": "i386", "i586": "i386", "i686": "i386"}
_DARWIN = {"amd64": "x86_64", "386": "i386"}
_LINUX = {
    "amd64": "amd64",
    "386": "i386",
    "arm64": "aarch64",
    "ppc64": "ppc64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
_ARM = {"": "armv6l", "v6": "armv6l", "v7": "armv7l"}


class AppRef(Struct):
    """An image name with the labels that narrow it down."""

    name: str
    labels: dict[str, str]

    def __str__(self) -> str:
        version = self.labels.get("version")
        rest = [f",{key}={value}" for key, value in self.labels.items() if key != "version"]
        return self.name + (f":{version}" if version is not None else "") + "".join(rest)


def parse_app_string(text: str) -> AppRef:
    """Read an image name such as `example.com/app:1.0,os=linux`; raises BadValue."""
    comma, colon = text.find(","), text.find(":")
    if colon > comma > -1:
        raise BadValue("malformed app string - colon may appear only right after the app name")
    if text.count(":") > 1:
        raise BadValue("malformed app string - colon may appear at most once")
    name = ""
    labels: dict[str, str] = {}
    text = text.replace(":", ",version=", 1)
    # A label `name` overwrites the name in front, as in the reference.
    for key, value in _pairs(text, "name", repeatable="name").items():
        if key == "name":
            name = parse_ac_identifier(value)
        else:
            labels[_label_name(key)] = value
    return AppRef(name, labels)


def parse_volume(text: str) -> Volume:
    """Read a value of --volume, `NAME,kind=host,source=/p,…`; raises BadValue.

    `%XX` stands for a byte, so that a path may contain a comma.  Unlike the reference a plus sign
    is no space: /srv/c++ is an ordinary path.
    """
    return _volume(_pairs(text, "name", escapes=True))


def parse_mount(text: str) -> Mount:
    """Read a value of --mount, `volume=NAME,target=PATH`; raises BadValue."""
    fields = _pairs(text, escapes=True)
    for key in fields:
        if key not in ("volume", "target"):
            raise BadValue(f"unknown mount parameter {quote(key)}")
    volume = fields.get("volume", "")
    if "volume" in fields:
        try:
            parse_ac_name(volume)
        except BadValue as err:
            raise BadValue(
                f"invalid volume name {quote(volume)} in --mount flag {quote(text)}: {err.message}"
            ) from None
    return Mount(volume, fields.get("target", ""))


def parse_mount_volume(text: str) -> tuple[Volume, Mount]:
    """Read a value of --mnt-volume: a volume with `target=PATH`; raises BadValue."""
    fields = _pairs(text, "name", escapes=True)
    target = fields.pop("target", "")
    if not target:
        raise BadValue("missing target= parameter")
    volume = _volume(fields)
    return volume, Mount(volume.name, target)


def parse_port(text: str) -> ExposedPort:
    """Read a value of --port, `NAME:HOSTPORT` or `NAME:IP:HOSTPORT`; raises BadValue.

    An IPv6 address is in brackets.
    """
    name, ip, port = _split_port(text, f"{quote(text)} is not in name:[ip:]port format")
    return _exposed(name, ip, port)


def _split_port(text: str, malformed: str) -> tuple[str, str | None, str]:
    head, bracket, rest = text.partition("[")
    if bracket:
        ip, bracket, port = rest.partition("]")
        if not (head.endswith(":") and port.startswith(":") and ":" in ip):
            raise BadValue(malformed)
        return head[:-1], ip, port[1:]
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise BadValue(malformed)
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]


def _exposed(name: str, ip: str | None, port: str) -> ExposedPort:
    try:
        parse_ac_name(name)
    except BadValue as err:
        raise BadValue(f"{quote(name)} is not a valid port name: {err.message}") from None
    if ip is not None and host_address(ip) is None:
        raise BadValue(f"{quote(ip)} is not a valid IP")
    return ExposedPort(name, _port_number(port), ip)


def _port_number(port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadValue(f"{quote(port)} is not a valid port number")
    return int(port)


def parse_sandbox_port(text: str) -> ExposedPort:
    """Read a port of a pod without apps, `NAME:PROTOCOL:PODPORT:HOSTIP:HOSTPORT`."""
    malformed = "--port invalid format"
    parts = text.split(":", 3)
    if len(parts) != 4:
        raise BadValue(malformed)
    name, protocol, inner, outer = parts
    _, ip, port = _split_port(f"{name}:{outer}", malformed)
    if ip is None:
        raise BadValue(malformed)
    if protocol not in ("tcp", "udp"):
        raise BadValue(f"invalid protocol {quote(protocol)}")
    exposed = _exposed(name, ip or None, port)
    pod_port = Port(name, protocol, _port_number(inner))
    return ExposedPort(name, exposed.host_port, exposed.host_ip, pod_port)


def parse_mount_point(text: str) -> MountPoint:
    """Read an image's mount point, `NAME,path=/p,readOnly=true`; raises BadValue."""
    fields = _pairs(text, "name")
    for key in fields:
        if key not in ("name", "path", "readOnly"):
            raise BadValue(f"unknown mountpoint parameter {quote(key)}")
    if not fields["name"]:
        raise BadValue("name must be set")
    if not fields.get("path"):
        raise BadValue("path must be set")
    read_only = _bool(fields, "readOnly")
    return MountPoint(parse_ac_name(fields["name"]), fields["path"], bool(read_only))


def parse_app_port(text: str) -> Port:
    """Read an image's port, `NAME,protocol=tcp,port=80,count=1`; raises BadValue."""
    fields = _pairs(text, "name")
    for key in fields:
        if key not in ("name", "protocol", "port", "count", "socketActivated"):
            raise BadValue(f"unknown port parameter {quote(key)}")
    return Port(
        parse_ac_name(fields["name"]),
        fields.get("protocol", ""),
        _int(fields, "port") or 0,
        _int(fields, "count") or 1,
        bool(_bool(fields, "socketActivated")),
    )


def host_arch() -> str:
    """Give the `arch` label of this host; a machine that appc does not know keeps its name."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def appc_arch(system: str, arch: str, variant: str = "") -> str:
    """Give the `arch` label for an operating system and architecture as Go and OCI name them."""
    found = None
    if system == "linux":
        found = _ARM.get(variant) if arch == "arm" else _LINUX.get(arch)
    elif system == "darwin":
        found = _DARWIN.get(arch)
    elif system == "freebsd":
        found = "arm" if arch == "arm" else {"amd64": "amd64", "386": "i386"}.get(arch)
    if found is None:
        raise BadValue(f"unknown arch tuple: {quote(system)} - {quote(arch)} - {quote(variant)}")
    return found


def _label_name(name: str) -> str:
    try:
        return parse_ac_identifier(name)
    except BadValue as err:
        raise BadValue(f"invalid label name {quote(name)}: {err.message}") from None


def _pairs(
    text: str, first: str = "", *, escapes: bool = False, repeatable: str = ""
) -> dict[str, str]:
    # `a=b,c=d`; with `first`, the first item is a bare value of that key.
    values: dict[str, list[str]] = {}
    for item in (f"{first}={text}" if first else text).split(","):
        key, equals, value = item.partition("=")
        if not equals:
            raise BadValue(
                f"malformed string {quote(text)} - has a label without a value: {quote(key)[1:-1]}"
            )
        values.setdefault(key, []).append(_unescape(value) if escapes else value)
    for key, many in values.items():
        if len(many) > 1 and key != repeatable:
            listed = " ".join(quote(value) for value in many)
            raise BadValue(f"label {quote(key)[1:-1]} with multiple values [{listed}]")
        _check_text(many[-1])
    return {key: many[-1] for key, many in values.items()}


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("text is not UTF-8") from None


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    _check_text(text)
    first, *rest = text.encode().split(b"%")
    parts = [first]
    for part in rest:
        digits = part[:2].decode(errors="replace")
        if len(digits) != 2 or not is_made_of(digits, HEX):
            raise BadValue(f"invalid URL escape {quote('%' + digits)}")
        parts.append(bytes((int(digits, 16),)) + part[2:])
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError:
        raise BadValue("text is not UTF-8") from None


def _volume(fields: dict[str, str]) -> Volume:
    for key in fields:
        if key not in ("name", "kind", "source", "readOnly", "recursive", "mode", "uid", "gid"):
            raise BadValue(f"unknown volume parameter {quote(key)}")
    return Volume(
        name=parse_ac_name(fields.get("name", "")),
        kind=fields.get("kind", ""),
        source=fields.get("source", ""),
        read_only=_bool(fields, "readOnly"),
        recursive=_bool(fields, "recursive"),
        mode=fields.get("mode"),
        uid=_int(fields, "uid"),
        gid=_int(fields, "gid"),
    )


def _bool(fields: dict[str, str], key: str) -> bool | None:
    if key not in fields:
        return None
    try:
        return parse_bool(fields[key])
    except BadValue as err:
        raise BadValue(f"{key}: {err.message}") from None


def _int(fields: dict[str, str], key: str) -> int | None:
    if key not in fields:
        return None
    number = fields[key]
    digits = number[1:] if number[:1] in ("+", "-") else number
    if len(digits) > _MAX_DIGITS or not is_made_of(digits, DIGITS):
        raise BadValue(f"{key}: {quote(number)} is not a number")
    return int(number)
