"""Rules of the host's packet filter that belong to one pod (rkt-config 4).

All that a pod has is in chains named after it, so that it can be taken away by name, also when the
plugin that made it is gone.  One call of iptables-restore makes or removes all of a family's rules.
"""

from __future__ import annotations

import os

from rkt.errors import NetworkError
from rkt.linux import proc
from rkt.network.plugin import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.network.result import Address

_WAIT = "10"  # seconds for the lock of the older kind of iptables
_HINT = "install iptables (Debian: apt install iptables)"
_CNI_CHAIN = 28
_CNI_FILTER = "CNI-FORWARD"


class Forward:
    """A port of the host that leads to a port of the pod; no `host_ip` stands for all."""

    __slots__ = ("host_ip", "host_port", "name", "pod_port", "protocol")

    def __init__(
        self, name: str, protocol: str, host_port: int, pod_port: int, host_ip: str = ""
    ) -> None:
        self.name = name
        self.protocol = protocol
        self.host_port = host_port
        self.pod_port = pod_port
        self.host_ip = host_ip


def chains(uuid: str) -> tuple[str, str]:
    """Give the names of the pod's own chains, for destinations and for sources."""
    return f"RKT-PFWD-DNAT-{uuid[:8]}", f"RKT-PFWD-SNAT-{uuid[:8]}"


def forwarding(uuid: str, forwards: Sequence[Forward], address: Address, interface: str) -> str:
    """Give the rules, as iptables-restore reads them, that forward to an address of the pod.

    `interface` is the host's on the way to the pod, "" if unknown: then 127.0.0.1 does not lead
    there.  What comes from the pod's own network gets the host's address too, or the answer would
    go straight back and belong to no connection.
    """
    dnat, snat = chains(uuid)
    to = address.ip if address.version == 4 else f"[{address.ip}]"
    comment = f'-m comment --comment "rkt pod {uuid}"'
    local = "-m addrtype --dst-type LOCAL"
    if not interface or address.version == 6:
        # The kernel sends nothing from a loopback address into a network.
        local += f" ! -d {'127.0.0.0/8' if address.version == 4 else '::1/128'}"
    lines = ["*nat", f":{dnat} - [0:0]", f":{snat} - [0:0]"]
    for forward in forwards:
        where = f"-d {forward.host_ip} " if forward.host_ip else ""
        lines.append(
            f"-A {dnat} {where}-p {forward.protocol} --dport {forward.host_port} {comment} "
            f"-j DNAT --to-destination {to}:{forward.pod_port}"
        )
        sources = [address.subnet]
        if address.version == 4 and interface:
            sources.append("127.0.0.0/8")
        lines += [
            f"-A {snat} -s {source} -d {address.ip} -p {forward.protocol} "
            f"--dport {forward.pod_port} {comment} -j MASQUERADE"
            for source in sources
        ]
    lines += [
        f"-I PREROUTING 1 {local} {comment} -j {dnat}",
        f"-I OUTPUT 1 {local} {comment} -j {dnat}",
        f"-I POSTROUTING 1 -d {address.ip} -m conntrack --ctstate DNAT {comment} -j {snat}",
        "COMMIT",
        # After the operator's own rules: these only matter where nothing is forwarded by default.
        "*filter",
        f"-A FORWARD -d {address.ip} -m conntrack --ctstate DNAT {comment} -j ACCEPT",
        f"-A FORWARD -s {address.ip} -m conntrack --ctstate DNAT {comment} -j ACCEPT",
        "COMMIT",
    ]
    if address.version == 4 and interface:
        # route_localnet opens the host's 127.0.0.0/8 to the pod: close it again.
        lines += ["*raw", f"-I PREROUTING 1 -i {interface} -d 127.0.0.0/8 {comment} -j DROP",
                  "COMMIT"]  # fmt: skip
    return "\n".join(lines) + "\n"


def cni_chains(uuid: str, networks: Sequence[str]) -> set[str]:
    """Give the names of the chains that CNI's plugins make for a container."""
    import hashlib

    found = set()
    for network in networks:
        digest = hashlib.sha512(f"{network}{uuid}".encode()).hexdigest()
        for prefix in ("CNI-", "CNI-DN-", "CNI-SN-"):
            found.add((prefix + digest)[:_CNI_CHAIN])
    return found


