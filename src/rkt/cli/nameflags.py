"""The flags about names: --dns, --dns-search, --dns-opt, --dns-domain, --hosts-entry."""

from __future__ import annotations

from rkt.cli.flags import Flag
from rkt.errors import RktError, UsageError
from rkt.stage0.request import NameService

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import Parsed

NAME_FLAGS = (
    Flag("dns", 'name servers to write in "/etc/resolv.conf"; "host" to use the host\'s file, '
         '"none" to ignore the network\'s', kind="list"),
    Flag("dns-domain", 'DNS domain to write in "/etc/resolv.conf"'),
    Flag("dns-opt", 'DNS option to write in "/etc/resolv.conf"', kind="each"),
    Flag("dns-search", 'DNS search domain to write in "/etc/resolv.conf"', kind="each"),
    Flag("hosts-entry", 'entry to add to the pod-wide "/etc/hosts" (IP=NAME); "host" to use the '
         "host's file", kind="list"),
)  # fmt: skip
_MAGIC = ("host", "none")


def read(args: Parsed) -> NameService:
    """Read the flags; raises RktError on what cannot be meant."""
    servers, search, options = args.all("dns"), args.all("dns-search"), args.all("dns-opt")
    domain = args.string("dns-domain")
    resolv = "stage0" if servers or search or options or domain else "default"
    for magic in _MAGIC:
        if magic not in servers:
            continue
        if len(servers) > 1:
            raise UsageError(f"no other --dns options allowed when --dns={magic} is passed")
        if search or options or domain:
            raise UsageError(
                f"Cannot call --dns-opt, --dns-search, or --dns-domain with --dns={magic}"
            )
        resolv, servers = magic, []
    for server in servers:
        if not _is_ip(server):
            raise UsageError(f"Invalid IP passed to --dns: {server}")
    for name, words in (("dns-search", search), ("dns-opt", options), ("dns-domain", [domain])):
        for word in words:
            if any(c.isspace() or not c.isprintable() for c in word):
                raise UsageError(f'invalid value "{word}" for --{name}')
    hosts, entries = _hosts(args.all("hosts-entry"))
    return NameService(
        servers=servers, search=search, options=options, domain=domain, resolv=resolv,
        entries=entries, hosts=hosts,
    )  # fmt: skip


def _hosts(values: list[str]) -> tuple[str, dict[str, list[str]]]:
    if not values:
        return "default", {}
    if "host" in values:
        if len(values) > 1:
            raise UsageError("cannot pass --hosts-entry=host with multiple hosts-entries")
        return "host", {}
    entries: dict[str, list[str]] = {}
    for value in values:
        ip, equals, name = value.partition("=")
        plain = bool(name) and all(c.isprintable() and c not in " #=" for c in name)
        if not equals or not plain:
            raise UsageError(f"Did not understand --hosts-entry {value}")
        if not _is_ip(ip):
            raise UsageError(f"Invalid IP passed to --hosts-entry: {value}")
        entries.setdefault(ip, []).append(name)
    return "stage0", entries


def _is_ip(text: str) -> bool:
    from _socket import AF_INET, AF_INET6, inet_pton

    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def hostname(args: Parsed) -> str:
    """Read --hostname; raises UsageError for what the kernel or a hosts file would not take."""
    name = args.string("hostname")
    if len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "-._") for c in name):
        raise RktError(f'invalid value "{name}" for --hostname: expected at most 64 letters, '
                       "digits, dots and dashes")  # fmt: skip
    return name
