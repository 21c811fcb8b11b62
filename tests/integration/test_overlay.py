"""Hosts where overlays cannot be used, or not with shifted owners: pods get a copy instead."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
# Nobody can open a socket.
WITHOUT = "mount --bind $0/socket /proc/filesystems; "


def image(rkt: RktContext) -> str:
    """Build an image with a file that is not root's; gives its path."""
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    return builder.file("alices", "hers", owner=(1000, 1000)).build(rkt.files).path


def elsewhere(rkt: RktContext, prepare: str, *words: str, status: int = 0) -> Result:
    """Run rkt on a host that a script changed, which sees the test's directory as $0."""
    inside, rest = rkt.enter_argv(), rkt.argv(*words)[len(rkt.enter_argv()) :]
    script = f'{prepare} exec "$@"'
    result = rkt.run([*inside, "unshare", "--mount", "sh", "-c", script, rkt.files, *rest])
    assert result.status == status, result.stderr
    return result


def lines(result: Result) -> list[str]:
    """Give what was said, without the warning about the switch."""
    return [line for line in result.stderr.splitlines() if "signature verification" not in line]


def test_a_host_without_overlays(rkt: RktContext) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{rkt.files}/socket")
    path = image(rkt)
    result = elsewhere(rkt, WITHOUT, OPEN, "run", path, "--", "stat -c %u /alices; touch /x")
    assert result.stdout == "1000\n"
    assert lines(result) == [
        'rkt: disabling overlay support: "cannot open /proc/filesystems: No such device or address"'
    ]
    asked = elsewhere(rkt, WITHOUT, OPEN, "run", "--no-overlay", path, "--", "cat /alices")
    assert (asked.stdout, lines(asked)) == ("hers", [])
    uuid = rkt.rkt(OPEN, "prepare", path, "--", "echo ran").stdout.strip()
    refused = elsewhere(rkt, WITHOUT, "run-prepared", uuid, status=254)
    assert refused.stderr == (
        "rkt: unable to run prepared overlay-enabled pod: overlay not supported\n"
        "hint: prepare it again with --no-overlay\n"
    )
    assert rkt.rkt("run-prepared", uuid).stdout == "ran\n"


def test_the_data_directory_on_an_overlay(rkt: RktContext) -> None:
    prepare = (
        "mkdir $0/u $0/w; cd /; "
        f"mount -t overlay none -o lowerdir={rkt.data},upperdir=$0/u,workdir=$0/w {rkt.data}; "
    )
    result = elsewhere(rkt, prepare, OPEN, "run", image(rkt), "--", "cat /alices; touch /x")
    assert result.stdout == "hers"
    assert lines(result) == ['rkt: disabling overlay support: "unsupported filesystem: overlay"']


def test_directories_that_do_not_tell_what_is_in_them(rkt: RktContext) -> None:
    disk = f"{rkt.files}/disk"
    with open(disk, "wb") as file:
        file.truncate(96 << 20)
    made = rkt.run(["mkfs.ext4", "-q", "-F", "-O", "^filetype,^has_journal", disk])
    if made.status:
        pytest.skip(f"no ext4: {made.stderr}")
    if rkt.run(["losetup", "-f"]).status:
        pytest.skip("no loop devices")
    prepare = f"mount -o loop {disk} {rkt.data} || exit 3; mkdir -m 750 {rkt.data}/locks; "
    result = elsewhere(rkt, prepare, OPEN, "run", image(rkt), "--", "cat /alices; touch /x")
    assert result.stdout == "hers"
    assert lines(result) == [
        'rkt: disabling overlay support: "unsupported filesystem: missing d_type support"'
    ]


# Private users


@pytest.fixture
def unshiftable(rkt: RktContext) -> Iterator[RktContext]:
    """Put the data directory on a file system that the kernel does not shift."""
    mount = [*rkt.enter_argv(), "mount", "-t", "ramfs", "-o", "mode=755", "none", rkt.data]
    assert rkt.run(mount).status == 0
    yield rkt
    assert rkt.run([*rkt.enter_argv(), "umount", "-l", rkt.data]).status == 0


@needs("userns")
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_private_users_on_a_file_system_that_cannot_be_shifted(
    unshiftable: RktContext, runtime: str
) -> None:
    rkt = unshiftable
    script = (
        "cat /proc/self/uid_map; stat -c '%u %g' /alices /bin; echo mine >/made; stat -c %u /made; "
        "grep -c ' / ramfs ' /proc/mounts"
    )
    result = rkt.rkt(
        OPEN, "run", "--private-users", image(rkt), "--", script, env={"RKT_OCI_RUNTIME": runtime}
    )
    assert 'rkt: disabling overlay support: "the kernel cannot shift the owners of a mount"' in (
        lines(result)
    )
    inside, shift, count = result.stdout.splitlines()[0].split()
    assert (inside, count) == ("0", "65536")
    assert result.stdout.splitlines()[-4:] == ["1000 1000", "0 0", "0", "1"]
    top = f"{rkt.root()}{rkt.data}/pods/run"
    (uuid,) = os.listdir(top)
    root = f"{top}/{uuid}/stage1/rootfs/opt/stage2/app/rootfs"
    assert os.stat(f"{root}/alices").st_uid == int(shift) + 1000
    assert os.stat(f"{root}/made").st_uid == int(shift)
    trees = f"{rkt.root()}{rkt.data}/cas/tree"
    stored = [f"{trees}/{name}/rootfs/alices" for name in os.listdir(trees)]
    assert [os.stat(path).st_uid for path in stored if os.path.exists(path)] == [1000]
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")


@needs("userns")
def test_twenty_pods_at_once_have_twenty_ranges(rkt: RktContext) -> None:
    path = image(rkt)
    rkt.rkt(OPEN, "fetch", path)
    script = "cat /proc/self/uid_map"
    started = [
        rkt.spawn(OPEN, "run", "--private-users", path, "--", script) for _ in range(20)
    ]  # fmt: skip
    seen = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        seen.append(int(out.split()[1]))
    assert len({shift >> 16 for shift in seen}) == 20
    assert all(shift % 65536 == 0 and shift for shift in seen)
    recorded = []
    for uuid in os.listdir(f"{rkt.data}/pods/run"):
        with open(f"{rkt.data}/pods/run/{uuid}/private-users-prepared") as file:
            recorded.append(file.read())
    assert sorted(recorded) == sorted(f"{shift}:65536" for shift in seen)


def test_a_pod_without_apps_has_no_private_users(rkt: RktContext) -> None:
    result = rkt.rkt("app", "sandbox", "--private-users", status=254)
    assert result.stderr == "rkt: unknown flag: --private-users\n"
    manifest = f"{rkt.files}/pod.json"
    with open(manifest, "w") as file:
        json.dump({"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []}, file)
    result = rkt.rkt("run", "--private-users", f"--pod-manifest={manifest}", status=254)
    assert result.stderr == (
        f'rkt: pod manifest "{manifest}": pod must contain at least one application\n'
    )
