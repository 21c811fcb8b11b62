"""The `app` section of an image manifest out of a docker or OCI configuration (docker2aci)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkt.errors import SchemaError
from rkt.schema.image import App, EnvVar, MountPoint, Port
from rkt.schema.types import BadValue, quote, sanitize_ac_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rkt.schema.oci import ContainerConfig

_MAX_ITEMS = 4096


def app_section(config: ContainerConfig, warn: Callable[[str], None]) -> App | None:
    """Make the section; None for an image that says nothing to run.

    What appc cannot express is left out and `warn` told.  Raises SchemaError.
    """
    command = (*(config.entrypoint or ()), *(config.cmd or ()))
    if not command:
        return None
    user, _, group = (config.user or "").partition(":")
    user = user or "0"
    directory = config.working_dir or ""
    if directory and not directory.startswith("/"):
        directory = f"/{directory}"
    try:
        return App(
            exec=command,
            user=user,
            group=group or user,
            working_directory=directory,
            environment=_environment(config.env or (), warn),
            mount_points=_mount_points(config.volumes or ()),
            ports=_ports(config.exposed_ports or (), warn),
        )
    except BadValue as err:
        raise SchemaError(f"image configuration: {err.message}") from err


def _environment(items: Iterable[str], warn: Callable[[str], None]) -> tuple[EnvVar, ...]:
    variables: dict[str, EnvVar] = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            variables[name] = EnvVar(name, value)  # the last one counts, as for execve's readers
        except BadValue as err:
            warn(f"image configuration: {err.message}, left out")
    return tuple(variables.values())


def _mount_points(paths: Iterable[str]) -> tuple[MountPoint, ...]:
    points = []
    seen: dict[str, int] = {}
    for path in sorted(paths)[:_MAX_ITEMS]:
        try:
            name = "volume-" + sanitize_ac_name(path)
        except BadValue:
            name = "volume"
        count = seen[name] = seen.get(name, -1) + 1
        if count:
            name = f"{name}-{count}"
            seen.setdefault(name, 0)
        points.append(MountPoint(name, path))
    return tuple(points)


def _ports(items: Iterable[str], warn: Callable[[str], None]) -> tuple[Port, ...]:
    ports = []
    for item in sorted(items)[:_MAX_ITEMS]:
        number, _, protocol = item.partition("/")
        protocol = protocol or "tcp"
        first, dash, last = number.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(number) > 11:
            warn(f"image configuration: bad port {quote(item)}, left out")
            continue
        count = int(last) - int(first) + 1 if dash else 1
        try:
            name = sanitize_ac_name(f"{number}-{protocol}")
            if count < 1:
                raise BadValue("end of port range must be in 1-65535 range")
            ports.append(Port(name, protocol, int(first), count))
        except BadValue as err:
            warn(f"image configuration: bad port {quote(item)}, left out: {err.message}")
    return tuple(ports)
