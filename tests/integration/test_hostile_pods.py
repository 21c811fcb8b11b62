"""Pod manifests and images that are after the host: nothing outside of the pod may change."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])
SHELL: dict[str, Any] = {"exec": ["/bin/sh", "-c", "echo ran"], "user": "0", "group": "0"}


def fetch(rkt: RktContext) -> str:
    """Store an image; gives its ID."""
    aci = AciBuilder("example.com/app", exec=["/bin/sh", "-c", "echo ran"]).busybox()
    return rkt.rkt(OPEN, "fetch", aci.build(rkt.files).path).stdout.splitlines()[-1]


def run(
    rkt: RktContext, apps: list[dict[str, Any]], *, volumes: list[dict[str, Any]] | None = None,
    runtime: str = "", status: int | None = 254, **more: Any,
) -> Result:  # fmt: skip
    """Run a pod manifest."""
    manifest = {
        "acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps,
        "volumes": volumes or [], **more,
    }  # fmt: skip
    path = f"{rkt.files}/pod.json"
    with open(path, "w") as file:
        json.dump(manifest, file)
    env = {"RKT_OCI_RUNTIME": runtime} if runtime else {}
    return rkt.rkt(OPEN, "run", f"--pod-manifest={path}", status=status, env=env)


def lines(result: Result) -> list[str]:
    """Give what was said, without the warning about the switch."""
    return [line for line in result.stderr.splitlines() if "signature verification" not in line]


@RUNTIMES
@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/", 'cannot mount at "/": it is the root of the app'),
        ("/..", 'cannot mount at "/": it is the root of the app'),
        ("/a/../..", 'cannot mount at "/": it is the root of the app'),
        ("/proc", 'cannot mount at "/proc": /proc belongs to the pod'),
        ("/proc/self/attr", 'cannot mount at "/proc/self/attr": /proc belongs to the pod'),
        ("/tmp/../proc/1", 'cannot mount at "/proc/1": /proc belongs to the pod'),
        ("/proc/meminfo", 'cannot mount a directory at "/proc/meminfo": it is a file'),
        ("/dev", 'cannot mount at "/dev": the volume has no device "null"'),
        ("/dev/null", 'cannot mount at "/dev/null": the device belongs to the pod'),
        ("/dev/ptmx", 'cannot mount at "/dev/ptmx": the device belongs to the pod'),
        ("/dev/pts/x", 'cannot mount at "/dev/pts/x": /dev/pts belongs to the pod'),
        ("/dev/mqueue/x/y", 'cannot mount at "/dev/mqueue/x/y": /dev/mqueue belongs to the pod'),
        ("/sys/none", 'cannot mount at "/sys/none": the kernel has no such file or directory'),
    ],
)
def test_volumes_where_none_may_be(rkt: RktContext, runtime: str, target: str, text: str) -> None:
    os.mkdir(f"{rkt.files}/d")
    app = {"name": "app", "image": {"id": fetch(rkt)}, "mounts": [{"volume": "v", "path": target}]}
    volumes = [{"name": "v", "kind": "host", "source": f"{rkt.files}/d"}]
    result = run(rkt, [app], volumes=volumes, runtime=runtime)
    assert lines(result) == [f'rkt: app "app": {text}']
    assert os.listdir(f"{rkt.files}/d") == []


def test_two_mounts_at_one_place(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/app").busybox().directory("real").symlink("link", "real")
    image = rkt.rkt(OPEN, "fetch", builder.build(rkt.files).path).stdout.splitlines()[-1]
    mounts = [{"volume": "v", "path": "/real"}, {"volume": "v", "path": "/link"}]
    app = {"name": "app", "image": {"id": image}, "app": SHELL, "mounts": mounts}
    result = run(rkt, [app], volumes=[{"name": "v", "kind": "empty"}])
    assert lines(result) == ['rkt: app "app": two mounts at one place: "/real" and "/link"']


def test_a_mount_in_a_mount_makes_nothing_on_the_host(rkt: RktContext) -> None:
    os.makedirs(f"{rkt.files}/d/there")
    mounts = [{"volume": "v", "path": "/d"}, {"volume": "w", "path": "/d/missing"}]
    app = {"name": "app", "image": {"id": fetch(rkt)}, "mounts": mounts}
    volumes = [
        {"name": "v", "kind": "host", "source": f"{rkt.files}/d"}, {"name": "w", "kind": "empty"},
    ]  # fmt: skip
    result = run(rkt, [app], volumes=volumes)
    assert lines(result) == [
        (
            'rkt: app "app": cannot mount at "/d/missing": the volume at "/d" has no such file or '
            "directory"
        )
    ]
    assert os.listdir(f"{rkt.files}/d") == ["there"]
    mounts[1]["path"] = "/d/there"
    assert run(rkt, [app], volumes=volumes, status=0).stdout == "ran\n"
    with open(f"{rkt.files}/d/file", "w"):
        mounts[1]["path"] = "/d/file"
    text = 'cannot mount a directory at "/d/file": the volume at "/d" has a file there'
    assert lines(run(rkt, [app], volumes=volumes)) == [f'rkt: app "app": {text}']
    mounts[1]["path"] = "/d/there"
    volumes[1].update(kind="host", source=f"{rkt.files}/d/file")
    text = 'cannot mount a file at "/d/there": the volume at "/d" has a directory there'
    assert lines(run(rkt, [app], volumes=volumes)) == [f'rkt: app "app": {text}']


@RUNTIMES
def test_a_link_in_a_volume_leads_nowhere(rkt: RktContext, runtime: str) -> None:
    outside = f"{rkt.files}/outside"
    os.makedirs(f"{rkt.files}/d")
    os.mkdir(outside)
    os.symlink(outside, f"{rkt.files}/d/link")
    mounts = [{"volume": "v", "path": "/d"}, {"volume": "w", "path": "/d/link/x"}]
    app = {"name": "app", "image": {"id": fetch(rkt)}, "mounts": mounts}
    volumes = [
        {"name": "v", "kind": "host", "source": f"{rkt.files}/d"}, {"name": "w", "kind": "empty"},
    ]  # fmt: skip
    assert len(lines(run(rkt, [app], volumes=volumes, runtime=runtime))) == 1
    assert os.listdir(outside) == []
    assert os.listdir(f"{rkt.files}/d") == ["link"]


@RUNTIMES
def test_all_of_the_host_in_an_app(rkt: RktContext, runtime: str) -> None:
    """The tree that is mounted contains the place where it is mounted."""
    own = {**SHELL, "exec": ["/bin/sh", "-c", "ls -d /host/etc; touch /host/x"]}
    app = {"name": "app", "image": {"id": fetch(rkt)}, "app": own,
           "mounts": [{"volume": "v", "path": "/host"}]}  # fmt: skip
    volumes = [{"name": "v", "kind": "host", "source": "/", "readOnly": True}]
    result = run(rkt, [app], volumes=volumes, runtime=runtime, status=1)
    assert result.stdout == "/host/etc\n"
    assert "Read-only file system" in result.stderr
    assert not os.path.exists("/x")


def test_the_pods_of_rkt_in_an_app(rkt: RktContext) -> None:
    own = {**SHELL, "exec": ["/bin/sh", "-c", "ls /data/pods/run | wc -l; rm -r /data/pods/run"]}
    app = {"name": "app", "image": {"id": fetch(rkt)}, "app": own,
           "mounts": [{"volume": "v", "path": "/data"}]}  # fmt: skip
    volumes = [{"name": "v", "kind": "host", "source": rkt.data, "readOnly": True}]
    assert run(rkt, [app], volumes=volumes, status=1).stdout == "1\n"


def test_ten_thousand_apps(rkt: RktContext) -> None:
    image = {"id": fetch(rkt)}
    apps = [{"name": f"app{number}", "image": image} for number in range(10_000)]
    result = run(rkt, apps)
    assert "it has 10000 apps, a pod can have 1000" in result.stderr
    assert not os.path.exists(f"{rkt.data}/pods/run")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "../../x"}, "ACName"),
        ({"name": ".."}, "ACName"),
        ({"name": "a/b"}, "ACName"),
        ({"image": {"id": "sha512-../../../../etc/passwd"}}, "badly formatted hash string"),
        ({"mounts": [{"volume": "../v", "path": "/x"}]}, "ACName"),
        ({"mounts": [{"volume": "v", "path": "a\0b"}]}, "path"),
        ({"app": {**SHELL, "user": "../etc/passwd"}}, 'invalid user "../etc/passwd"'),
        ({"app": {**SHELL, "exec": ["/bin/true\0x"]}}, ""),
        ({"app": {**SHELL, "exec": ["../../../../../bin/no-such"]}}, "no-such"),
        ({"app": {**SHELL, "workingDirectory": "../.."}}, "must be an absolute path"),
        ({"app": {**SHELL, "environment": [{"name": "A=B", "value": "x"}]}},
         "environment variable does not have valid identifier"),
        ({"app": {**SHELL, "environment": [{"name": "A", "value": "x"}] * 2}},
         'duplicate environment variable of name "A"'),
        ({"app": {**SHELL, "eventHandlers": [{"name": "odd", "exec": ["/x"]}]}},
         'bad eventHandler "name": "odd"'),
        ({"app": {**SHELL, "isolators": [{"name": "os/linux/odd", "value": 1}]}},
         "invalid isolator"),
        ({"app": {**SHELL, "isolators": [
            {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_ODD"]}}]}},
         'unknown capability "CAP_ODD"'),
    ],
)  # fmt: skip
def test_odd_values(rkt: RktContext, change: dict[str, Any], text: str) -> None:
    app = {"name": "app", "image": {"id": fetch(rkt)}, **change}
    result = run(rkt, [app], volumes=[{"name": "v", "kind": "empty"}])
    assert len(lines(result)) == 1
    assert text in result.stderr
    assert "internal error" not in result.stderr


def test_volumes_with_odd_values(rkt: RktContext) -> None:
    app = {"name": "app", "image": {"id": fetch(rkt)}, "mounts": [{"volume": "v", "path": "/v"}]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kind": "host", "source": "relative"}, "must be absolute path"),
        ({"kind": "host"}, "source for host volume cannot be empty"),
        ({"kind": "empty", "mode": "99"}, "octal"),
        ({"kind": "empty", "uid": -1}, "uid for empty volume"),
        ({"kind": "odd"}, 'unrecognized volume kind: should be one of "empty", "host"'),
        ({"kind": "host", "source": f"{rkt.files}/../../../no/such"}, "no such file or directory"),
    ]
    for volume, text in cases:
        result = run(rkt, [app], volumes=[{"name": "v", **volume}])
        assert text in result.stderr, volume
        assert len(lines(result)) == 1


@RUNTIMES
@pytest.mark.parametrize("overlay", ["overlay", "copy"])
def test_roots_whose_links_lead_out(rkt: RktContext, runtime: str, overlay: str) -> None:
    """An image may call anything `/dev`; what is made there must be made inside."""
    outside = f"{rkt.files}/outside"
    os.makedirs(f"{outside}/etc")
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c", "cat /etc/hostname; echo ran"])
    builder.busybox()
    for name in ("dev", "proc", "sys", "etc", "run", "var"):
        builder.members = [m for m in builder.members if not (
            m[0].name == f"rootfs/{name}" or m[0].name.startswith(f"rootfs/{name}/")
        )]  # fmt: skip
        builder.symlink(name, f"{outside}/{name}" if name != "etc" else f"../../../..{outside}/etc")
    path = builder.build(rkt.files).path
    flags = ["--no-overlay"] if overlay == "copy" else []
    result = rkt.rkt(
        OPEN, "run", *flags, "--hostname=named", path, env={"RKT_OCI_RUNTIME": runtime}, status=None
    )
    assert (result.status, result.stdout) == (0, "named\nran\n"), result.stderr
    found = [name for _, dirs, files in os.walk(outside) for name in dirs + files]
    assert found == ["etc"]


@RUNTIMES
def test_users_come_from_the_image_alone(rkt: RktContext, runtime: str) -> None:
    builder = AciBuilder("example.com/app", exec=["/bin/id", "-u"]).busybox()
    builder.members = [m for m in builder.members if m[0].name not in (
        "rootfs/etc/passwd", "rootfs/etc/group"
    )]  # fmt: skip
    builder.symlink("etc/passwd", "/../../../../../../../../etc/passwd")
    builder.symlink("etc/group", "../../../../../../../etc/group")
    path = builder.build(rkt.files).path
    env = {"RKT_OCI_RUNTIME": runtime}
    result = rkt.rkt(OPEN, "run", path, "--user=daemon", status=254, env=env)
    assert 'invalid user "daemon"' in result.stderr
    result = rkt.rkt(OPEN, "run", path, "--user=/../../../../etc/shadow", status=254, env=env)
    assert "failed to configure user" in result.stderr


def test_files_that_never_end(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/app").busybox()
    builder.members = [m for m in builder.members if m[0].name != "rootfs/etc/passwd"]
    member = builder._member("etc/passwd", b"6", 0o644, (0, 0))  # a FIFO
    path = builder.add(member).build(rkt.files).path
    result = rkt.rkt(OPEN, "run", path, "--user=daemon", status=254, timeout=10)
    assert 'invalid user "daemon"' in result.stderr
