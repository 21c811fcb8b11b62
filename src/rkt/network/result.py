"""What a plugin's ADD gives: addresses, routes and DNS, in the forms of CNI 0.1 to 1.0."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from rkt.errors import NetworkError

_MAX_ADDRESSES = 64
_MAX_DNS = 64
_NAME_LIMIT = 15


class Address:
    """An address of the pod; `gateway` is empty if there is none."""

    __slots__ = ("gateway", "ip", "prefix", "version")

    def __init__(self, ip: str, prefix: int, gateway: str, version: int) -> None:
        self.ip = ip
        self.prefix = prefix
        self.gateway = gateway
        self.version = version

    @property
    def mask(self) -> str:
        """The network mask in dotted form."""
        bits = (1 << 32) - (1 << (32 - self.prefix))
        return inet_ntop(AF_INET, bits.to_bytes(4, "big"))

    @property
    def subnet(self) -> str:
        """The network of the address."""
        family, size = (AF_INET, 32) if self.version == 4 else (AF_INET6, 128)
        number = int.from_bytes(inet_pton(family, self.ip), "big")
        number = number >> (size - self.prefix) << (size - self.prefix)
        return f"{inet_ntop(family, number.to_bytes(size // 8, 'big'))}/{self.prefix}"


class DNS:
    """DNS settings of a network."""

    __slots__ = ("domain", "nameservers", "options", "search")

    def __init__(
        self, nameservers: list[str], domain: str = "", search: list[str] | None = None,
        options: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.nameservers = nameservers
        self.domain = domain
        self.search = search or []
        self.options = options or []

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


def addresses(raw: dict[str, object]) -> list[Address]:
    """Give the addresses of the pod in a result of either form.  Raises NetworkError."""
    entries: list[tuple[object, object]] = []
    for key in ("ip4", "ip6"):
        old = raw.get(key)
        if isinstance(old, dict):
            entries.append((old.get("ip"), old.get("gateway")))
    items = raw.get("ips") or []
    if not isinstance(items, list) or len(items) > _MAX_ADDRESSES:
        raise NetworkError("the result's $.ips is not a list of addresses")
    interfaces = raw.get("interfaces")
    for item in items:
        if not isinstance(item, dict):
            raise NetworkError("the result's $.ips is not a list of addresses")
        if _in_pod(item.get("interface"), interfaces):
            entries.append((item.get("address"), item.get("gateway")))
    return [_address(text, gateway) for text, gateway in entries]


def host_ends(raw: dict[str, object]) -> list[tuple[str, str]]:
    """Give names and MAC addresses ("" if not told) of the interfaces on the host in a result."""
    interfaces = raw.get("interfaces")
    found = []
    for item in interfaces if isinstance(interfaces, list) else []:
        if isinstance(item, dict) and not item.get("sandbox"):
            name, mac = item.get("name"), item.get("mac", "")
            if isinstance(name, str) and _is_link(name) and isinstance(mac, str):
                found.append((name, mac))
    return found


def _is_link(name: str) -> bool:
    return 0 < len(name) <= _NAME_LIMIT and name.isascii() and name.isprintable()


def _in_pod(index: object, interfaces: object) -> bool:
    if not isinstance(index, int) or not isinstance(interfaces, list):
        return True
    if not 0 <= index < len(interfaces) or not isinstance(interfaces[index], dict):
        return True
    return bool(interfaces[index].get("sandbox"))


def canonical(text: str) -> tuple[str, int] | None:
    """Give an IP address in its usual form, and its version; None for anything else."""
    for family, version in ((AF_INET, 4), (AF_INET6, 6)):
        try:
            return inet_ntop(family, inet_pton(family, text)), version
        except (OSError, ValueError):
            continue
    return None


def _address(text: object, gateway: object) -> Address:
    ip, slash, length = text.partition("/") if isinstance(text, str) else ("", "", "")
    found = canonical(ip)
    if found is None or not slash or not (length.isascii() and length.isdigit()):
        raise NetworkError(f"the result has a malformed address: {str(text)[:80]!r}")
    prefix = int(length)
    if prefix > (32 if found[1] == 4 else 128):
        raise NetworkError(f"the result has a malformed address: {str(text)[:80]!r}")
    via = canonical(gateway) if isinstance(gateway, str) else None
    return Address(found[0], prefix, via[0] if via else "", found[1])


def dns(raw: dict[str, object]) -> DNS:
    """Give the DNS settings of a result; what could not be a line of resolv.conf is dropped."""
    found = raw.get("dns")
    if not isinstance(found, dict):
        return DNS([])
    domain = found.get("domain")
    return DNS(
        [server for server in _words(found, "nameservers") if canonical(server)],
        domain if isinstance(domain, str) and _is_word(domain) else "",
        _words(found, "search"),
        _words(found, "options"),
    )


def _words(raw: dict[str, object], key: str) -> list[str]:
    value = raw.get(key)
    items = value[:_MAX_DNS] if isinstance(value, list) else []
    return [item for item in items if isinstance(item, str) and _is_word(item)]


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 255 and text.isprintable() and " " not in text


def resolv_conf(dns: DNS, source: str) -> str:
    """Give the text of a resolv.conf; `source` ends its first line (rkt-config 5.2)."""
    lines = [f"# Generated by {source}", ""]
    if dns.search:
        lines.append(f"search {' '.join(dns.search)}")
    lines += [f"nameserver {server}" for server in dns.nameservers]
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    if dns.domain:
        lines.append(f"domain {dns.domain}")
    return "\n".join(lines) + "\n"
