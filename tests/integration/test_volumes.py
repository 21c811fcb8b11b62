"""Volumes: what of the host, or of the pod, an app sees where, and who may write."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.oci import Image, Layer, busybox
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])


def build(rkt: RktContext, name: str = "example.com/app", **app: object) -> str:
    """Build an image whose command is a shell; gives its path."""
    builder = AciBuilder(name, exec=["/bin/sh", "-c"], app=app).busybox()
    return builder.build(rkt.files).path


def sh(
    rkt: RktContext, volume: str, script: str, *, target: str = "/data", runtime: str = "",
    status: int | None = 0,
) -> Result:  # fmt: skip
    """Run a script in an app with a volume `v` at a path."""
    env = {"RKT_OCI_RUNTIME": runtime} if runtime else {}
    words = (f"--volume=v,{volume}", build(rkt), f"--mount=volume=v,target={target}")
    return rkt.rkt(OPEN, "run", *words, "--", script, status=status, env=env)


@pytest.fixture
def data(rkt: RktContext) -> str:
    """Make a directory on the host with a file, and another file system mounted below it."""
    path = f"{rkt.files}/data"
    os.makedirs(f"{path}/sub")
    with open(f"{path}/file", "w") as file:
        file.write("host")
    rkt.run([*rkt.enter_argv(), "mount", "-t", "tmpfs", "none", f"{path}/sub"])
    rkt.run([*rkt.enter_argv(), "sh", "-c", f"echo below >{path}/sub/f"])
    return path


@pytest.fixture(autouse=True)
def unmounted(rkt: RktContext) -> object:
    """Take the mount of `data` away again."""
    yield
    rkt.run([*rkt.enter_argv(), "sh", "-c", f"umount {rkt.files}/data/sub 2>/dev/null"])


@RUNTIMES
def test_a_directory_of_the_host_with_all_below(rkt: RktContext, data: str, runtime: str) -> None:
    script = "cat /data/file /data/sub/f; echo new >/data/made"
    result = sh(rkt, f"kind=host,source={data}", script, runtime=runtime)
    assert result.stdout == "hostbelow\n"
    with open(f"{data}/made") as file:
        assert file.read() == "new\n"


@RUNTIMES
def test_read_only_means_all_that_is_below(rkt: RktContext, data: str, runtime: str) -> None:
    script = "touch /data/x; touch /data/sub/x; cat /data/sub/f"
    result = sh(rkt, f"kind=host,source={data},readOnly=true", script, runtime=runtime)
    assert result.stdout == "below\n"
    assert result.stderr.count("Read-only file system") == 2


@RUNTIMES
def test_not_recursive(rkt: RktContext, data: str, runtime: str) -> None:
    volume = f"kind=host,source={data},recursive=false"
    assert sh(rkt, volume, "cat /data/file; ls /data/sub", runtime=runtime).stdout == "host"


@RUNTIMES
def test_a_single_file(rkt: RktContext, data: str, runtime: str) -> None:
    script = "cat /deep/er/file; echo x >/deep/er/file"
    result = sh(rkt, f"kind=host,source={data}/file,readOnly=true", script,
                target="/deep/er/file", runtime=runtime, status=1)  # fmt: skip
    assert result.stdout == "host"
    assert "Read-only file system" in result.stderr


@RUNTIMES
def test_a_device(rkt: RktContext, runtime: str) -> None:
    script = "head -c 3 /dev/zeros | wc -c; echo x >/dev/zeros && echo written"
    result = sh(rkt, "kind=host,source=/dev/zero", script, target="/dev/zeros", runtime=runtime)
    assert result.stdout == "3\nwritten\n"


@RUNTIMES
def test_a_device_only_to_read(rkt: RktContext, runtime: str) -> None:
    if not os.path.exists("/dev/loop0"):
        pytest.skip("needs /dev/loop0")
    volume = "kind=host,source=/dev/loop0"
    script = "head -c 1 /disk >/dev/null && echo read; (: >>/disk) || echo refused"
    result = sh(rkt, f"{volume},readOnly=true", script, target="/disk", runtime=runtime)
    assert result.stdout == "read\nrefused\n"


@RUNTIMES
def test_a_device_in_place_of_the_pods_own(rkt: RktContext, runtime: str) -> None:
    source = "kind=host,source=/dev/urandom"
    result = sh(rkt, source, "stat -c %t:%T /dev/random", target="/dev/random", runtime=runtime)
    assert result.stdout == "1:9\n"
    words = ("--private-users", f"--volume=v,{source}", build(rkt))
    result = rkt.rkt(OPEN, "run", *words, "--mount=volume=v,target=/dev/random", "--", "id",
                     status=254, env={"RKT_OCI_RUNTIME": runtime})  # fmt: skip
    assert 'cannot mount at "/dev/random": the device belongs to the pod' in result.stderr


@RUNTIMES
def test_no_file_becomes_the_apps_null(rkt: RktContext, data: str, runtime: str) -> None:
    """Runtimes would take it for where the app's output is to go."""
    source = f"kind=host,source={data}/file"
    result = sh(rkt, source, "id", target="/dev/null", runtime=runtime, status=254)
    assert 'cannot mount at "/dev/null": the device belongs to the pod' in result.stderr
    with open(f"{data}/file") as file:
        assert file.read() == "host"


