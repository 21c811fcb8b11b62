"""Pods with a user namespace of their own."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox", "userns")

OPEN = "--insecure-options=image"


def image(rkt: RktContext) -> str:
    """Build an image with files of several owners; gives its path."""
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    builder.file("alices", "hers", owner=(1000, 1000)).file("secret", "x", mode=0o600)
    builder.file("setuid", "", mode=0o4755, owner=(7, 8)).hardlink("linked", "alices")
    return builder.build(rkt.files).path


def sh(rkt: RktContext, script: str, *flags: str, status: int | None = 0,
       env: dict[str, str] | None = None) -> Result:  # fmt: skip
    """Run a script as the only app of a pod with private users."""
    words = ("--no-", "--net", "--volume", "--ipc", "--dns")
    pod = [flag for flag in flags if flag.startswith(words)]
    rest = [flag for flag in flags if flag not in pod]
    argv = ("run", "--private-users", *pod, image(rkt), *rest, "--", script)
    return rkt.rkt(OPEN, *argv, status=status, env=env)


def last_pod(rkt: RktContext) -> str:
    """Give the directory of the only pod."""
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    return f"{rkt.data}/pods/run/{uuid}"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("net", ["host", "none"])
@pytest.mark.parametrize("overlay", ["overlay", "copy"])
def test_root_is_nobody_on_the_host(rkt: RktContext, runtime: str, net: str, overlay: str) -> None:
    script = (
        "id -u; cat /proc/self/uid_map; stat -c '%n %u %g %a' / /etc /alices /setuid /secret; "
        "cat /secret; touch /made; chown 5:6 /made; echo changed >/alices; stat -c %u /made; "
        "mkdir /tmp/d; echo via >/dev/stdout; echo lost >/dev/console; hostname x 2>&1; "
        "ls /sys >/dev/null && echo sys; echo shm >/dev/shm/f"
    )
    flags = [f"--net={net}", *(["--no-overlay"] if overlay == "copy" else [])]
    result = sh(rkt, script, *flags, env={"RKT_OCI_RUNTIME": runtime}, status=None)
    lines = result.stdout.splitlines()
    pod = last_pod(rkt)
    with open(f"{pod}/private-users-prepared") as file:
        shift, count = (int(part) for part in file.read().split(":"))
    assert count == 65536
    assert shift >= 65536
    assert shift % 65536 == 0
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(shift), "65536"]
    assert lines[3:8] == [
        "/ 0 0 755", "/etc 0 0 755", "/alices 1000 1000 644", "/setuid 7 8 4755", "/secret 0 0 600",
    ]  # fmt: skip
    assert lines[8] == "x5"
    assert lines[9] == "via"
    assert "not permitted" in lines[10]
    assert lines[11] == "sys"
    made = [
        os.path.join(top, name)
        for top, _, names in os.walk(pod)
        for name in names
        if name == "made"
    ]
    owners = {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in made}
    assert owners == {(shift + 5, shift + 6)}
    null = os.stat("/dev/null")
    assert (null.st_uid, null.st_gid) == (0, 0)


def test_the_stored_image_is_untouched(rkt: RktContext) -> None:
    sh(rkt, "echo changed >/alices; chmod 777 /secret; rm /setuid")
    result = rkt.rkt(OPEN, "run", image(rkt), "--", "cat /alices; stat -c '%u %a' /secret /setuid")
    assert result.stdout == "hers0 600\n7 4755\n"


def test_ranges_never_overlap(rkt: RktContext) -> None:
    path = image(rkt)
    rkt.rkt(OPEN, "fetch", path)
    ranges, uuid = [], ""
    for _ in range(4):
        uuid = rkt.rkt(OPEN, "prepare", "--private-users", path, "--", "true").stdout.strip()
        with open(f"{rkt.pod_dir(uuid)}/private-users-prepared") as file:
            ranges.append(file.read())
    assert len(set(ranges)) == 4
    result = rkt.rkt("run-prepared", uuid)
    assert result.status == 0


def test_users_and_groups(rkt: RktContext) -> None:
    script = "id -u; id -g; id -G; cat /alices; echo own >/tmp/f; stat -c %u /tmp/f"
    result = sh(rkt, script, "--user=alice", "--group=staff", "--supplementary-gids=5,6")
    assert result.stdout.split("\n")[:3] == ["1000", "1001", "1001 5 6"]
    assert result.stdout.endswith("1000\n")
    assert sh(rkt, "id -u", "--user=/setuid", "--group=/setuid").stdout == "7\n"
    result = sh(rkt, "true", "--user=70000", status=254)
    assert "user 70000 is not one of the 65536 IDs that a pod with private users has" in (
        result.stderr
    )


def test_volumes(rkt: RktContext) -> None:
    os.mkdir(f"{rkt.files}/data")
    with open(f"{rkt.files}/data/file", "w") as file:
        file.write("host")
    os.chmod(f"{rkt.files}/data", 0o777)
    script = (
        "stat -c '%u %a' /empty; echo x >/empty/f && cat /empty/f; cat /host/file; "
        "stat -c %u /host/file; echo y >/host/made; stat -c %u /one"
    )
    result = sh(
        rkt, script, "--volume=e,kind=empty,mode=0700,uid=0", "--mount=volume=e,target=/empty",
        f"--volume=h,kind=host,source={rkt.files}/data", "--mount=volume=h,target=/host",
        f"--volume=o,kind=host,source={rkt.files}/data/file", "--mount=volume=o,target=/one",
    )  # fmt: skip
    # What root owns on the host belongs to nobody here.
    assert result.stdout.split() == ["0", "700", "x", "host65534", "65534"]
    with open(f"{last_pod(rkt)}/private-users-prepared") as file:
        shift = int(file.read().split(":")[0])
    assert os.stat(f"{rkt.files}/data/made").st_uid == shift


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("overlay", ["overlay", "copy"])
def test_several_apps(rkt: RktContext, runtime: str, overlay: str) -> None:
    path = image(rkt)
    pod = ["run", "--private-users", "--volume=v,kind=empty", "--mount=volume=v,target=/v"]
    pod += ["--no-overlay"] if overlay == "copy" else []
    script = "cat /etc/hostname >/dev/null; grep -c localhost /etc/hosts >/v/$AC_APP_NAME"
    apps: list[str] = []
    for name in ("one", "shm", "null"):
        apps += [path, f"--name={name}", "--", script, "---"]
    apps += [path, "--", "while [ $(ls /v | wc -l) -lt 3 ]; do sleep 0.1; done; id -u"]
    result = rkt.rkt(OPEN, *pod, *apps, env={"RKT_OCI_RUNTIME": runtime})
    assert result.stdout.endswith(": 0\n")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("mode", ["", ",readOnly=true", ",recursive=false"])
def test_what_is_mounted_below_a_volume(rkt: RktContext, runtime: str, mode: str) -> None:
    data = f"{rkt.files}/data"
    os.makedirs(f"{data}/sub")
    mount = (
        f"mount -t tmpfs -o mode=777 none {data}/sub; mkdir -m 777 '{data}/sub/a b'; "
        f"mount -t tmpfs -o mode=777 none '{data}/sub/a b'; mkdir '{data}/sub/a b/in'"
    )
    rkt.run([*rkt.enter_argv(), "sh", "-c", mount])
    try:
        result = sh(
            rkt, "cd /v/sub; echo *; cd 'a b' && echo *; touch made && stat -c %u made",
            f"--volume=v,kind=host,source={data}{mode}", "--mount=volume=v,target=/v",
            env={"RKT_OCI_RUNTIME": runtime}, status=None,
        )  # fmt: skip
    finally:
        rkt.run([*rkt.enter_argv(), "umount", f"{data}/sub/a b", f"{data}/sub"])
    seen = {"": "a b\nin\n0\n", ",readOnly=true": "a b\nin\n", ",recursive=false": "*\n"}[mode]
    assert result.stdout == seen
    assert ("Read-only file system" in result.stderr) == (mode == ",readOnly=true")
    assert os.listdir(f"{data}/sub") == []


@pytest.mark.parametrize("flags", [(), ("--dns=192.0.2.1", "--hosts-entry=192.0.2.2=two")])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_two_apps_share_the_pods_files(
    rkt: RktContext, runtime: str, flags: tuple[str, ...]
) -> None:
    path = image(rkt)
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    script = "until [ -e /dev/shm/done ]; do sleep 0.05; done; cat /etc/hosts"
    change = "stat -c %u /etc/hosts; echo 192.0.2.3 three >>/etc/hosts && touch /dev/shm/done"
    result = rkt.rkt(
        OPEN, "run", "--private-users", *flags, path, "--name=reader", "--", script, "---",
        path, "--name=writer", "--", change,
    )  # fmt: skip
    lines = re.sub(r"\[\d+\]", "", result.stdout).splitlines()
    assert {"writer: 0", "reader: 192.0.2.3 three"} <= set(lines)
    if flags:
        assert "reader: 192.0.2.2 two" in lines
        resolv = sh(rkt, "echo '# mine' >>/etc/resolv.conf; cat /etc/resolv.conf", flags[0])
        assert resolv.stdout.endswith("nameserver 192.0.2.1\n# mine\n")


def test_what_root_may_not_do(rkt: RktContext) -> None:
    script = (
        "mknod /n b 8 0 || echo mknod; echo x >/proc/sys/kernel/panic || echo sysctl; "
        "kill -0 1 || echo kill"
    )
    result = sh(rkt, script, "--caps-retain=CAP_MKNOD,CAP_SYS_ADMIN,CAP_DAC_OVERRIDE")
    assert result.stdout.split() == ["mknod", "sysctl", "kill"]


def test_a_network_of_its_own(rkt: RktContext) -> None:
    result = sh(rkt, "ip link set lo down && ip link set lo up && echo admin", "--net=none",
                "--caps-retain=CAP_NET_ADMIN")  # fmt: skip
    assert result.stdout == "admin\n"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_enter(rkt: RktContext, runtime: str) -> None:
    saved = f"{rkt.files}/uuid"
    process = rkt.spawn(
        OPEN, "run", "--private-users", f"--uuid-file-save={saved}", image(rkt), "--",
        "echo ready; sleep 1000", env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with open(saved) as file:
        uuid = file.read()
    result = rkt.rkt("enter", uuid, "/bin/sh", "-c", "id -u; cat /proc/self/uid_map; touch /x")
    shift = result.stdout.split()[2]
    with open(f"{rkt.pod_dir(uuid)}/private-users-prepared") as file:
        assert file.read().split(":")[0] == shift
    words = ("sh", "-c", "echo opened anew >/dev/stderr; cat /dev/stdin >/dev/stdout")
    result = rkt.rkt("enter", uuid, *words, input="x")
    assert (result.stdout, result.stderr) == ("x", "opened anew\n")
    rkt.rkt("stop", uuid)
    process.wait(20)


def test_a_host_without_message_queues(rkt: RktContext) -> None:
    rkt.run([*rkt.enter_argv(), "umount", "-l", "/dev/mqueue"])
    assert sh(rkt, "ls -d /dev/shm", "--ipc=parent").stdout == "/dev/shm\n"


def test_a_killed_supervisor_leaves_nothing(rkt: RktContext) -> None:
    process = rkt.spawn(OPEN, "run", "--private-users", image(rkt), "--", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")


def test_a_stream_keeps_its_owner(rkt: RktContext) -> None:
    path = f"{rkt.files}/input"
    with open(path, "w") as file:
        file.write("read\n")
    for flags, user in ((["--private-users"], "0"), ([], "1000"), (["--private-users"], "1000")):
        with open(path) as file:
            argv = rkt.argv(OPEN, "run", "--interactive", *flags, image(rkt), f"--user={user}",
                            "--", "cat")  # fmt: skip
            done = subprocess.run(argv, stdin=file, capture_output=True, check=True, env=rkt.env)
        assert done.stdout == b"read\n"
        assert os.stat(path).st_uid == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
