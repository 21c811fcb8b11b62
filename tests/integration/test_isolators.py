"""Isolators: what an app is limited to, seen from inside; and what the host cannot enforce."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
V1 = "/sys/fs/cgroup"
DEFAULT_CAPS = 0xA80425FB


def controller(name: str) -> bool:
    """Say whether a version 1 hierarchy of that controller is there."""
    return os.path.isdir(f"{V1}/{name}")


def build(rkt: RktContext, isolators: list[tuple[str, Any]] | None = None, **app: Any) -> str:
    """Build an image with isolators; gives its path."""
    section = {"isolators": [{"name": n, "value": v} for n, v in isolators or []], **app}
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"], app=section).busybox()
    for applet in ("dd", "taskset", "time"):
        builder.symlink(f"bin/{applet}", "busybox")
    return builder.build(rkt.files).path


def sh(
    rkt: RktContext, script: str, *flags: str, isolators: list[tuple[str, Any]] | None = None,
    insecure: str = "image", pod: tuple[str, ...] = (), status: int | None = 0,
) -> Result:  # fmt: skip
    """Run a shell script in an app with isolators of its image or of flags."""
    path = build(rkt, isolators)
    words = ("run", *pod, path, *flags, "--", script)
    return rkt.rkt(f"--insecure-options={insecure}", *words, status=status)


def in_pod(
    rkt: RktContext, scripts: dict[str, tuple[str, list[tuple[str, Any]]]],
    isolators: list[tuple[str, Any]], *flags: str,
) -> str:  # fmt: skip
    """Write a pod manifest whose apps run scripts; gives the UUID of the prepared pod.

    The apps have a directory /v together.
    """
    key = rkt.rkt(OPEN, "fetch", build(rkt)).stdout.splitlines()[-1]
    apps = [
        {"name": name, "image": {"id": key}, "app": {
            "exec": ["/bin/sh", "-c", script], "user": "0", "group": "0",
            "isolators": [{"name": n, "value": v} for n, v in own],
        }, "mounts": [{"volume": "v", "path": "/v"}]}
        for name, (script, own) in scripts.items()
    ]  # fmt: skip
    manifest = {
        "acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps,
        "isolators": [{"name": n, "value": v} for n, v in isolators],
        "volumes": [{"name": "v", "kind": "empty"}],
    }  # fmt: skip
    path = f"{rkt.files}/pod.json"
    with open(path, "w") as file:
        json.dump(manifest, file)
    return rkt.rkt(OPEN, "prepare", f"--pod-manifest={path}", *flags).stdout.strip()


# Memory and processor


@pytest.mark.skipif(not controller("memory"), reason="needs the memory controller")
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_memory_beyond_the_limit_kills(rkt: RktContext, runtime: str) -> None:
    path = build(rkt)
    env = {"RKT_OCI_RUNTIME": runtime}
    take = "x=$(head -c {} /dev/zero | tr '\\0' x); echo ${{#x}}"
    less = rkt.rkt(
        OPEN, "run", path, "--memory=40M", "--", take.format(4_000_000), env=env
    )  # fmt: skip
    assert less.stdout == "4000000\n"
    more = rkt.rkt(
        OPEN, "run", path, "--memory=40M", "--", take.format(60_000_000), env=env, status=None
    )
    assert more.status not in (0, 254)
    assert more.stdout != "60000000\n"


@pytest.mark.skipif(not controller("cpu"), reason="needs the cpu controller")
def test_the_processor_is_rationed(rkt: RktContext) -> None:
    script = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done"
    path = build(rkt)

    run = f"time -f '%e %U %S' sh -c '{script}'"
    text = rkt.rkt(OPEN, "run", path, "--cpu=100m", "--", run).stderr.splitlines()[-1]
    elapsed, user, system = (float(word) for word in text.split())
    # Processor time does not grow when other programs want the processor too.
    assert elapsed > 3 * (user + system)


@pytest.mark.skipif(not controller("cpu"), reason="needs the cpu controller")
def test_shares_decide_between_apps(rkt: RktContext) -> None:
    # On one processor, so that they have to share it.  Each reads what it got of it: nothing
    # depends on how long that takes.
    one = f"taskset -p {hex(1 << min(os.sched_getaffinity(0)))} $$ >/dev/null; "
    used = "used() { read -r line </proc/$$/stat; set -- $line; got=$((${14} + ${15})); }; used; "
    big = (
        "until [ -e /v/runs ]; do :; done; begun=$got; used; begun=$got; "
        "while [ $((got - begun)) -lt 60 ]; do used; done; touch /v/over; echo $((got - begun))"
    )
    small = (
        "used; begun=$got; touch /v/runs; while ! [ -e /v/over ]; do used; done; "
        "echo $((got - begun))"
    )
    uuid = in_pod(
        rkt,
        {"big": (one + used + big, [("os/linux/cpu-shares", 4096)]),
         "small": (one + used + small, [("os/linux/cpu-shares", 64)])},
        [],
    )  # fmt: skip
    out = rkt.rkt("run-prepared", uuid).stdout
    seen = {line.split("[")[0]: int(line.rsplit(" ", 1)[1]) for line in out.splitlines()}
    assert seen["big"] > 3 * seen["small"]


@pytest.mark.skipif(not controller("memory"), reason="needs the memory controller")
def test_a_pods_isolators_bound_its_apps(rkt: RktContext) -> None:
    uuid = in_pod(
        rkt,
        {"one": ("sleep 1000", [("resource/memory", {"limit": "1G"}),
                                ("resource/cpu", {"limit": "2"})]),
         "two": ("sleep 1000", [])},
        [("resource/memory", {"limit": "64Mi"}), ("resource/cpu", {"limit": "500m"}),
         ("resource/block-iops", {"default": True, "limit": "100"})],
    )  # fmt: skip
    process = rkt.spawn("run-prepared", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "running")
    rkt.wait_for(lambda: os.path.isdir(f"{V1}/memory/rkt-{uuid}/two"))
    rkt.wait_for(lambda: "sleep" in rkt.rkt("enter", "--app=two", uuid, "ps", status=None).stdout)

    def read(path: str) -> str:
        with open(f"{V1}/{path}") as file:
            return file.read().strip()

    assert read(f"memory/rkt-{uuid}/memory.limit_in_bytes") == str(64 << 20)
    assert read(f"memory/rkt-{uuid}/one/memory.limit_in_bytes") == str(64 << 20)
    assert read(f"cpu/rkt-{uuid}/cpu.cfs_quota_us") == "50000"
    assert read(f"cpu/rkt-{uuid}/one/cpu.cfs_quota_us") == "50000"
    assert " 100" in read(f"blkio/rkt-{uuid}/blkio.throttle.write_iops_device")
    rkt.rkt("stop", uuid)
    process.wait(15)


@pytest.mark.skipif(not controller("memory"), reason="needs the memory controller")
def test_apps_together_cannot_take_more_than_their_pod(rkt: RktContext) -> None:
    # Each keeps what it has until all have theirs, which they never will.
    take = (
        "x=$(head -c 24000000 /dev/zero | tr '\\0' x); touch /v/$AC_APP_NAME; "
        "until [ -e /v/one -a -e /v/two -a -e /v/three ]; do sleep 0.1; done; echo ${#x}"
    )
    scripts: dict[str, tuple[str, list[tuple[str, Any]]]] = {
        name: (take, []) for name in ("one", "two", "three")
    }
    uuid = in_pod(rkt, scripts, [("resource/memory", {"limit": "60M"})])
    result = rkt.rkt("run-prepared", uuid, status=None)
    assert result.status == 137
    assert result.stdout.count("24000000") < 3


# Block devices and the network


@pytest.mark.skipif(not controller("blkio"), reason="needs the blkio controller")
def test_block_bandwidth(rkt: RktContext) -> None:
    # How long it takes at least: a slow or busy disk only makes it longer.
    limit = {"default": True, "limit": "2M"}
    script = (
        "time -f 'write %e' dd if=/dev/zero of=/f bs=64k count=32 oflag=direct; "
        "time -f 'read %e' dd if=/f of=/dev/null bs=64k iflag=direct"
    )
    result = sh(rkt, script, isolators=[("resource/block-bandwidth", limit)])
    took = dict(re.findall(r"(write|read) ([0-9.]+)", result.stderr))
    assert {name for name, seconds in took.items() if float(seconds) > 0.8} == {"write", "read"}
    free = sh(rkt, script)
    assert sorted(re.findall(r"^(write|read) ", free.stderr, re.MULTILINE)) == ["read", "write"]


def is_listening(rkt: RktContext, port: int) -> bool:
    """Say whether somebody in the test's network namespace takes connections at a port."""
    lines = []
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{rkt.holder}/net/{name}") as file:
            lines += [line.split() for line in file]
    return any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines[1:])