@RUNTIMES
@pytest.mark.parametrize("source", ["/dev", "made"])
def test_all_devices_come_from_a_volume(rkt: RktContext, source: str, runtime: str) -> None:
    if source == "made":
        source = f"{rkt.files}/dev"
        os.mkdir(source)
        os.mknod(f"{source}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    result = sh(rkt, f"kind=host,source={source}", "stat -c %t:%T /dev/null; id -u >/dev/null",
                target="/dev", runtime=runtime)  # fmt: skip
    assert result.stdout == "1:3\n"


@RUNTIMES
@pytest.mark.parametrize("target", ["/sys/kernel", "/sys/fs"])
def test_what_rkt_protects_or_hides_is_the_users_where_he_mounts(
    rkt: RktContext, data: str, target: str, runtime: str
) -> None:
    script = f"cat {target}/file; echo new >{target}/made"
    result = sh(rkt, f"kind=host,source={data}", script, target=target, runtime=runtime)
    assert result.stdout == "host"
    assert os.path.exists(f"{data}/made")


@RUNTIMES
def test_a_mount_that_is_hidden_is_told(rkt: RktContext, data: str, runtime: str) -> None:
    result = sh(rkt, f"kind=host,source={data}", "ls -A /sys/fs", target="/sys/fs/cgroup",
                runtime=runtime)  # fmt: skip
    assert result.stdout == ""
    warning = (
        'rkt: warning: app "app" cannot see what is mounted at "/sys/fs/cgroup": /sys/fs is '
        "hidden (--insecure-options=paths shows it)"
    )
    assert warning in result.stderr.splitlines()


@RUNTIMES
def test_an_empty_volume_is_shared_by_name(rkt: RktContext, runtime: str) -> None:
    path = build(rkt)
    result = rkt.rkt(
        OPEN, "run", "--volume=v,kind=empty,mode=1770,uid=1000,gid=1001",
        path, "--name=writes", "--mount=volume=v,target=/one", "--user=alice", "--group=staff",
        "--", "stat -c %a:%u:%g /one; echo shared >/one/f", "---",
        path, "--name=reads", "--mount=volume=v,target=/two", "--",
        "while [ ! -s /two/f ]; do sleep 0.02; done; cat /two/f",
        env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    lines = sorted(line.split(": ")[1] for line in result.stdout.splitlines())
    assert lines == ["1770:1000:1001", "shared"]
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    info = os.stat(f"{rkt.data}/pods/run/{uuid}/sharedVolumes/v")
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o1770, 1000, 1001)


def test_one_volume_at_different_paths_and_with_different_rights(rkt: RktContext) -> None:
    """What the introduction to rkt shows: a worker and its backup."""
    os.mkdir(f"{rkt.files}/work")
    worker = build(rkt, "example.com/reduce-worker",
                   mountPoints=[{"name": "work", "path": "/var/lib/work"}])  # fmt: skip
    backup = build(rkt, "example.com/worker-backup",
                   mountPoints=[{"name": "work", "path": "/backup", "readOnly": True}])  # fmt: skip
    result = rkt.rkt(
        OPEN, "run", f"--volume=work,kind=host,source={rkt.files}/work",
        worker, "--", "echo done >/var/lib/work/result", "---",
        backup, "--", "while [ ! -s /backup/result ]; do sleep 0.02; done; cat /backup/result; "
        "touch /backup/x || true",
    )  # fmt: skip
    assert result.stdout.endswith(": done\n")
    assert "/backup/x: Read-only file system" in result.stderr


def test_what_the_volume_says_wins_over_the_image(rkt: RktContext) -> None:
    path = build(rkt, mountPoints=[{"name": "v", "path": "/data", "readOnly": True}])
    os.mkdir(f"{rkt.files}/d")
    volume = f"--volume=v,kind=host,source={rkt.files}/d"
    script = "touch /data/x && echo wrote"
    assert "Read-only" in rkt.rkt(OPEN, "run", volume, path, "--", script, status=1).stderr
    result = rkt.rkt(OPEN, "run", f"{volume},readOnly=false", path, "--", script)
    assert result.stdout == "wrote\n"


def test_a_mount_of_the_app_wins_over_one_of_the_pod(rkt: RktContext) -> None:
    for name in ("one", "two"):
        os.mkdir(f"{rkt.files}/{name}")
        with open(f"{rkt.files}/{name}/f", "w") as file:
            file.write(name)
    path = build(rkt)
    result = rkt.rkt(
        OPEN, "run", f"--volume=one,kind=host,source={rkt.files}/one",
        f"--volume=two,kind=host,source={rkt.files}/two", "--mount=volume=one,target=/data/",
        path, "--mount=volume=two,target=/data", "--", "cat /data/f",
    )  # fmt: skip
    assert result.stdout == "two"


