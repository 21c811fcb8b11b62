"""Networks of the distribution's other plugins: macvlan, ipvlan, dhcp, static, long chains."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.network import (
    PLUGINS,
    Outside,
    Running,
    Server,
    ask,
    collect,
    in_namespace,
    leases,
    net_image,
    rules,
    write_conf,
)
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox", "cni", "iptables")

OPEN = "--insecure-options=image"
HOST_LOCAL = {"type": "host-local", "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50"}


@pytest.fixture
def image(rkt: RktContext) -> str:
    """Give the key of an image whose pod runs a script."""
    return net_image(rkt)


class Dhcp:
    """A DHCP server on the machine outside, and CNI's daemon in the context."""

    def __init__(self, rkt: RktContext, outside: Outside) -> None:
        self.rkt = rkt
        self.socket = f"{rkt.files}/dhcp.sock"
        self.leases = f"{rkt.files}/dnsmasq.leases"
        self.server = subprocess.Popen(
            in_namespace(outside.pid, [
                "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
                "--user=root", "--no-ping",
                "--bind-interfaces", "--interface=up0", "--dhcp-range=192.0.2.100,192.0.2.110,1h",
                f"--dhcp-leasefile={self.leases}", "--pid-file", "--log-facility=/dev/null",
                "--dhcp-option=option:router,192.0.2.2",
            ])
        )  # fmt: skip
        self.daemon = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the daemon and wait until it listens."""
        daemon = subprocess.Popen(
            [*self.rkt.enter_argv(), f"{PLUGINS}/dhcp", "daemon", "-socketpath", self.socket],
            stderr=subprocess.DEVNULL,
        )
        self.rkt.wait_for(lambda: os.path.exists(self.socket))
        return daemon

    def active(self) -> list[str]:
        """Give the addresses that the server has given away."""
        with open(self.leases) as file:
            return [line.split()[2] for line in file]

    def end(self) -> None:
        """End both."""
        for process in (self.daemon, self.server):
            process.kill()
            process.wait()


@pytest.fixture
def outside(rkt: RktContext) -> Iterator[Outside]:
    """Give a machine beyond the test's."""
    with Outside(rkt) as found:
        yield found


@pytest.mark.parametrize("kind", ["macvlan", pytest.param("ipvlan", marks=needs("ipvlan"))])
def test_a_pod_in_the_network_of_the_host(
    rkt: RktContext, image: str, outside: Outside, kind: str
) -> None:
    """The pod is a machine of its own there; what it had is free again at its end."""
    write_conf(rkt, "10-x.conf", {
        "cniVersion": "1.0.0", "name": "x", "type": kind, "master": "outside", "ipam": HOST_LOCAL,
    })  # fmt: skip
    pod = Running(rkt, image, "--net=x")
    assert re.fullmatch(r"192\.0\.2\.5\d", pod.ip)
    with Server(outside.pid, "outside", 7), Server(pod.pid, "pod", 8080):
        assert ask(pod.pid, "192.0.2.2", 7) == f"outside {pod.ip}"
        assert ask(outside.pid, pod.ip, 8080) == "pod 192.0.2.2"
    pod.end()
    assert leases(rkt) == []
    again = Running(rkt, image, "--net=x")
    again.process.kill()
    again.process.wait(10)
    assert collect(rkt) == ""
    assert leases(rkt) == []


@needs("dnsmasq")
def test_addresses_by_dhcp(rkt: RktContext, image: str, outside: Outside) -> None:
    dhcp = Dhcp(rkt, outside)
    write_conf(rkt, "10-x.conf", {
        "cniVersion": "1.0.0", "name": "x", "type": "macvlan", "master": "outside",
        "ipam": {"type": "dhcp", "daemonSocketPath": dhcp.socket},
    })  # fmt: skip
    try:
        pod = Running(rkt, image, "--net=x")
        assert re.fullmatch(r"192\.0\.2\.1\d\d", pod.ip)
        assert f"x:ip4={pod.ip}" in rkt.rkt("list").stdout
        assert dhcp.active() == [pod.ip]
        with Server(outside.pid, "outside", 7):
            assert ask(pod.pid, "192.0.2.2", 7) == f"outside {pod.ip}"
        pod.end()
        rkt.wait_for(lambda: dhcp.active() == [])
        pod = Running(rkt, image, "--net=x")
        pod.process.kill()
        pod.process.wait(10)
        assert collect(rkt) == ""
        rkt.wait_for(lambda: dhcp.active() == [])
        # A daemon that died knows nothing of the lease any more: nobody can give it back.
        pod = Running(rkt, image, "--net=x")
        dhcp.daemon.kill()
        dhcp.daemon.wait()
        pod.process.kill()
        pod.process.wait(10)
        said = collect(rkt)
        assert os.listdir(f"{rkt.data}/pods/exited-garbage") == [], said
        # And without it no pod starts.
        result = rkt.rkt(OPEN, "run", "--net=x", image, "--", "echo no", status=254)
        assert 'rkt: error adding network "x": error dialing DHCP daemon: ' in result.stderr
        assert result.stdout == ""
    finally:
        dhcp.end()