@needs("cni", "iptables")
def test_network_bandwidth_both_ways_but_not_to_itself(rkt: RktContext) -> None:
    os.mkdir(f"{rkt.files}/data")
    with open(f"{rkt.files}/data/in", "wb") as file:
        file.write(bytes(400_000))
    script = (
        "gw=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'); "
        "time -f 'in %e' wget -q -O - http://$gw:9100/in | wc -c; "
        "time -f 'out %e' nc $gw 9101 </data/in >/dev/null; "
        # At 200 kB/s this would take 40 seconds.
        "head -c 8000000 /dev/zero >/more; nc -l -p 9002 -e cat & "
        "until time -f 'local %e' nc 127.0.0.1 9002 </more >/back; do sleep 0.1; done; wc -c </back"
    )
    limit = {"default": True, "limit": "200k"}
    path = build(rkt, [("resource/network-bandwidth", limit)])
    servers = [
        ["python3", "-m", "http.server", "9100", "--directory", f"{rkt.files}/data"],
        ["busybox", "nc", "-l", "-p", "9101", "-e", "cat"],
    ]
    started = [
        subprocess.Popen([*rkt.enter_argv(), *argv], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for argv in servers
    ]  # fmt: skip
    try:
        for port in (9100, 9101):
            rkt.wait_for(lambda port=port: is_listening(rkt, port))  # type: ignore[misc]
        result = rkt.rkt(
            OPEN, "run", "--net=default", f"--volume=data,kind=host,source={rkt.files}/data", path,
            "--mount=volume=data,target=/data", "--", script,
        )  # fmt: skip
    finally:
        for process in started:
            process.terminate()
            process.wait()
    took = dict(re.findall(r"(in|out|local) ([0-9.]+)", result.stderr))
    assert float(took["in"]) > 1.5
    assert float(took["out"]) > 1.5
    assert float(took["local"]) < 20
    assert result.stdout.split() == ["400000", "8000000"]


def test_what_cannot_be_enforced_is_told_in_one_line(rkt: RktContext) -> None:
    limit = {"default": True, "limit": "1M"}
    context = {"user": "u", "role": "r", "type": "t", "level": "s0"}
    isolators = [
        ("resource/network-bandwidth", limit),
        ("os/linux/selinux-context", context),
    ]
    result = sh(rkt, "true", isolators=isolators)
    (line,) = [x for x in result.stderr.splitlines() if "enforced" in x]
    assert line.startswith("rkt: warning: isolators that cannot be enforced are ignored: ")
    assert "resource/network-bandwidth (it has the network of the host)" in line
    if not os.path.exists("/sys/fs/selinux/enforce"):
        assert 'app "app": os/linux/selinux-context (SELinux is not enabled)' in line


def test_what_is_not_for_pods_or_not_for_apps_is_told(rkt: RktContext) -> None:
    isolators: list[tuple[str, Any]] = [
        ("os/linux/seccomp-remove-set", {"set": ["mkdir"], "errno": "EPERM"}),
        ("os/linux/no-new-privileges", True),
        ("example.com/unknown", 1),
    ]
    own = [("os/unix/sysctl", {"kernel.msgmax": "9999"})]
    uuid = in_pod(rkt, {"app": ("mkdir /d && echo made", own)}, isolators)
    result = rkt.rkt("run-prepared", uuid)
    assert result.stdout == "made\n"
    assert result.stderr == (
        "rkt: warning: isolators that cannot be enforced are ignored: "
        "pod: os/linux/seccomp-remove-set (it is not for pods); "
        "pod: os/linux/no-new-privileges (it is not for pods); "
        "pod: example.com/unknown (it is not for pods); "
        'app "app": os/unix/sysctl (it is not for apps)\n'
    )


@pytest.mark.skipif(not controller("cpu"), reason="needs the cpu controller")
def test_a_limit_beyond_what_the_kernel_can_count_is_none(rkt: RktContext) -> None:
    script = "cat /sys/fs/cgroup/blkio/blkio.throttle.read_iops_device; echo ran"
    huge = {"default": True, "limit": "4294967297"}
    result = sh(rkt, script, "--cpu=1e18", isolators=[("resource/block-iops", huge)],
                insecure="image,paths")  # fmt: skip
    assert result.stdout == "ran\n"
    uuid = in_pod(rkt, {"app": ("echo ran", [])}, [("resource/cpu", {"limit": "1e10"})])
    assert rkt.rkt("run-prepared", uuid).stdout == "ran\n"


def test_a_missing_controller_is_told(rkt: RktContext) -> None:
    """Seen with the hierarchies of memory and cpu taken away from rkt."""
    if not controller("memory"):
        pytest.skip("needs version 1 hierarchies")
    path = build(rkt)
    saved = f"{rkt.files}/uuid"
    hidden = f'umount {V1}/memory; umount {V1}/cpu || umount {V1}/cpu,cpuacct; "$@"'
    # The runtime makes no directories where they were: nobody would see, or remove, them.
    hidden += f'; find -H {V1}/memory {V1}/cpu -name "rkt-$(cat {saved})"'
    argv = rkt.argv(
        OPEN, "run", f"--uuid-file-save={saved}", path, "--memory=32M", "--cpu-shares=9", "--",
        "echo ran",
    )  # fmt: skip
    words = [*argv[: len(rkt.enter_argv())], "unshare", "-m", "sh", "-c", hidden, "sh"]
    result = rkt.run([*words, *argv[len(rkt.enter_argv()) :]])
    assert (
        "rkt: warning: resource/memory, os/linux/cpu-shares isolator set but support disabled in "
        "the kernel, skipping\n"
    ) in result.stderr
    assert result.stdout == "ran\n"


def test_kernel_parameters_of_the_pod(rkt: RktContext) -> None:
    script = "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward"
    with open("/proc/sys/kernel/msgmax") as file:
        host = file.read()
    values = {"kernel.msgmax": "9999", "net.ipv4.ip_forward": "1", "kernel.panic": "7"}
    uuid = in_pod(rkt, {"app": (script, [])}, [("os/unix/sysctl", values)])
    result = rkt.rkt("run-prepared", "--net=none", uuid)
    assert result.stdout.split() == ["9999", "1"]
    assert "os/unix/sysctl kernel.panic (it is not of a namespace of the pod)" in result.stderr
    with open("/proc/sys/kernel/msgmax") as file:
        assert file.read() == host


# Capabilities, privileges, scores


def caps(result: Result) -> dict[str, int]:
    """Read the sets of /proc/self/status."""
    pairs = re.findall(r"^Cap(\w+):\s+([0-9a-f]+)$", result.stdout, re.MULTILINE)
    return {name: int(value, 16) for name, value in pairs}


STATUS = "cat /proc/self/status"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), DEFAULT_CAPS),
        (("--caps-retain=CAP_NET_BIND_SERVICE",), 1 << 10),
        (("--caps-remove=CAP_MKNOD,CAP_SYS_ADMIN",), DEFAULT_CAPS & ~(1 << 27)),
    ],
)
def test_capabilities(rkt: RktContext, flags: tuple[str, ...], expected: int) -> None:
    found = caps(sh(rkt, STATUS, *flags))
    assert found["Bnd"] == found["Eff"] == found["Prm"] == expected
    other = caps(sh(rkt, STATUS, *flags, "--user=alice"))
    assert other["Bnd"] == expected
    assert other["Eff"] == other["Prm"] == other["Amb"] == 0