def removal(saved: str, uuid: str, names: set[str], addresses: Sequence[str] = ()) -> str:
    """Give what removes from a saved rule set all that is the pod's, "" if there is nothing.

    That is: the chains in `names`, the jumps to them, rules with rkt's comment for this pod, and
    what CNI's plugin `firewall` lets through for `addresses`.
    """
    let_through = tuple(
        f"-A {_CNI_FILTER} -{side} {ip}/{128 if ':' in ip else 32} "
        for ip in addresses
        for side in "sd"
    )
    out: list[str] = []
    table: list[str] = []
    ours: list[str] = []
    comment = f'--comment "rkt pod {uuid}"'
    name = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            name, table, ours = line, [], []
        elif line.startswith(":"):
            chain = line[1:].split(" ", 1)[0]
            if chain in names:
                ours.append(chain)
        elif line.startswith("-A "):
            chain = line.split(" ", 2)[1]
            jumps = any(line.endswith(f" -j {target}") for target in names)
            foreign = bool(let_through) and line.startswith(let_through)
            if chain not in names and (jumps or foreign or comment in line):
                table.append(f"-D {line[3:]}")
        elif line == "COMMIT" and (table or ours):
            flush = [f"-F {chain}" for chain in ours]
            out += [name, *table, *flush, *(f"-X {chain}" for chain in ours), line]
    return "\n".join(out) + "\n" if out else ""


def apply(version: int, rules: str) -> None:
    """Add to or take from the host's rules.  Raises NetworkError."""
    _run(_program(version, "restore"), ["--noflush", "-w", _WAIT], rules.encode())


def saved(version: int) -> str:
    """Give the host's rules; "" where there is no such tool."""
    try:
        program = _program(version, "save")
    except NetworkError:
        return ""
    return _run(program, [], b"").decode("utf-8", "replace")


def _program(version: int, what: str) -> str:
    name = f"ip{'' if version == 4 else '6'}tables-{what}"
    path = proc.find_program(name)
    if path is None:
        raise NetworkError(f'"{name}": no such program', hint=_HINT)
    return path


def unmasquerade(uuid: str, network: str, addresses: Sequence[str]) -> Child | None:
    """Begin to remove the rules that CNI's plugins make for ipMasq; see `succeeded`."""
    try:
        program = _program(4, "restore")
    except NetworkError:
        return None
    (chain,) = (name for name in cni_chains(uuid, [network]) if name[4:7] not in ("DN-", "SN-"))
    comment = f'-m comment --comment "name: \\"{network}\\" id: \\"{uuid}\\""'
    lines = ["*nat"]
    lines += [f"-D POSTROUTING -s {ip}/32 {comment} -j {chain}" for ip in addresses]
    lines += [f"-F {chain}", f"-X {chain}", "COMMIT", ""]
    argv = [program, "--noflush", "-w", _WAIT]
    return Child(argv, "\n".join(lines).encode(), proc.BASE_ENV)


def succeeded(status: int | None, _out: bytes, err: bytes) -> bool:
    """Say whether a tool did its work; it is silent then, should its status be lost."""
    return status == 0 or (status is None and not err.strip())


def _run(program: str, args: list[str], data: bytes) -> bytes:
    status, out, err = Child([program, *args], data, proc.BASE_ENV).wait()
    if not succeeded(status, out, err):
        tail = err.decode("utf-8", "replace").strip().splitlines()
        last = f": {tail[0]}" if tail else ""
        raise NetworkError(f'"{os.path.basename(program)}" {proc.ending(status or 0)}{last}')
    return out


def remove(uuid: str, networks: Sequence[str], addresses: Sequence[str] = ()) -> None:
    """Take away every rule that is provably this pod's.  Raises NetworkError.

    `addresses` are those that nobody but the pod can have at this moment.
    """
    names = cni_chains(uuid, networks) | set(chains(uuid))
    for version in (4, 6):
        rules = removal(saved(version), uuid, names, addresses)
        if rules:
            apply(version, rules)


def route_to(ip: str) -> str:
    """Give the interface through which the host reaches an IPv4 address directly, "" if none."""
    octets = [int(part) for part in ip.split(".")]
    number = int.from_bytes(bytes(octets), "little")
    best, found = -1, ""
    with open("/proc/net/route", encoding="ascii") as file:
        next(file)
        for line in file:
            fields = line.split()
            target, gateway, mask = (int(fields[index], 16) for index in (1, 2, 7))
            length = mask.bit_count()
            if gateway == 0 and number & mask == target and length > best and length > 0:
                best, found = length, fields[0]
    return found


def open_localnet(interface: str) -> None:
    """Let packets from 127.0.0.1 leave through an interface (see `forwarding`)."""
    path = f"/proc/sys/net/ipv4/conf/{interface}/route_localnet"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write("1\n")
    except OSError as err:
        raise NetworkError(f'cannot set "{path}": {err.strerror}') from err
