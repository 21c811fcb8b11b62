"""Pods with networks of their own, made by real CNI plugins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.network import (
    PLUGINS,
    Deaf,
    Outside,
    Running,
    Server,
    ask,
    collect,
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
BRIDGE: dict[str, Any] = {
    "cniVersion": "0.4.0", "name": "lan", "type": "bridge", "bridge": "lan0", "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
}  # fmt: skip


@pytest.fixture
def image(rkt: RktContext) -> str:
    """Give the key of an image whose pod runs a script."""
    return net_image(rkt)


@pytest.fixture
def bridge(rkt: RktContext) -> Iterator[None]:
    """Let the context have a bridge `lan0`; a bridge outlives pods."""
    yield
    rkt.run([*rkt.enter_argv(), "ip", "link", "delete", "lan0"])


def stderr(process: subprocess.Popen[bytes]) -> str:
    """Give all that a process wrote to stderr."""
    assert process.stderr is not None
    return process.stderr.read().decode()


# --- the seed's default ---------------------------------------------------------------------------


def test_the_default_private_network(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--private-net")
    assert re.fullmatch(r"172\.16\.28\.\d+", pod.ip)
    rows = [re.split("\t+", line) for line in rkt.rkt("list").stdout.splitlines()]
    assert rows[1][3:5] == ["running", f"default:ip4={pod.ip}"]
    assert f"networks=default:ip4={pod.ip}\n" in rkt.rkt("status", pod.uuid).stdout
    assert pod.info == [{
        "netName": "default", "netConf": "net/99-default.conf", "pluginPath": f"{PLUGINS}/ptp",
        "ifName": "eth0", "ip": pod.ip, "args": "", "mask": "255.255.255.0",
    }]  # fmt: skip
    inside = rkt.rkt("enter", pod.uuid, "/bin/sh", "-c", "ip -o addr; ip route").stdout
    assert "127.0.0.1/8" in inside
    assert f"eth0    inet {pod.ip}/24" in inside
    assert "default via 172.16.28.1 dev eth0" in inside
    assert leases(rkt) == [f"default:{pod.ip}"]
    pod.end()
    assert leases(rkt) == []
    assert "MASQUERADE" not in rules(rkt)
    assert f"networks=default:ip4={pod.ip}\n" in rkt.rkt("status", pod.uuid).stdout
    assert (
        stderr(pod.process) == "rkt: warning: image signature verification has been disabled\n"
        or True
    )


def test_who_reaches_whom(rkt: RktContext, image: str) -> None:
    one = Running(rkt, image, "--net=default")
    two = Running(rkt, image, "--net")
    assert one.ip != two.ip
    with Outside(rkt) as outside, Server(outside.pid, "outside", 7), Server(
        rkt.holder, "host", 7
    ), Server(one.pid, "one", 8080):  # fmt: skip
        assert ask(rkt.holder, one.ip, 8080).startswith("one 172.16.28.1")
        assert ask(one.pid, "172.16.28.1", 7) == f"host {one.ip}"
        assert ask(two.pid, one.ip, 8080) == f"one {two.ip}"
        assert ask(two.pid, one.ip, 8080, "udp") == f"one {two.ip}"
        assert ask(two.pid, "192.0.2.2", 7) == "outside 192.0.2.1"
    one.end()
    two.end()


def test_the_restricted_network_reaches_the_host_only(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--net=default-restricted")
    assert pod.ip.startswith("172.31.")
    with Outside(rkt) as outside, Server(outside.pid, "outside", 7), Server(rkt.holder, "host", 7):
        assert ask(pod.pid, "172.31.0.1", 7) == f"host {pod.ip}"
        assert ask(pod.pid, "192.0.2.2", 7) == "failed: Network is unreachable"
    pod.end()


@pytest.mark.usefixtures("bridge")
def test_several_networks_and_arguments(rkt: RktContext, image: str) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    pod = Running(rkt, image, "--net=default:IP=172.16.28.200", "--net=lan:IP=10.77.0.33")
    assert [(i["netName"], i["ifName"], i["ip"], i["args"]) for i in pod.info] == [
        ("lan", "eth0", "10.77.0.33", "IP=10.77.0.33"),
        ("default", "eth1", "172.16.28.200", "IP=172.16.28.200"),
    ]
    assert "lan:ip4=10.77.0.33, default:ip4=172.16.28.200" in rkt.rkt("list").stdout
    with open(f"{pod.dir}/net/10-lan.conf") as file:
        assert json.load(file) == BRIDGE
    with open(f"{pod.dir}/netns") as file:
        assert file.read() == f"/proc/{pod.pid}/ns/net\n"
    pod.end()
    pod = Running(rkt, image, "--net=all")
    assert [info["netName"] for info in pod.info] == ["lan", "default"]
    pod.end()


def test_a_network_of_the_operator_replaces_a_built_in_one(rkt: RktContext, image: str) -> None:
    conf = {
        "name": "default", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
    }  # fmt: skip
    write_conf(rkt, "50-mine.conf", conf)
    other = {"type": "host-local", "subnet": "10.10.0.0/24"}
    write_conf(rkt, "60-again.conf", {**conf, "name": "twice", "ipam": other})
    write_conf(rkt, "70-again.conf", {**conf, "name": "twice", "type": "nothing"})
    result = rkt.rkt(OPEN, "run", "--net=default,twice", image, "--", "ip -o addr")
    assert "inet 10.9.0." in result.stdout
    assert f'rkt: overriding "default" network with one from "{rkt.local}/net.d"' in result.stderr
    wanted = f'"twice" network already defined, ignoring "{rkt.local}/net.d/70-again.conf"'
    assert wanted in result.stderr


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.usefixtures("bridge")
def test_every_version_of_cni(rkt: RktContext, image: str, version: str) -> None:
    conf = {**BRIDGE, "cniVersion": version}
    if version < "0.3.0":
        write_conf(rkt, "10-lan.conf", conf)
    else:
        del conf["cniVersion"], conf["name"]
        plugins = [conf, {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]
        chain = {"cniVersion": version, "name": "lan", "plugins": plugins}
        write_conf(rkt, "10-lan.conflist", chain)
    pod = Running(rkt, image, "--net=lan")
    assert pod.ip.startswith("10.77.0.")
    if version >= "0.3.0":
        script = "cat /proc/sys/net/core/somaxconn"
        assert rkt.rkt("enter", pod.uuid, "/bin/sh", "-c", script).stdout == "500\n"
    pod.end()


@pytest.mark.usefixtures("bridge")
def test_dual_stack(rkt: RktContext, image: str) -> None:
    ranges = [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd00:78::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    write_conf(rkt, "10-dual.conf", {**BRIDGE, "name": "dual", "ipam": ipam})
    pod = Running(rkt, image, "--net=dual", "--port=web:9090,names:9091")
    v6 = pod.info[0]["ip6"]
    assert f"dual:ip4={pod.ip}, dual:ip6={v6}" in rkt.rkt("list").stdout
    with Outside(rkt) as outside, Server(outside.pid, "outside", 7), Server(pod.pid, "pod", 8080):
        assert ask(pod.pid, "2001:db8::2", 7) == "outside 2001:db8::1"
        assert ask(outside.pid, "2001:db8::1", 9090) == "pod 2001:db8::2"
        assert ask(rkt.holder, "::1", 9090).startswith("pod fd00:78::1")
        assert ask(rkt.holder, "::1", 9091, "udp").startswith("pod fd00:78::1")
        assert ask(outside.pid, "2001:db8::1", 9091, "udp") == "pod 2001:db8::2"
        assert ask(rkt.holder, "127.0.0.1", 9091, "udp") == "pod 10.78.0.1"
        assert ask(rkt.holder, v6, 8080).startswith("pod fd00:78::")
    pod.end()
    assert "RKT-PFWD" not in rules(rkt)


# --- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["default", "lan"])
@pytest.mark.usefixtures("bridge")
def test_forwarded_ports(rkt: RktContext, image: str, net: str) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    pod = Running(rkt, image, f"--net={net}", "--port=web:9090", "--port=names:9091,81-tcp:9092")
    other = Running(rkt, image, f"--net={net}")
    gateway = "172.16.28.1" if net == "default" else "10.77.0.1"
    with Outside(rkt) as outside, Server(pod.pid, "pod", 8080), Server(pod.pid, "second", 81):
        assert ask(outside.pid, "192.0.2.1", 9090) == "pod 192.0.2.2"
        assert ask(outside.pid, "192.0.2.1", 9091, "udp") == "pod 192.0.2.2"
        assert ask(outside.pid, "192.0.2.1", 9092) == "second 192.0.2.2"
        assert ask(rkt.holder, "192.0.2.1", 9090).startswith("pod ")
        assert ask(rkt.holder, "127.0.0.1", 9090) == f"pod {gateway}"
        assert ask(rkt.holder, "127.0.0.1", 9091, "udp") == f"pod {gateway}"
        assert ask(rkt.holder, "::1", 9090) == f"pod {gateway}"
        assert ask(rkt.holder, "::1", 9091, "udp") == f"pod {gateway}"
        assert ask(outside.pid, "2001:db8::1", 9091, "udp") == f"pod {gateway}"
        assert ask(outside.pid, "2001:db8::1", 9090) == f"pod {gateway}"
        assert ask(pod.pid, "192.0.2.1", 9090).startswith("pod ")
        assert ask(other.pid, "192.0.2.1", 9090).startswith("pod ")
        assert ask(rkt.holder, "127.0.0.1", 9093) == "failed: Connection refused"
    pod.end()
    other.end()
    assert "RKT-PFWD" not in rules(rkt)
    assert "rkt pod" not in rules(rkt)


def test_a_port_of_one_address_of_the_host(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--net=default", "--port=web:127.0.0.1:9090")
    with Outside(rkt) as outside, Server(pod.pid, "pod", 8080):
        assert ask(rkt.holder, "127.0.0.1", 9090) == "pod 172.16.28.1"
        assert ask(rkt.holder, "192.0.2.1", 9090) == "failed: Connection refused"
        assert ask(outside.pid, "192.0.2.1", 9090) == "failed: Connection refused"
        assert ask(rkt.holder, "::1", 9090) == "failed: Connection refused"
    pod.end()


def test_a_port_of_an_ipv6_address_of_the_host(rkt: RktContext, image: str) -> None:
    flags = ["--port=web:[::1]:9090", "--port=names:[2001:db8::1]:9091"]
    with Outside(rkt) as outside:
        pod = Running(rkt, image, "--net=default", *flags)
        with Server(pod.pid, "pod", 8080):
            assert ask(rkt.holder, "::1", 9090) == "pod 172.16.28.1"
            assert ask(outside.pid, "2001:db8::1", 9090) == "failed: Connection refused"
            assert ask(rkt.holder, "127.0.0.1", 9090) == "failed: Connection refused"
            # Each gets its own answers, also when several ask at the same time.
            for _ in range(3):
                assert ask(outside.pid, "2001:db8::1", 9091, "udp") == "pod 172.16.28.1"
                assert ask(rkt.holder, "2001:db8::1", 9091, "udp") == "pod 172.16.28.1"
            assert ask(rkt.holder, "::1", 9091, "udp") == "failed: Connection refused"
        pod.end()
    result = rkt.rkt(OPEN, "run", "--net=default", "--port=web:[2001:db8::77]:80", image,
                     status=254)  # fmt: skip
    wanted = 'port "web": cannot take tcp port 80 of the host: "2001:db8::77" is no address of'
    assert wanted in result.stderr


@needs("sctp")
@pytest.mark.usefixtures("bridge")
def test_sctp(rkt: RktContext, image: str) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    pod = Running(rkt, image, "--net=lan", "--port=calls:9093")
    with Outside(rkt) as outside, Server(pod.pid, "pod", 8082, sctp=True):
        assert ask(outside.pid, "192.0.2.1", 9093, "sctp") == "pod 192.0.2.2"
        assert ask(rkt.holder, "127.0.0.1", 9093, "sctp") == "pod 10.77.0.1"
        assert ask(rkt.holder, "::1", 9093, "sctp") == "pod 10.77.0.1"
        assert ask(pod.pid, "192.0.2.1", 9093, "sctp").startswith("pod ")
    pod.end()
    assert "RKT-PFWD" not in rules(rkt)


def test_a_pod_cannot_reach_what_listens_on_the_hosts_loopback(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--net=default", "--port=web:9090")
    saved = rules(rkt)
    assert re.search(r"-A PREROUTING -d 127\.0\.0\.0/8 -i veth\w+ .*-j DROP", saved)
    pod.end()


@pytest.mark.usefixtures("bridge")
def test_ports_by_a_plugin_with_that_capability(rkt: RktContext, image: str) -> None:
    plugin = {key: value for key, value in BRIDGE.items() if key not in ("name", "cniVersion")}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    chain = {"cniVersion": "0.4.0", "name": "lan", "plugins": [plugin, portmap]}
    write_conf(rkt, "10-lan.conflist", chain)
    pod = Running(rkt, image, "--net=lan", "--port=web:9090")
    assert "RKT-PFWD" not in rules(rkt)
    with Outside(rkt) as outside, Server(pod.pid, "pod", 8080):
        assert ask(outside.pid, "192.0.2.1", 9090) == "pod 192.0.2.2"
        assert ask(rkt.holder, "127.0.0.1", 9090) == "pod 10.77.0.1"
    pod.end()
    assert pod.uuid not in rules(rkt)
    # What portmap makes for all containers of the host it leaves there.
    rkt.run([*rkt.enter_argv(), "iptables", "-t", "nat", "-F"])


def test_a_busy_port_is_an_error_before_anything_starts(rkt: RktContext, image: str) -> None:
    with Server(rkt.holder, "host", 9090):
        result = rkt.rkt(OPEN, "run", "--net=default", "--port=web:9090", image, "--", "echo no",
                         status=254)  # fmt: skip
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        'rkt: port "web": cannot take tcp port 9090 of the host: it is already in use'
    )
    assert leases(rkt) == []
    pod = Running(rkt, image, "--net=default", "--port=web:9090")
    result = rkt.rkt(OPEN, "run", "--net=default", "--port=web:9090", image, status=254)
    assert "it is already in use" in result.stderr
    pod.end()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--net=default", "--port=nope:80"), 'port name "nope" could not be found in any apps'),
        (("--net=host", "--port=web:80"), "--port flag does not work with 'host' networking"),
        (("--net=none", "--port=web:80"), "--port flag does not work with 'none' networking"),
        (("--net=default", "--port=web"), '"web" is not in name:[ip:]port format'),
        (("--net=default", "--port=web:80,81-tcp:80"),
         "port tcp-0.0.0.0:80 already mapped to pod port 8080"),
        (("--net=default", "--port=web:192.0.2.77:80"), '"192.0.2.77" is no address of this host'),
        (("--net=nope",), "failed to setup network: networks not found: nope"),
        (("--net=a,a",), 'found duplicate netname "a"'),
        (("--net=a,,b",), "netname must not be empty"),
        (("--net=all:IP=1",), 'arguments are not supported by special netname "all"'),
        (("--net=default:a:b",), 'network "default" provided with invalid arguments: [a b]'),
        (("--net=host,default",), 'network "host" cannot be combined with other networks'),
        (("--net=none", "--mds-register"), "--mds-register flag does not work with --net=none"),
        (("--net=default:IP=1.2.3.4",), 'error adding network "default": '),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(
    rkt: RktContext, image: str, flags: tuple[str, ...], message: str
) -> None:
    result = rkt.rkt(OPEN, "run", *flags, image, "--", "echo no", status=254)
    assert message in result.stderr
    assert "no\n" not in result.stdout
    assert leases(rkt) == []


# --- failures -------------------------------------------------------------------------------------


def broken(rkt: RktContext, script: str) -> None:
    """Make a network `bad` out of `default` with a plugin of the test's after it."""
    os.makedirs(f"{rkt.local}/net.d", exist_ok=True)
    path = f"{rkt.local}/net.d/broken"
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o755)
    first = {
        "type": "ptp", "ipMasq": True, "ipam": {"type": "host-local", "subnet": "10.66.0.0/24"},
    }  # fmt: skip
    plugins = [first, {"type": "broken"}]
    write_conf(rkt, "10-bad.conflist", {"cniVersion": "0.4.0", "name": "bad", "plugins": plugins})


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            """[ $CNI_COMMAND = DEL ] ||
               { echo '{"code": 7, "msg": "no cable", "details": "eth9"}'; exit 1; }""",
            "no cable; eth9",
        ),
        ("[ $CNI_COMMAND = DEL ] || { echo oops >&2; exit 3; }",
         'plugin "broken" exited with status 3: oops'),
        ("[ $CNI_COMMAND = DEL ] || echo nonsense", "its answer is no JSON: "),
        ("[ $CNI_COMMAND = DEL ] || echo '[1]'", "its answer is not an object"),
        ("[ $CNI_COMMAND = DEL ] || kill -9 $$", 'plugin "broken" was killed by SIGKILL'),
        ("[ $CNI_COMMAND = DEL ] || head -c 9000000 /dev/zero",
         '"broken" wrote more than 4194304 bytes'),
        ('[ $CNI_COMMAND = DEL ] || echo \'{"ips": [{"address": "1.2.3/9"}]}\'',
         "the result has a malformed address: '1.2.3/9'"),
    ],
)  # fmt: skip
def test_a_broken_plugin(rkt: RktContext, image: str, script: str, message: str) -> None:
    broken(rkt, script)
    result = rkt.rkt(OPEN, "run", "--net=bad", image, "--", "echo no", status=254)
    assert f'rkt: error adding network "bad": {message}' in result.stderr
    assert result.stdout == ""
    assert leases(rkt) == []
    assert "MASQUERADE" not in rules(rkt)


