"""Images made of what an app left behind."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
WORK = (
    "echo changed > /etc/base; rm /etc/gone; rm -r /olddir; mkdir /olddir; echo new > /olddir/new; "
    "ln /etc/base /hard; chown 7:8 /hard; mkfifo /fifo; echo data > /volume/x"
)


def exited(rkt: RktContext, *flags: str, script: str = WORK) -> str:
    """Run an app that changes files; gives the pod's UUID."""
    aci = AciBuilder("example.com/work", exec=("/bin/sh", "-c", script)).busybox()
    aci.file("etc/base", "before").file("etc/gone", "gone").directory("olddir")
    aci.file("olddir/old", "old")
    aci.manifest["app"]["mountPoints"] = [{"name": "v", "path": "/volume"}]  # type: ignore[index]
    path = aci.build(f"{rkt.files}/work.aci").path
    volume = ("--volume=v,kind=empty",)
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", *volume, *flags, path)
    with open(f"{rkt.files}/uuid") as file:
        return file.read()


@pytest.mark.parametrize("flags", [(), ("--no-overlay",)], ids=["overlay", "no-overlay"])
def test_the_image_is_what_the_app_left(rkt: RktContext, flags: tuple[str, ...]) -> None:
    uuid = exited(rkt, *flags)
    out = f"{rkt.files}/out.aci"
    rkt.rkt("export", uuid, out)
    with open(out, "rb") as file:
        assert file.read(2) == b"\x1f\x8b"
    with tarfile.open(out) as tar:
        names = {member.name: member for member in tar.getmembers()}
        manifest = tar.extractfile("manifest")
        base = tar.extractfile("rootfs/etc/base")
        assert manifest is not None
        assert base is not None
        assert json.load(manifest)["name"] == "example.com/work"
        assert base.read() == b"changed\n"
    assert "rootfs/etc/gone" not in names
    assert "rootfs/olddir/old" not in names
    assert "rootfs/olddir/new" in names
    assert "rootfs/volume/x" not in names
    hard, base_link = names["rootfs/hard"], names["rootfs/etc/base"]
    assert (hard.uid, hard.gid, base_link.linkname) == (7, 8, "rootfs/hard")
    assert names["rootfs/fifo"].isfifo()
    assert rkt.pod_state(uuid) == "exited"
    shown = rkt.rkt(OPEN, "run", "--volume=v,kind=empty", out, "--exec=/bin/cat", "--", "/etc/base")
    assert shown.stdout == "changed\n"


@needs("userns")
@pytest.mark.parametrize("flags", [(), ("--no-overlay",)], ids=["overlay", "no-overlay"])
def test_users_of_the_pods_own_become_those_of_the_image(
    rkt: RktContext, flags: tuple[str, ...]
) -> None:
    script = (
        "touch /new; chown 1000:1001 /new; chmod 2755 /new; echo x >> /etc/base; rm /etc/gone; "
        "rm -r /olddir; mkdir /olddir; ln -s nowhere /link"
    )
    uuid = exited(rkt, "--private-users", *flags, script=script)
    out = f"{rkt.files}/out.aci"
    rkt.rkt("export", uuid, out)
    with tarfile.open(out) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert (members["rootfs/new"].uid, members["rootfs/new"].gid) == (1000, 1001)
    assert members["rootfs/new"].mode == 0o2755
    assert {(m.uid, m.gid) for n, m in members.items() if n != "rootfs/new"} == {(0, 0)}
    assert {"rootfs/etc/base", "rootfs/olddir", "rootfs/link"} <= members.keys()
    assert not {"rootfs/etc/gone", "rootfs/olddir/old"} & members.keys()
    assert rkt.rkt(OPEN, "run", "--volume=v,kind=empty", out, "--exec=/bin/true").stdout == ""


def test_what_is_refused(rkt: RktContext) -> None:
    uuid = exited(rkt, "--no-overlay", script="true")
    out = f"{rkt.files}/out.aci"
    result = rkt.rkt("export", uuid, f"{rkt.files}/out.tar", status=254)
    assert result.stderr == "rkt: extension must be .aci (given .tar)\n"
    result = rkt.rkt("export", "--app=other", uuid, out, status=254)
    assert result.stderr == f'rkt: pod "{uuid}": no app "other"\nhint: its apps are: work\n'
    result = rkt.rkt("export", "ffffffff-0000", out, status=254)
    assert result.stderr == ('rkt: problem retrieving pod: no matches found for "ffffffff-0000"\n')
    with open(out, "w") as file:
        file.write("mine")
    result = rkt.rkt("export", uuid, out, status=254)
    assert result.stderr == "rkt: target file exists (try --overwrite)\n"
    root = f"{rkt.pod_dir(uuid)}/stage1/rootfs/opt/stage2/work/rootfs"
    subprocess.run([*rkt.enter_argv(), "mount", "-t", "tmpfs", "none", f"{root}/tmp"], check=True)
    result = rkt.rkt("export", "--overwrite", uuid, out, status=254)
    assert result.stderr == (
        "rkt: pod has remaining mountpoints. Only pods using overlayfs or with no mountpoints can "
        "be exported\n"
    )
    subprocess.run([*rkt.enter_argv(), "umount", f"{root}/tmp"], check=True)
    with open(out) as file:
        assert file.read() == "mine"
    rkt.rkt("export", "--overwrite", uuid, out)
    assert tarfile.is_tarfile(out)
    process = rkt.spawn(OPEN, "run", "--volume=v,kind=empty", f"{rkt.files}/work.aci",
                        "--exec=/bin/sleep", "--", "1000")  # fmt: skip
    rkt.wait_for(lambda: "running" in rkt.rkt("list").stdout)
    (running,) = [u for u in os.listdir(f"{rkt.data}/pods/run") if u != uuid]
    result = rkt.rkt("export", running, f"{rkt.files}/b.aci", status=254)
    assert result.stderr == "rkt: pod is not exited. Only exited pods can be exported\n"
    process.terminate()
    process.wait(30)


def test_several_apps(rkt: RktContext) -> None:
    paths = []
    for name in ("one", "two"):
        aci = AciBuilder(f"example.com/{name}", exec=("/bin/sh", "-c", f"echo {name} > /who"))
        paths.append(aci.busybox().build(f"{rkt.files}/{name}.aci").path)
    rkt.rkt(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", *paths)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    out = f"{rkt.files}/out.aci"
    result = rkt.rkt("export", uuid, out, status=254)
    assert result.stderr == (
        "Pod contains multiple apps:\n\tone\n\ttwo\n"
        'rkt: Unable to determine app name: specify app using "rkt export --app= ..."\n'
    )
    assert not os.path.exists(out)
    rkt.rkt("export", "--app=two", uuid, out)
    with tarfile.open(out) as tar:
        who = tar.extractfile("rootfs/who")
        assert who is not None
        assert who.read() == b"two\n"