def test_addresses_that_are_told(rkt: RktContext, image: str) -> None:
    """The plugin `static`, a resolv.conf of the network, and settings of the kernel."""
    ipam = {
        "type": "static", "addresses": [{"address": "10.88.0.5/24", "gateway": "10.88.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }  # fmt: skip
    dns = {"nameservers": ["10.1.1.1"]}
    write_conf(rkt, "10-x.conflist", {
        "cniVersion": "0.4.0", "name": "x",
        "plugins": [{"type": "ptp", "ipMasq": True, "ipam": ipam, "dns": dns},
                    {"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.tcp_syncookies": "0"}}],
    })  # fmt: skip
    script = "ip addr show eth0; cat /etc/resolv.conf /proc/sys/net/ipv4/tcp_syncookies"
    said = rkt.rkt(OPEN, "run", "--net=x", image, "--", script).stdout
    assert "inet 10.88.0.5/24" in said
    assert "mtu 1400" in said
    assert said.endswith("nameserver 10.1.1.1\n0\n")
    assert "CNI-" not in rules(rkt)


@needs("bandwidth")
def test_a_chain_with_everything(rkt: RktContext, image: str, outside: Outside) -> None:
    """bridge, tuning, bandwidth, portmap and firewall; after SIGKILL gc calls them all."""
    chain = {
        "cniVersion": "1.0.0", "name": "all-of-it",
        "plugins": [
            {"type": "bridge", "bridge": "lan0", "isGateway": True, "ipMasq": True,
             "ipam": {"type": "host-local", "subnet": "10.77.0.0/24",
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 8000000,
             "egressRate": 8000000, "egressBurst": 8000000},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "firewall", "backend": "iptables"},
        ],
    }  # fmt: skip
    write_conf(rkt, "10-lan.conflist", chain)
    here = rkt.enter_argv()
    for kill in (False, True):
        pod = Running(rkt, image, "--net=all-of-it", "--port=web:9090")
        with Server(pod.pid, "pod", 8080), Server(outside.pid, "outside", 7):
            assert ask(outside.pid, "192.0.2.1", 9090) == "pod 192.0.2.2"
            assert ask(pod.pid, "192.0.2.2", 7) == "outside 192.0.2.1"
        assert "bwp" in rkt.run([*here, "ip", "link"]).stdout
        if kill:
            pod.process.kill()
            pod.process.wait(10)
            assert collect(rkt) == ""
        else:
            pod.end()
        assert "bwp" not in rkt.run([*here, "ip", "link"]).stdout
        assert pod.uuid not in rules(rkt)
        assert f"{pod.ip}/32" not in rules(rkt)
        assert leases(rkt) == []
    rkt.run([*here, "ip", "link", "delete", "lan0"])
    for table in ("nat", "filter"):  # what the plugins have for all containers
        for word in ("-F", "-X"):
            rkt.run([*here, "iptables", "-t", table, word])


def test_gc_of_many_pods_at_once(rkt: RktContext, image: str) -> None:
    """It works on several pods at a time; the packet filter and the leases are one."""
    argv = (OPEN, "run", "--net=default", "--port=web:{port}", image, "--", "echo r; sleep 1000")
    processes = [
        rkt.spawn(*(word.format(port=9100 + n) for word in argv)) for n in range(12)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"r\n"
    for process in processes:
        process.kill()
        process.wait(10)
    assert len(leases(rkt)) == 12
    assert collect(rkt) == ""
    assert leases(rkt) == []
    assert "rkt pod" not in rules(rkt)
    assert "CNI-" not in rules(rkt)