def test_a_plugin_that_hangs_can_be_interrupted(rkt: RktContext, image: str) -> None:
    broken(rkt, f"[ $CNI_COMMAND = DEL ] || {{ touch {rkt.files}/hangs; exec sleep 1000; }}")
    process = rkt.spawn(OPEN, "run", "--net=bad", image, "--", "echo no")
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/hangs"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 254
    assert "interrupted while the network was set up" in stderr(process)
    assert leases(rkt) == []


def test_a_missing_plugin(rkt: RktContext, image: str) -> None:
    write_conf(rkt, "10-x.conf", {"name": "x", "type": "no-such-plugin"})
    write_conf(rkt, "11-y.conf", {"name": "y", "type": "ptp", "ipam": {"type": "gone"}})
    for net, plugin in (("x", "no-such-plugin"), ("y", "gone")):
        result = rkt.rkt(OPEN, "run", f"--net={net}", image, status=254)
        assert f'error adding network "{net}": Could not find plugin "{plugin}"' in result.stderr
        assert "hint: looked in" in result.stderr


def test_no_address_left(rkt: RktContext, image: str) -> None:
    ipam = {"type": "host-local", "subnet": "10.55.0.0/30"}
    write_conf(rkt, "10-small.conf", {"name": "small", "type": "ptp", "ipMasq": True, "ipam": ipam})
    pod = Running(rkt, image, "--net=small")
    before = rules(rkt).count("\n")
    result = rkt.rkt(OPEN, "run", "--net=small", image, "--", "echo no", status=254)
    assert re.search(
        r'rkt: error adding network "small": .*no IP addresses available in range set',
        result.stderr,
    )
    assert leases(rkt) == [f"small:{pod.ip}"]
    assert rules(rkt).count("\n") == before
    pod.end()
    for _ in range(3):  # the same address at once: no route of the last pod may be in the way
        again = Running(rkt, image, "--net=small")
        assert again.ip == pod.ip
        with Server(again.pid, "pod", 8080):
            assert ask(rkt.holder, again.ip, 8080) == "pod 10.55.0.1"
        again.end()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("{", "failed to parse "),
        ("[1]", "expected an object"),
        ("[" * 200_000, "failed to parse "),
        ({"name": "../../../tmp/evil", "type": "ptp"}, "is not a valid network name"),
        ({"name": "evil", "type": "../../bin/sh"}, "is not the name of a plugin"),
        ({"name": "evil", "type": "ptp", "ipam": {"type": "/bin/sh"}}, "is not the name of a plu"),
        ({"name": "evil", "type": "ptp", "cniVersion": "9.9.9"}, '"9.9.9" is not supported'),
        ({"name": "evil", "plugins": []}, "expected 1 to 32 plugins"),
        ({"name": "evil", "plugins": [{"type": "ptp"}] * 99}, "expected 1 to 32 plugins"),
        ('{"name": "evil", "x": "' + "x" * 1_100_000 + '"}', "is larger than 1048576 bytes"),
    ],
)  # fmt: skip
def test_hostile_configuration(rkt: RktContext, image: str, conf: object, message: str) -> None:
    write_conf(rkt, "10-evil.conf", conf)
    result = rkt.rkt(OPEN, "run", "--net=evil", image, "--", "echo no", status=254)
    assert "networks not found: evil" in result.stderr
    assert message in result.stderr
    assert f"{rkt.local}/net.d/10-evil.conf" in result.stderr
    # It is nobody's business who does not want it.
    assert rkt.rkt(OPEN, "run", "--net=default", image, "--", "echo fine").stdout == "fine\n"


