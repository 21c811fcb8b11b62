"""Limits on the network traffic of a pod, by token buckets of `tc` on its interfaces.

The apps of a pod share its network namespace, so the limit is the pod's.  What the pod sends is
shaped where it leaves the pod; what it receives, where it leaves the host's end of the veth pair.
The loopback interface is never limited.  Imported only for pods that have such a limit.
"""

from __future__ import annotations

from rkt.errors import CommandError
from rkt.linux import proc
from rkt.stage1.app import resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.manifest import Pod

_LEAST_BURST = (
    16 << 10
)  # a bucket must hold some packets, and what a tick of the clock lets through


def pod_rate(pod: Pod, unenforced: resources.Unenforced) -> int | None:
    """Give the bytes a second that a pod may send, and receive.

    The pod's own isolator, and no more than its apps together if every one of them has a limit.
    """
    rates = [resources.network_rate(app.isolators) for app in pod.apps]
    limited = [rate for rate in rates if rate is not None]
    own = resources.network_rate(pod.isolators)
    if len(limited) == len(rates):
        total = sum(limited)
        return total if own is None else min(own, total)
    for app, rate in zip(pod.apps, rates, strict=True):
        if rate is not None:
            unenforced.other(f'app "{app.name}"', resources.NETWORK, "its pod's other apps have no "
                             "limit, and they share a network")  # fmt: skip
    return own


def limit(init_pid: int, rate: int, unenforced: resources.Unenforced) -> None:
    """Limit what goes out of and into the network namespace of a process."""
    burst = max(rate // 50, _LEAST_BURST)
    bucket = ["root", "tbf", "rate", f"{rate}bps", "burst", str(burst), "latency", "50ms"]
    inside = ["nsenter", f"--net=/proc/{init_pid}/ns/net"]
    try:
        links = _links([*inside, "ip", "-o", "-d", "link", "show"])
        ends = {index: name for name, _, index, _ in _links(["ip", "-o", "link", "show"])}
        for name, peer, _, is_veth in links:
            if name == "lo":
                continue
            proc.run([*inside, "tc", "qdisc", "replace", "dev", name, *bucket], timeout=30)
            if is_veth and peer in ends:
                proc.run(["tc", "qdisc", "replace", "dev", ends[peer], *bucket], timeout=30)
    except CommandError as err:
        unenforced.other("pod", resources.NETWORK, err.message)


def _links(argv: list[str]) -> list[tuple[str, int, int, bool]]:
    """Give name, index of the other end, own index, and whether it is a veth, of each interface."""
    found = []
    for line in proc.run(argv, timeout=30).stdout.decode("utf-8", "replace").splitlines():
        index, _, rest = line.partition(": ")
        name, _, other = rest.split(": ", 1)[0].partition("@")
        peer = int(other[2:]) if other.startswith("if") and other[2:].isdigit() else 0
        found.append((name, peer, int(index), " veth " in line))
    return found
