"""What the machine offers.  A test names what it needs: `@needs("root", "overlay")`.

Without it the test is skipped with the reason; names in RKT_TEST_REQUIRE (comma-separated, or
`all`) turn the skip into a failure, which is what CI wants.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test with what it needs of the machine."""
    unknown = [name for name in names if name not in PROBES]
    if unknown:
        raise ValueError(f"no such probe: {', '.join(unknown)}")
    return pytest.mark.needs(*names)


def enforce(names: tuple[str, ...]) -> None:
    """Skip the running test, or fail it, when something it needs is missing."""
    required = os.environ.get("RKT_TEST_REQUIRE", "").split(",")
    for name in names:
        missing = probe(name)
        if missing and (name in required or "all" in required):
            pytest.fail(f"RKT_TEST_REQUIRE wants {name}: {missing}", pytrace=False)
        if missing:
            pytest.skip(f"needs {name}: {missing}")


@functools.cache
def probe(name: str) -> str:
    """Say why something is not to be had; empty when it is."""
    return PROBES[name]()


def rkt_binary() -> str:
    """Give the rkt under test: RKT_BIN, or the one of the development environment."""
    return os.environ.get("RKT_BIN") or os.path.join(REPOSITORY, ".venv/bin/rkt")


def _program(*names: str) -> Callable[[], str]:
    def missing() -> str:
        lacking = [name for name in names if not shutil.which(name, path=SEARCH)]
        return f"no {', '.join(lacking)} on this machine" if lacking else ""

    return missing


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _try(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode and done.stderr else (
        f"{argv[0]} failed" if done.returncode else ""
    )  # fmt: skip


def _namespaces() -> str:
    return _root() or _try("unshare", "--mount", "--net", "true")


def _overlay() -> str:
    if _root():
        return _root()
    with tempfile.TemporaryDirectory(prefix="rkt-probe-") as top:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{top}/{name}")
        options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
        return _try(
            "unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options,
            f"{top}/merged",
        )  # fmt: skip


def _userns() -> str:
    return _try("unshare", "--user", "--map-root-user", "true")


def _oci_runtime() -> str:
    return _program("runc")() and _program("crun")()


def _busybox() -> str:
    missing = _program("busybox")()
    if missing:
        return missing
    with open(shutil.which("busybox", path=SEARCH) or "", "rb") as file:
        head = file.read(4096)
    return "busybox is not static" if b"/lib64/ld-" in head or b"/lib/ld-" in head else ""


def _cni() -> str:
    places = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
    return "" if any(os.path.exists(f"{place}/ptp") for place in places) else "no CNI plugins"


def _dnsname() -> str:
    places = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
    found = any(os.path.exists(f"{place}/dnsname") for place in places)
    return _program("dnsmasq")() if found else "no CNI plugin dnsname"


def _bandwidth() -> str:
    return _namespaces() or _try(
        "unshare", "--net", "sh", "-c",
        "ip link add bwp0 type ifb && tc qdisc add dev bwp0 root tbf rate 8mbit burst 1mb "
        "latency 25ms",
    )  # fmt: skip


def _ipvlan() -> str:
    return _namespaces() or _try(
        "unshare", "--net", "sh", "-c",
        "ip link add a0 type veth peer name b0 && ip link add c0 link a0 type ipvlan",
    )  # fmt: skip


def _sctp() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as err:
        return f"the kernel has no SCTP: {err.strerror}"
    return ""


def _rkt() -> str:
    if not os.access(rkt_binary(), os.X_OK):
        return f'"{rkt_binary()}" is missing (make env)'
    return ""


def _other_users() -> str:
    path = rkt_binary()
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return f'other users cannot reach "{path}"'
        path = os.path.dirname(path)
    return ""


def _systemd() -> str:
    """Say why tests/rkt_testkit/bed.py cannot boot here."""
    missing = _program("systemctl", "journalctl", "machinectl", "dbus-daemon", "setpriv", "nsenter")
    if missing():
        return missing()
    with open("/proc/mounts", encoding="utf-8", errors="replace") as file:
        trees = [line.split()[1] for line in file if line.split()[2] == "cgroup2"]
    if not trees:
        return "no cgroup version 2 tree is mounted"
    probe = f"{trees[0]}/rkt-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as err:
        return f"cannot make a cgroup: {err.strerror}"
    return _root() or _try("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net",
                           "--cgroup", "mount", "-t", "proc", "proc", "/proc")  # fmt: skip


def _vm() -> str:
    missing = _program("qemu-system-x86_64", "mmdebstrap", "mke2fs", "busybox")()
    if missing:
        return missing
    # Libraries of this interpreter go into a machine of Debian 12.
    return "" if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed"


PROBES: dict[str, Callable[[], str]] = {
    "root": _root,
    "namespaces": _namespaces,
    "overlay": _overlay,
    "userns": _userns,
    "oci-runtime": _oci_runtime,
    "crun": _program("crun"),
    "runc": _program("runc"),
    "catatonit": _program("catatonit"),
    "gpg": _program("gpg", "gpgconf", "gpgv"),
    "openssl": _program("openssl"),
    "strace": _program("strace"),
    "zsh": _program("zsh"),
    "fish": _program("fish"),
    "busybox": _busybox,
    "cni": _cni,
    "dnsname": _dnsname,
    "iptables": _program("iptables", "iptables-save"),
    "sctp": _sctp,
    "dnsmasq": _program("dnsmasq"),
    "bandwidth": _bandwidth,
    "ipvlan": _ipvlan,
    "registry": _program("docker-registry", "skopeo", "umoci"),
    "apt": _program("apt-get", "dpkg-deb"),
    "rkt": _rkt,
    "systemd": _systemd,
    "vm": _vm,
    "other-users": _other_users,
}