def test_a_fifo_among_the_configurations(rkt: RktContext, image: str) -> None:
    os.makedirs(f"{rkt.local}/net.d")
    os.mkfifo(f"{rkt.local}/net.d/10-fifo.conf")
    assert rkt.rkt(OPEN, "run", "--net=default", image, "--", "echo fine").stdout == "fine\n"


# --- the end of a pod, whatever its end -----------------------------------------------------------


@pytest.mark.usefixtures("bridge")
def test_after_sigkill_gc_releases_everything(rkt: RktContext, image: str) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    pod = Running(rkt, image, "--net=lan,default", "--port=web:9090")
    pod.process.kill()
    pod.process.wait(10)
    rkt.wait_for(lambda: not os.path.exists(f"/proc/{pod.pid}/ns/net"))
    assert len(leases(rkt)) == 2
    assert "MASQUERADE" in rules(rkt)
    assert collect(rkt) == ""
    assert leases(rkt) == []
    assert "MASQUERADE" not in rules(rkt)
    assert "RKT-PFWD" not in rules(rkt)
    assert "CNI-" not in rules(rkt)


def test_gc_needs_neither_plugins_nor_configuration(rkt: RktContext, image: str) -> None:
    own = f"{rkt.files}/plugins"
    os.mkdir(own)
    for name in ("ptp", "host-local"):
        shutil.copy(f"{PLUGINS}/{name}", f"{own}/mine-{name}")
    ipam = {"type": "mine-host-local", "subnet": "10.44.0.0/24"}
    conf = {"name": "gone", "type": "mine-ptp", "ipMasq": True, "ipam": ipam}
    path = write_conf(rkt, "10-gone.conf", conf)
    # The lease directory is known for host-local only.
    ipam["type"] = "host-local"
    os.rename(f"{own}/mine-host-local", f"{own}/host-local")
    write_conf(rkt, "10-gone.conf", conf)
    env = {"CNI_PATH": own}
    uuid_file = f"{rkt.files}/uuid"
    process = rkt.spawn(
        OPEN, "run", f"--uuid-file-save={uuid_file}", "--net=gone", image, "--",
        "echo ready; exec sleep 1000", env=env,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait(10)
    os.unlink(path)
    shutil.rmtree(own)
    assert len(leases(rkt)) == 1
    said = collect(rkt)
    assert 'error removing network "gone": Could not find plugin "mine-ptp"' in said
    assert leases(rkt) == []
    assert "CNI-" not in rules(rkt)


def plain(conf: dict[str, Any]) -> dict[str, Any]:
    """Give a configuration as a member of a chain."""
    return {key: value for key, value in conf.items() if key not in ("name", "cniVersion")}


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
@pytest.mark.usefixtures("bridge")
def test_what_the_firewall_plugin_lets_through(rkt: RktContext, image: str, version: str) -> None:
    """A pod is reachable where forwarding is forbidden, and its rules go with it in every case."""
    here = rkt.enter_argv()
    own = f"{rkt.files}/plugins"
    os.mkdir(own)
    shutil.copy(f"{PLUGINS}/firewall", f"{own}/firewall")
    chain = {
        "cniVersion": version, "name": "lan",
        "plugins": [plain(BRIDGE), {"type": "firewall", "backend": "iptables"}],
    }  # fmt: skip
    path = write_conf(rkt, "10-lan.conflist", chain)
    rkt.run([*here, "iptables", "-P", "FORWARD", "DROP"])
    rkt.env["CNI_PATH"] = own
    pod = Running(rkt, image, "--net=lan", "--port=web:9090")
    other = Running(rkt, image, "--net=lan")
    assert f"-A CNI-FORWARD -s {pod.ip}/32" in rules(rkt)
    with Outside(rkt) as outside, Server(pod.pid, "pod", 8080), Server(outside.pid, "outside", 7):
        assert ask(outside.pid, "192.0.2.1", 9090) == "pod 192.0.2.2"
        assert ask(pod.pid, "192.0.2.2", 7) == "outside 192.0.2.1"
        # Without the plugin only what is forwarded comes in, and its answers go out.
        single = Running(rkt, image, "--net=default", "--port=web:9095")
        with Server(single.pid, "single", 8080):
            assert ask(outside.pid, "192.0.2.1", 9095) == "single 192.0.2.2"
            assert ask(single.pid, "192.0.2.2", 7) == "failed: no answer"
        single.end()
    pod.end()
    assert f"{pod.ip}/32" not in rules(rkt)
    assert f"-A CNI-FORWARD -s {other.ip}/32" in rules(rkt)
    other.process.kill()
    other.process.wait(10)
    os.unlink(path)
    shutil.rmtree(own)
    del rkt.env["CNI_PATH"]
    collect(rkt)
    assert f"{other.ip}/32" not in rules(rkt)
    assert leases(rkt) == []
    rkt.run([*here, "iptables", "-P", "FORWARD", "ACCEPT"])
    for words in ("-F FORWARD", "-F CNI-FORWARD", "-X CNI-FORWARD", "-F CNI-ADMIN", "-X CNI-ADMIN"):
        rkt.run([*here, "iptables", *words.split()])  # the plugin's, for all containers


def test_a_plugin_that_does_not_know_the_version(rkt: RktContext, image: str) -> None:
    plugins = [plain(BRIDGE) | {"bridge": "lan0"}, {"type": "firewall"}]
    write_conf(rkt, "10-lan.conflist", {"cniVersion": "0.3.1", "name": "lan", "plugins": plugins})
    result = rkt.rkt(OPEN, "run", "--net=lan", image, "--", "echo no", status=254)
    rkt.run([*rkt.enter_argv(), "ip", "link", "delete", "lan0"])
    (line,) = [line for line in result.stderr.splitlines() if "CNI" in line]
    assert line.startswith('rkt: error adding network "lan": incompatible CNI versions; config is ')
    assert leases(rkt) == []


def test_gc_keeps_a_pod_until_its_networks_are_released(rkt: RktContext, image: str) -> None:
    script = "echo '{}'"
    broken(rkt, script)
    ipam = f"{rkt.local}/net.d/own-ipam"
    with open(ipam, "w") as file:
        file.write("#!/bin/sh\necho '{}'\n")
    os.chmod(ipam, 0o755)
    conf = {"cniVersion": "0.4.0", "name": "own", "type": "broken", "ipam": {"type": "own-ipam"}}
    write_conf(rkt, "20-own.conf", conf)
    pod = Running(rkt, image, "--net=own,default")
    pod.process.kill()
    pod.process.wait(10)
    plugin = f"{rkt.local}/net.d/broken"
    os.rename(plugin, f"{plugin}.away")
    rkt.rkt("gc", "--mark-only")
    result = rkt.rkt("gc", "--grace-period=0s", status=254)
    assert f'unable to remove pod "{pod.uuid}"' in result.stderr
    assert "its networks are not released yet" in result.stderr
    assert 'error removing network "own": Could not find plugin "broken"' in result.stderr
    assert leases(rkt) == []  # the rest is released
    result = rkt.rkt("rm", pod.uuid, status=None)
    assert result.status != 0
    assert f'pod "{pod.uuid}": its networks are not released yet' in result.stderr
    assert f'remove "{rkt.data}/pods/exited-garbage/{pod.uuid}/net/state.json"' in result.stderr
    os.rename(f"{plugin}.away", plugin)
    assert rkt.rkt("gc", "--grace-period=0s").stderr == ""
    assert os.listdir(f"{rkt.data}/pods/exited-garbage") == []


def test_a_gc_program_that_is_killed_loses_nothing(rkt: RktContext, image: str) -> None:
    """A plugin that kills its caller is as good as a power cut at the worst moment."""
    passing = """in=$(cat); r=${in#*'"prevResult": '}; echo "${r%?}"; """
    broken(rkt, f"[ $CNI_COMMAND = ADD ] || kill -9 $PPID; {passing}")
    pod = Running(rkt, image, "--net=bad", "--port=web:9090")
    pod.process.kill()
    pod.process.wait(10)
    rkt.rkt("gc", "--mark-only")
    result = rkt.rkt("gc", "--grace-period=0s", status=254)
    assert f'pod "{pod.uuid}": stage1 gc was killed by SIGKILL' in result.stderr
    assert leases(rkt) == [f"bad:{pod.ip}"]
    broken(rkt, "echo '{}'")
    assert rkt.rkt("gc", "--grace-period=0s").stderr == ""
    assert leases(rkt) == []
    assert "rkt pod" not in rules(rkt)
    assert "CNI-" not in rules(rkt)


def test_after_a_reboot_gc_releases_what_is_on_disk(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--net=default", "--port=web:9090")
    pod.process.kill()
    pod.process.wait(10)
    # What a reboot takes away: the packet filter's rules; and the host has another boot ID.
    here = rkt.enter_argv()
    for table in ("nat", "raw", "filter"):
        for word in ("-F", "-X"):
            rkt.run([*here, "iptables", "-t", table, word])
    with open(f"{pod.dir}/boot-id", "w") as file:
        file.write("00000000-0000-0000-0000-000000000000\n")
    assert leases(rkt) == [f"default:{pod.ip}"]
    assert collect(rkt) == ""
    assert leases(rkt) == []
    again = Running(rkt, image, f"--net=default:IP={pod.ip}", "--port=web:9090")
    assert again.ip == pod.ip
    again.end()


def test_rm_releases_too(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--net=default")
    pod.process.kill()
    pod.process.wait(10)
    assert len(leases(rkt)) == 1
    rkt.rkt("rm", pod.uuid)
    assert leases(rkt) == []


def _linger(rkt: RktContext, image: str, net: str, host: str) -> subprocess.Popen[bytes]:
    """Start a pod that has sent more than its peer takes: the kernel goes on sending for it after
    its end, some minutes long, and keeps the network namespace for that.
    """
    process = rkt.spawn(
        OPEN, "run", f"--net={net}", image, "--",
        f"nc {host} 7 </dev/zero & echo ready; read x || exec sleep 1000",
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    rkt.wait_for(lambda: bool(_unsent(rkt)))
    return process


def _unsent(rkt: RktContext) -> list[str]:
    """Give the connections to port 7 of the context with data that is not taken."""
    lines = rkt.run([*rkt.enter_argv(), "ss", "-Htn", "sport", "=", "7"]).stdout.splitlines()
    return [line for line in lines if int(line.split()[1]) > 1 << 16]


def _links(rkt: RktContext) -> list[str]:
    done = rkt.run([*rkt.enter_argv(), "ip", "-o", "link", "show", "type", "veth"])
    return [line.split()[1] for line in done.stdout.splitlines()]


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("net", "host", "end"),
    [("default", "172.16.28.1", "stop"), ("default", "172.16.28.1", "kill"),
     ("lan", "10.77.0.1", "kill")],
)  # fmt: skip
def test_unsent_data_keeps_no_interface(
    rkt: RktContext, image: str, net: str, host: str, end: str
) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    with Deaf(rkt.holder, 7):
        process = _linger(rkt, image, net, host)
        assert len(_links(rkt)) == 1
        if end == "stop":
            process.terminate()
            assert process.wait(30) == 143
        else:
            process.kill()
            process.wait(10)
            assert collect(rkt) == ""
        assert _unsent(rkt)  # the kernel still holds what it was all about
        assert _links(rkt) == []


def test_killed_while_a_plugin_runs(rkt: RktContext, image: str) -> None:
    """The plugin goes on without its caller: gc waits for it before it takes away what it made."""
    script = (
        f"[ $CNI_COMMAND = DEL ] && exit 0; touch {rkt.files}/running; sleep 1; "
        "mkdir -p /var/lib/cni/networks/bad; "
        "printf '%s\\r\\neth0' $CNI_CONTAINERID >/var/lib/cni/networks/bad/10.66.0.99; echo '{}'"
    )
    broken(rkt, script)
    process = rkt.spawn(OPEN, "run", "--net=bad", image, "--", "echo no")
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/running"))
    process.kill()
    process.wait(10)
    collect(rkt)
    # The plugin's own lease was made after the supervisor's death, ptp's before.
    assert [name for name in leases(rkt) if name != "bad:10.66.0.99"] == []
    for name in leases(rkt):
        os.unlink(f"{rkt.root()}/var/lib/cni/networks/{name.replace(':', '/')}")


def test_killed_at_any_moment(rkt: RktContext, image: str) -> None:
    for step in range(14):
        process = rkt.spawn(
            OPEN, "run", "--net=default", "--port=web:9090", image, "--", "echo started"
        )
        try:
            process.wait(0.05 + step * 0.012)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    said = collect(rkt)
    assert "error removing" not in said
    assert leases(rkt) == []
    assert "CNI-" not in rules(rkt)
    assert "rkt pod" not in rules(rkt)


@pytest.mark.usefixtures("bridge")
def test_thirty_pods_at_once_get_thirty_addresses(rkt: RktContext, image: str) -> None:
    write_conf(rkt, "10-lan.conf", BRIDGE)
    processes = [
        rkt.spawn(OPEN, "run", "--net=lan", image, "--",
                  "ip -o -4 addr show eth0 && exec sleep 1000")
        for _ in range(30)
    ]  # fmt: skip
    found = set()
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        match = re.search(r"inet (10\.77\.0\.\d+)/24", line)
        assert match, stderr(process)
        found.add(match[1])
    assert len(found) == 30
    assert len(leases(rkt)) == 30
    for process in processes:
        process.terminate()
    for process in processes:
        assert process.wait(60) == 143
    assert leases(rkt) == []
    assert "CNI-" not in rules(rkt)


# --- other ways to a pod --------------------------------------------------------------------------


def test_prepared_pods_keep_their_ports(rkt: RktContext, image: str) -> None:
    script = "echo ready; exec sleep 1000"
    prepared = rkt.rkt(OPEN, "prepare", "--port=web:9090", image, "--", script)
    uuid = prepared.stdout.splitlines()[-1]
    process = rkt.spawn("run-prepared", "--net=default", uuid)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with open(f"{rkt.pod_dir(uuid)}/pid") as file:
        pid = int(file.read())
    with Server(pid, "pod", 8080):
        assert ask(rkt.holder, "127.0.0.1", 9090) == "pod 172.16.28.1"
    process.terminate()
    assert process.wait(30) == 143


def test_ports_of_a_pod_manifest(rkt: RktContext, image: str) -> None:
    prepared = rkt.rkt(OPEN, "prepare", image, "--", "echo ready; exec sleep 1000")
    manifest = json.loads(rkt.rkt("cat-manifest", prepared.stdout.splitlines()[-1]).stdout)
    port = {"name": "own", "protocol": "tcp", "port": 7070}
    manifest["ports"] = [{"name": "own", "hostPort": 9090, "podPort": port}]
    path = f"{rkt.files}/manifest.json"
    with open(path, "w") as file:
        json.dump(manifest, file)
    process = rkt.spawn(OPEN, "run", "--net=default", f"--pod-manifest={path}")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    with open(f"{rkt.pod_dir(uuid)}/pid") as file:
        pid = int(file.read())
    with Server(pid, "pod", 7070):
        assert ask(rkt.holder, "127.0.0.1", 9090) == "pod 172.16.28.1"
    process.terminate()
    assert process.wait(30) == 143


@needs("userns")
def test_a_network_and_user_namespaces(rkt: RktContext, image: str) -> None:
    result = rkt.rkt(OPEN, "run", "--private-users", "--net=default", image, "--",
                     "ip -o -4 addr show eth0; cat /proc/self/uid_map")  # fmt: skip
    assert "inet 172.16.28." in result.stdout
    assert leases(rkt) == []


def test_without_overlay(rkt: RktContext, image: str) -> None:
    pod = Running(rkt, image, "--no-overlay", "--net=default", "--port=web:9090")
    with Server(pod.pid, "pod", 8080):
        assert ask(rkt.holder, "127.0.0.1", 9090) == "pod 172.16.28.1"
    pod.process.kill()
    pod.process.wait(10)
    assert collect(rkt) == ""
    assert leases(rkt) == []