def test_an_implicit_volume(rkt: RktContext) -> None:
    path = build(rkt, mountPoints=[{"name": "db", "path": "/var/lib/db"}])
    result = rkt.rkt(OPEN, "run", path, "--", "stat -c %a:%u /var/lib/db; ls -A /var/lib/db")
    assert result.stdout == "755:0\n"
    assert (
        'rkt: warning: no volume specified for mount point "db", implicitly creating an "empty" '
        "volume. This volume will be removed when the pod is garbage-collected.\n"
    ) in result.stderr
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    assert os.listdir(f"{rkt.data}/pods/run/{uuid}/sharedVolumes") == ["app-db"]


def test_an_implicit_volume_of_a_docker_image_has_its_content(rkt: RktContext) -> None:
    points = [{"name": "db", "path": "/srv/db"}]
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"], app={"mountPoints": points})
    builder.busybox().directory("srv").directory("srv/db", 0o750, owner=(5, 6))
    builder.file("srv/db/seed", "from the image", owner=(5, 6))
    builder.symlink("srv/db/link", "/etc/passwd")
    builder.manifest["annotations"] = [{"name": "appc.io/docker/repository", "value": "db"}]
    path = builder.build(rkt.files).path
    script = "cat /srv/db/seed; stat -c ' %a %u %g' /srv/db; readlink /srv/db/link"
    result = rkt.rkt(OPEN, "run", path, "--", script)
    assert result.stdout == "from the image 750 5 6\n/etc/passwd\n"
    assert (
        "Docker converted image, initializing implicit volume with data contained at the mount "
        'point "db".'
    ) in result.stderr


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_an_image_of_a_file_has_the_content_of_its_volumes(rkt: RktContext, kind: str) -> None:
    upper = Layer().directory("srv").directory("srv/db", mode=0o750, uid=33, gid=33)
    upper.file("srv/db/seed", "from the image\n", uid=33, gid=33)
    upper.file("etc/passwd", "lonely:x:33:33::/:/bin/sh\n")  # and no group of that name
    script = "cd /srv/db; while read x; do echo $x; done <seed; echo new >new && echo written"
    config = {"Cmd": ["/bin/sh", "-c", script], "User": "lonely", "Volumes": {"/srv/db": {}}}
    image = Image([busybox(), upper], config=config)
    target = f"{rkt.files}/image"
    path = image.write(target) if kind == "oci" else image.save(target, "local/db:1")
    result = rkt.rkt(OPEN, "run", f"{kind}:{path}")
    assert result.stdout == "from the image\nwritten\n"


@RUNTIMES
def test_targets_that_are_missing_or_links(rkt: RktContext, runtime: str) -> None:
    os.mkdir(f"{rkt.files}/d")
    with open(f"{rkt.files}/d/f", "w") as file:
        file.write("seen")
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    outside = f"{rkt.files}/outside"
    os.mkdir(outside)
    builder.symlink("absolute", outside).symlink("dots", f"../../../../../..{outside}")
    builder.directory("real").symlink("inside", "/real")
    path = builder.build(rkt.files).path
    volume = f"--volume=v,kind=host,source={rkt.files}/d"
    for target, seen in (
        ("/none/at/all", "/none/at/all"), ("/absolute/x", f"{outside}/x"), ("/inside", "/real"),
        ("/dots/y", f"{outside}/y"),
    ):  # fmt: skip
        result = rkt.rkt(
            OPEN, "run", volume, path, f"--mount=volume=v,target={target}", "--",
            f"cat {seen}/f", env={"RKT_OCI_RUNTIME": runtime}, status=None,
        )  # fmt: skip
        assert (result.status, result.stdout) == (0, "seen"), (target, result.stderr)
    assert os.listdir(outside) == []


def test_a_missing_source(rkt: RktContext) -> None:
    result = sh(rkt, "kind=host,source=/no/such/place", "true", status=254)
    assert 'volume "v": source "/no/such/place": no such file or directory' in result.stderr


def test_a_read_only_root_with_a_volume_to_write_to(rkt: RktContext) -> None:
    result = rkt.rkt(
        OPEN, "run", "--volume=v,kind=empty", build(rkt), "--readonly-rootfs=true",
        "--mount=volume=v,target=/etc", "--", "touch /x; touch /etc/x && echo ok", status=None,
    )  # fmt: skip
    assert result.stdout == "ok\n"
    assert "/x: Read-only file system" in result.stderr


def test_a_program_that_lies_in_a_volume(rkt: RktContext) -> None:
    os.mkdir(f"{rkt.files}/bin")
    with open(f"{rkt.files}/bin/tool", "w") as file:
        file.write("#!/bin/sh\necho from the volume\n")
    os.chmod(f"{rkt.files}/bin/tool", 0o755)
    result = rkt.rkt(
        OPEN, "run", f"--volume=v,kind=host,source={rkt.files}/bin", build(rkt),
        "--mount=volume=v,target=/tools", "--exec=/tools/tool",
    )  # fmt: skip
    assert result.stdout == "from the volume\n"