def test_capabilities_do_what_they_say(rkt: RktContext) -> None:
    sh(rkt, "mknod /n c 1 3 && chown 7 /n")
    result = sh(rkt, "mknod /n c 1 3", "--caps-remove=CAP_MKNOD", status=None)
    assert "Operation not permitted" in result.stderr
    isolator = ("os/linux/capabilities-retain-set", {"set": ["CAP_CHOWN"]})
    result = sh(rkt, "touch /f; chown 7 /f && stat -c %u /f; chroot /", isolators=[isolator],
                status=None)  # fmt: skip
    assert result.stdout == "7\n"


def test_a_set_that_removes_everything_but_nothing(rkt: RktContext) -> None:
    both = [
        ("os/linux/capabilities-retain-set", {"set": ["CAP_CHOWN"]}),
        ("os/linux/capabilities-remove-set", {"set": ["CAP_CHOWN"]}),
    ]
    text = "capabilities-retain-set and capabilities-remove-set exclude each other"
    assert text in sh(rkt, "true", isolators=both, status=254).stderr
    assert text in rkt.rkt(OPEN, "prepare", build(rkt, both), status=254).stderr


def test_no_new_privileges(rkt: RktContext) -> None:
    isolator = [("os/linux/no-new-privileges", True)]
    grep = "grep NoNewPrivs /proc/self/status"
    # An app that is not root gets it with every filter of system calls; without any, if it asks.
    assert sh(rkt, grep).stdout.split() == ["NoNewPrivs:", "0"]
    assert sh(rkt, grep, isolators=isolator).stdout.split() == ["NoNewPrivs:", "1"]
    assert sh(rkt, grep, "--user=alice").stdout.split() == ["NoNewPrivs:", "1"]
    free = sh(rkt, grep, "--user=alice", insecure="image,seccomp")
    assert free.stdout.split() == ["NoNewPrivs:", "0"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_oom_score_adj(rkt: RktContext, runtime: str) -> None:
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    assert sh(rkt, "cat /proc/self/oom_score_adj", "--oom-score-adj=321").stdout == "321\n"
    uuid = sh(rkt, "sleep 1000", "--oom-score-adj=321", pod=("--detach",)).stdout.strip()
    entered = rkt.rkt("enter", uuid, "cat", "/proc/self/oom_score_adj")
    assert entered.stdout == "321\n"
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


# System calls


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_seccomp(rkt: RktContext, runtime: str) -> None:
    path = build(rkt)
    env = {"RKT_OCI_RUNTIME": runtime}

    def run(value: str, script: str) -> Result:
        words = ("run", path, f"--seccomp={value}", "--", script)
        return rkt.rkt(OPEN, *words, env=env, status=None)

    for _ in range(2):  # compiled, then kept (rkt.stage1.host.filters)
        with_errno = run("mode=remove,errno=EXDEV,mkdir,mkdirat", "mkdir /x || echo refused")
        assert with_errno.stdout == "refused\n"
        assert "Invalid cross-device link" in with_errno.stderr
    killed = run("mode=remove,mkdir,mkdirat", "mkdir /x; echo $?")
    assert killed.stdout == "159\n"  # 128 and SIGSYS
    kept = run("mode=retain,@rkt/default-whitelist", "echo alive; mkdir /x && echo made")
    assert kept.stdout == "alive\nmade\n"
    group = run("mode=remove,errno=EPERM,@systemd/mount,@rkt/default-blacklist",
                "echo alive; umount /proc")  # fmt: skip
    assert group.stdout == "alive\n"
    without = run("mode=retain,@rkt/default-whitelist", "umount /proc; echo $?")
    assert without.stdout == "159\n"
    everything = run("mode=retain,@appc.io/all", "grep Seccomp: /proc/self/status")
    assert everything.stdout.split() == ["Seccomp:", "0"]
    empty = run("mode=remove,@appc.io/empty", "grep Seccomp: /proc/self/status")
    assert empty.stdout.split() == ["Seccomp:", "2"]
    docker = run("mode=retain,errno=EACCES,@docker/default-whitelist", "umount /proc; echo $?")
    assert docker.stdout == "1\n"
    assert "Permission denied" in docker.stderr


_KEYRING = """
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    long found = syscall(SYS_keyctl, 0L, -4L, 0L); /* KEYCTL_GET_KEYRING_ID of the user's */
    puts(found < 0 ? "refused" : "found");
    return 0;
}
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_keys_of_the_host_are_not_for_apps(rkt: RktContext, runtime: str) -> None:
    """The keyring of user 0 is that of the host's root, whatever namespaces an app is in."""
    program = f"{rkt.files}/keyring"
    subprocess.run(["musl-gcc", "-static", "-x", "c", "-", "-o", program], input=_KEYRING,
                   text=True, check=True)  # fmt: skip
    with open(program, "rb") as file:
        image = AciBuilder("example.com/keys", exec=["/keyring"]).busybox()
        path = image.file("keyring", file.read(), mode=0o755).build(rkt.files).path
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    assert rkt.rkt(OPEN, "run", path).stdout == "refused\n"
    everything = rkt.rkt("--insecure-options=image,seccomp", "run", path)
    assert everything.stdout == "found\n"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_filter_that_kills_the_runtime_before_the_app(rkt: RktContext, runtime: str) -> None:
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    result = sh(rkt, "true", "--seccomp=mode=remove,close", status=254)
    (line,) = [x for x in result.stderr.splitlines() if x.startswith('rkt: app "app": ')]
    assert line.endswith(": its seccomp filter may forbid a system call that the runtime makes")


def test_too_many_filters(rkt: RktContext) -> None:
    key = rkt.rkt(OPEN, "fetch", build(rkt)).stdout.splitlines()[-1]
    isolators = [
        {"name": "os/linux/seccomp-retain-set", "value": {"set": ["read"]}},
        {"name": "os/linux/seccomp-remove-set", "value": {"set": ["write"]}},
    ]
    app = {"exec": ["/bin/true"], "user": "0", "group": "0", "isolators": isolators}
    manifest = {"acKind": "PodManifest", "acVersion": "0.8.11",
                "apps": [{"name": "a", "image": {"id": key}, "app": app}]}  # fmt: skip
    with open(f"{rkt.files}/pod.json", "w") as file:
        json.dump(manifest, file)
    result = rkt.rkt(OPEN, "run", f"--pod-manifest={rkt.files}/pod.json", status=254)
    assert "isolators set contains incompatible types" in result.stderr


# The switches that make a pod less isolated


@pytest.mark.parametrize("option", ["capabilities", "all-run", "all"])
def test_without_limits_on_capabilities(rkt: RktContext, option: str) -> None:
    with open("/proc/self/status") as file:
        own = int(re.findall(r"^CapBnd:\s+(\w+)", file.read(), re.MULTILINE)[0], 16)
    result = sh(rkt, STATUS, insecure=f"image,{option}" if option != "all" else "all")
    assert caps(result)["Bnd"] == own
    seccomp = re.findall(r"^Seccomp:\s+(\d)", result.stdout, re.MULTILINE)
    assert seccomp == (["2"] if option == "capabilities" else ["0"])


@pytest.mark.parametrize("option", ["none", "paths", "all-run"])
def test_protected_paths(rkt: RktContext, option: str) -> None:
    script = (
        "ls /sys/module | wc -l; grep -c ' /proc/kallsyms ' /proc/self/mountinfo; "
        "grep ' /sys sysfs ' /proc/self/mounts | cut -d' ' -f4 | cut -c1-2; "
        "mknod /dev/tape b 250 99; cat /dev/tape"
    )
    result = sh(rkt, script, insecure=f"image,{option}" if option != "none" else "image",
                status=None)  # fmt: skip
    lines = result.stdout.split()
    if option == "none":
        assert lines == ["0", "1", "ro"]
    else:
        assert int(lines[0]) > 5
        assert lines[1:] == ["0", "rw"]
    # There is no such device: whether it may be opened shows in why it cannot be.
    assert ("Operation not permitted" in result.stderr) == (option == "none")
    assert ("No such device" in result.stderr) == (option != "none")


def test_without_a_filter_of_system_calls(rkt: RktContext) -> None:
    result = sh(rkt, "grep Seccomp: /proc/self/status", "--seccomp=mode=retain,read",
                insecure="image,seccomp")  # fmt: skip
    assert result.stdout.split() == ["Seccomp:", "0"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_both_runtimes_confine_alike(rkt: RktContext, runtime: str) -> None:
    result = rkt.rkt(
        OPEN, "run", build(rkt), "--memory=64M", "--cpu=1", "--", STATUS,
        env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    assert caps(result)["Bnd"] == DEFAULT_CAPS
