"""The commands over the image store, as a user types them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "namespaces", "rkt", "busybox")

BASE, TOP = "example.com/base", "example.com/top"


def store(rkt: RktContext, *builders: AciBuilder) -> list[Aci]:
    """Build images and fetch them."""
    found = [builder.build(rkt.files) for builder in builders]
    flags = ("--insecure-options=image", "fetch", "--pull-policy=new")
    rkt.rkt(*flags, *(aci.path for aci in found))
    return found


def base(name: str = BASE, **more: Any) -> AciBuilder:
    builder = AciBuilder(name, **more).busybox()
    return builder.file("etc/both", "base").file("etc/base", "base", mode=0o4755, owner=(7, 8))


def top(name: str = TOP, *, on: tuple[str, ...] = (BASE,), **more: Any) -> AciBuilder:
    builder = AciBuilder(name, **more).file("etc/both", "top").symlink("link", "/etc/both")
    builder.manifest["dependencies"] = [{"imageName": one} for one in on]
    return builder


def refused(rkt: RktContext, *args: str) -> str:
    result = rkt.rkt(*args, status=254)
    return result.stderr


def keys(rkt: RktContext, *flags: str) -> list[str]:
    lines = rkt.rkt("image", "list", "--no-legend", "--fields=key", *flags).stdout.split()
    return sorted(lines)


def trees(rkt: RktContext) -> list[str]:
    return sorted(os.listdir(f"{rkt.data}/cas/tree"))


def tree(rkt: RktContext, aci: Aci, path: str = "") -> str:
    return f"{rkt.data}/cas/tree/{aci.key}/rootfs/{path}"


# --- list and inspect -------------------------------------------------------------------------


def test_a_long_whitelist_takes_little_memory(rkt: RktContext) -> None:
    """The longest there may be."""
    builder = AciBuilder("example.com/long").file("a", "a")
    builder.manifest["pathWhitelist"] = [f"/{number}" for number in range(1_300_000)]
    aci = builder.build(rkt.files)
    assert rkt.peak("--insecure-options=image", "fetch", aci.path) < 100_000
    assert rkt.peak("image", "inspect", "example.com/long") < 100_000
    assert rkt.peak("image", "verify", "example.com/long") < 100_000


def test_list_as_in_the_guide(rkt: RktContext) -> None:
    (aci,) = store(rkt, base())
    head, line = rkt.rkt("image", "list").stdout.splitlines()
    cells = re.split("\t+", line)
    assert re.split("\t+", head)[:4] == ["KEY", "APPNAME", "IMPORTTIME", "LATEST"]
    assert cells[0] == aci.key
    assert cells[1] == f"{BASE}:1.0.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} \S+", cells[2])
    assert cells[3] == "false"
    assert re.fullmatch(r"[\d.]+MiB", cells[4])
    assert cells[5] in ("now", "1 second ago") or cells[5].endswith("seconds ago")
    assert cells[6] == "skipped"


def test_list_full_fields_and_json(rkt: RktContext) -> None:
    a, b = store(rkt, base(), base("example.com/a"))
    names = rkt.rkt("image", "list", "--fields=name", "--no-legend", "--sort=name").stdout
    assert names.split() == ["example.com/a:1.0.0", f"{BASE}:1.0.0"]
    names = rkt.rkt("image", "list", "--fields=id", "--no-legend", "--order=DESC").stdout
    assert names.split() == [b.key[:19], a.key[:19]]
    full = rkt.rkt("image", "list", "--full", "--fields=id,size,lastused").stdout.splitlines()
    assert re.split("\t+", full[0]) == ["ID", "SIZE", "LAST USED"]
    assert re.fullmatch(rf"{a.key}\t+\d{{6,}}\t+\d{{4}}-.*", full[1])
    compact = rkt.rkt("image", "list", "--format=json").stdout
    found = json.loads(compact)
    assert [one["id"] for one in found] == [a.key, b.key]
    assert set(found[0]) == {"id", "name", "import_time", "last_used_time", "size"}
    assert found[0]["import_time"] > 10**18
    assert compact.count("\n") == 1
    assert '\n\t{\n\t\t"id"' in rkt.rkt("image", "list", "--format=json-pretty").stdout
    rkt.rkt("image", "rm", a.key, b.key)
    assert rkt.rkt("image", "list", "--format=json").stdout == "null\n"
    assert rkt.rkt("image", "list", "--no-legend").stdout == "\n"


def test_list_sorts_by_the_size_that_it_shows(rkt: RktContext) -> None:
    many = AciBuilder("example.com/many")
    for number in range(1500):
        many.file(f"f{number}")
    store(rkt, AciBuilder("example.com/large").file("f", bytes(300_000)), many)
    lines = rkt.rkt(
        "image", "list", "--no-legend", "--full", "--fields=name,size", "--sort=size"
    ).stdout.splitlines()
    names, sizes = zip(*(re.split("\t+", line) for line in lines), strict=True)
    assert names == ("example.com/many:1.0.0", "example.com/large:1.0.0")
    assert int(sizes[0]) < int(sizes[1])


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--fields=x", 'unknown option "x"'),
        ("--sort=key", 'unknown option "key"'),
        ("--order=up", 'wrong sort order "up"'),
        ("--format=xml", "Invalid format option: xml"),
    ],
)
def test_list_refuses(rkt: RktContext, flag: str, text: str) -> None:
    result = rkt.rkt("image", "list", flag, status=254)
    (line,) = result.stderr.splitlines()
    assert text in line
    assert result.stdout.startswith("NAME:\n\timage list - List images in the local store\n")


def test_json_is_escaped_as_go_does_it(rkt: RktContext) -> None:
    words = ["/bin/sh", "-c", "a <b >c && d"]
    store(rkt, base(exec=words))
    escaped = "a \\u003cb \\u003ec \\u0026\\u0026 d"
    for flag in ("--pretty-print", "--pretty-print=false"):
        text = rkt.rkt("image", "cat-manifest", flag, BASE).stdout
        assert escaped in text
        assert json.loads(text)["app"]["exec"] == words
    uuid = rkt.rkt("--insecure-options=image", "prepare", BASE).stdout.strip()
    assert escaped in rkt.rkt("cat-manifest", uuid).stdout
    os.rename(f"{rkt.files}/example.com-base.aci", f"{rkt.files}/<&>.aci")
    rkt.rkt("--insecure-options=image", "fetch", f"{rkt.files}/<&>.aci")
    text = rkt.rkt("image", "inspect", BASE).stdout
    assert '/\\u003c\\u0026\\u003e.aci",' in text
    assert json.loads(text)[0]["source"] == f"{rkt.files}/<&>.aci"


def test_inspect(rkt: RktContext) -> None:
    lower, upper = store(rkt, base(), top())
    (found,) = json.loads(rkt.rkt("image", "inspect", TOP).stdout)
    assert found["key"] == upper.key
    assert found["id"] == upper.id
    assert found["name"] == TOP
    assert {"name": "version", "value": "1.0.0"} in found["labels"]
    assert found["source"] == upper.path
    assert found["verification"]["status"] == "skipped"
    assert found["dependencies"] == [{"key": lower.key, "name": BASE}]
    assert found["pods"] == []
    blocks = sum(disk(tree(rkt, aci)) for aci in (lower, upper))
    assert blocks < found["sizeOnDisk"] < blocks + 100_000
    assert found["sharedSize"] < found["sizeOnDisk"]
    lone, _ = json.loads(rkt.rkt("image", "inspect", BASE, TOP).stdout)
    assert lone["sharedSize"] == 0
    rkt.rkt("image", "rm", BASE)
    (found,) = json.loads(rkt.rkt("image", "inspect", "--pretty-print=false", TOP).stdout)
    assert "cannot find aci satisfying name" in found["problem"]
    assert found["sizeOnDisk"] is None
    assert "cannot find aci satisfying name" in refused(rkt, "image", "inspect", BASE)


def disk(path: str) -> int:
    words = ["du", "-s", "--block-size=1", path]
    return int(subprocess.run(words, capture_output=True, check=True).stdout.split()[0])


# --- rm and gc --------------------------------------------------------------------------------


def test_rm_as_in_the_guide(rkt: RktContext) -> None:
    a, b = store(rkt, base(), base("example.com/a"))
    result = rkt.rkt("image", "rm", a.key)
    assert result.stderr == (
        f'rkt: successfully removed aci for imageID: "{a.key}"\n'
        "rkt: 1 image(s) successfully removed\n"
    )
    assert result.stdout == f'successfully removed aci for image: "{a.key}"\n'
    assert trees(rkt) == [b.key]
    result = rkt.rkt("image", "rm", "sha512-00", "example.com/a", b.key[:20], "example.com/none")
    assert result.stdout == f'successfully removed aci for image: "{b.key}"\n'
    assert 'rkt: cannot resolve image ID "sha512-00": no image IDs found\n' in result.stderr
    assert (
        'rkt: cannot find image "example.com/none": cannot find aci satisfying name: '
        '"example.com/none" and labels: os="linux", arch="amd64" in the local store\n'
    ) in result.stderr
    assert (keys(rkt), trees(rkt)) == ([], [])
    assert "must provide at least one image ID" in refused(rkt, "image", "rm")


@pytest.mark.parametrize("flag", ["", "--no-overlay"])
@needs("oci-runtime", "overlay")
def test_image_of_a_pod_stays(rkt: RktContext, flag: str) -> None:
    lower, upper = store(rkt, base(), top(exec=["/bin/cat", "/etc/both"]))
    flags = [flag] if flag else []
    uuid = rkt.rkt("--insecure-options=image", "prepare", *flags, TOP).stdout.strip()
    for name, aci in ((TOP, upper), (upper.key, upper), (BASE, lower)):
        text = refused(rkt, "image", "rm", name)
        assert f'rkt: image "{aci.key}" is used by pod "{uuid}"\n' in text
        assert f"hint: rkt rm {uuid}\n" in text
        (found,) = json.loads(rkt.rkt("image", "inspect", name).stdout)
        assert found["pods"] == [uuid]
        assert "rkt: 1 image(s) cannot be removed\n" in text
        assert text.endswith("rkt: error(s) found while removing images\n")
    rkt.rkt("image", "gc", "--grace-period=0s")
    assert set(keys(rkt)) >= {lower.key, upper.key}
    assert rkt.rkt("run-prepared", uuid).stdout == "top"
    rkt.rkt("rm", uuid)
    rkt.rkt("image", "rm", TOP)
    assert upper.key not in keys(rkt)
    assert not [name for name in trees(rkt) if name.startswith("deps-")]


def test_rm_waits_for_a_pod_that_is_being_prepared(rkt: RktContext) -> None:
    (aci,) = store(rkt, base())
    holder = f"{rkt.data}/locks"
    locked = subprocess.Popen(
        ["flock", "--shared", holder, "sh", "-c", "echo held; cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert locked.stdout is not None
    locked.stdout.readline()
    removing = rkt.spawn("image", "rm", aci.key)
    assert removing.stderr is not None
    assert removing.stderr.readline().startswith(b"rkt: waiting for another rkt")
    locked.communicate()
    assert b"successfully removed" in removing.communicate()[1]
    assert aci.key not in keys(rkt)


def test_gc(rkt: RktContext) -> None:
    lower, upper, other = store(rkt, base(), top(), base("example.com/other"))
    rkt.rkt("image", "render", TOP, f"{rkt.files}/rendered")
    (deps,) = [name for name in trees(rkt) if name.startswith("deps-")]
    result = rkt.rkt("image", "gc")
    assert result.stderr == f'rkt: removed treestore "{deps}"\n'
    assert len(keys(rkt)) == 3
    # What another image needs stays, however old it is.
    age(rkt, lower, other)
    result = rkt.rkt("image", "gc", "--grace-period=24h")
    assert keys(rkt) == sorted((lower.key, upper.key))
    assert f'aci for imageID: "{other.key}"' in result.stderr
    age(rkt, upper)
    rkt.rkt("image", "gc")
    assert (keys(rkt), trees(rkt)) == ([], [])
    assert "invalid duration" in refused(rkt, "image", "gc", "--grace-period=soon")


def age(rkt: RktContext, *acis: Aci) -> None:
    """Make images two days older."""
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"{rkt.data}/cas/db/db.sqlite")) as db, db:
        for aci in acis:
            step = 2 * 86400 * 10**9
            db.execute("UPDATE images SET last_used = last_used - ? WHERE key = ?", (step, aci.key))


def test_layers_are_hidden_and_go_with_their_image(rkt: RktContext) -> None:
    one, two, three = "oci-layer/sha256-1", "oci-layer/sha256-2", "oci-layer/sha256-3"
    layers = store(rkt, *(AciBuilder(name).file(name[-1], "x") for name in (one, two, three)))
    a, b = store(rkt, top("example.com/a", on=(one, two)), top("example.com/b", on=(two,)))
    assert keys(rkt) == sorted((a.key, b.key))
    assert len(keys(rkt, "--all")) == 5
    rkt.rkt("image", "rm", "example.com/a")
    assert keys(rkt, "--all") == sorted((b.key, layers[1].key, layers[2].key))
    result = rkt.rkt("image", "gc")  # nothing ever needed the third
    assert f'aci for imageID: "{layers[2].key}"' in result.stderr
    assert keys(rkt, "--all") == sorted((b.key, layers[1].key))
    rkt.rkt("image", "rm", "example.com/b")
    assert (keys(rkt, "--all"), trees(rkt)) == ([], [])


# --- export, extract, render ------------------------------------------------------------------


def test_export(rkt: RktContext) -> None:
    store(rkt, base())
    out = f"{rkt.files}/out.aci"
    rkt.rkt("image", "export", BASE, out)
    with open(out, "rb") as file:
        data = file.read()
    import hashlib

    (found,) = json.loads(rkt.rkt("image", "inspect", BASE).stdout)
    assert found["id"] == "sha512-" + hashlib.sha512(data).hexdigest()
    assert "output ACI file exists (try --overwrite)" in refused(rkt, "image", "export", BASE, out)
    rkt.rkt("image", "export", "--overwrite", BASE, out)
    text = refused(rkt, "image", "export", BASE, f"{rkt.files}/out.tar")
    assert "extension must be .aci (given .tar)" in text
    text = refused(rkt, "image", "export", BASE, f"{rkt.files}/nowhere/out.aci")
    assert text == f'rkt: "{rkt.files}/nowhere/out.aci": No such file or directory\n'
    os.symlink("/nowhere", f"{rkt.files}/link.aci")
    text = refused(rkt, "image", "export", BASE, f"{rkt.files}/link.aci")
    assert text == "rkt: output ACI file exists (try --overwrite)\n"
    assert os.readlink(f"{rkt.files}/link.aci") == "/nowhere"


@pytest.mark.parametrize("verb", ["extract", "render"])
def test_extract_and_render(rkt: RktContext, verb: str) -> None:
    store(rkt, base(), top())
    out = f"{rkt.files}/out"
    rkt.rkt("image", verb, TOP, out)
    assert sorted(os.listdir(out)) == ["manifest", "rootfs"]
    with open(f"{out}/manifest", encoding="utf-8") as file:
        assert json.load(file)["name"] == TOP
    with open(f"{out}/rootfs/etc/both", encoding="ascii") as file:
        assert file.read() == "top"
    assert os.readlink(f"{out}/rootfs/link") == "/etc/both"
    assert os.path.exists(f"{out}/rootfs/etc/base") == (verb == "render")
    if verb == "render":
        info = os.stat(f"{out}/rootfs/etc/base")
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o4755, 7, 8)
        assert info.st_nlink == 1
    text = refused(rkt, "image", verb, TOP, out)
    assert text == "rkt: output directory exists (try --overwrite)\n"
    rkt.rkt("image", verb, "--overwrite", "--rootfs-only", BASE, out)
    assert "etc" in os.listdir(out)
    assert "manifest" not in os.listdir(out)
    assert [name for name in os.listdir(rkt.files) if name.endswith(".tmp")] == []


@pytest.mark.parametrize("verb", ["extract", "render"])
def test_what_a_killed_process_left_beside_the_target_is_removed(
    rkt: RktContext, verb: str
) -> None:
    store(rkt, base())
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = f"out.{dead.pid}.tmp"
    kept = [f"out.{os.getpid()}.tmp", "out.1x.tmp", f"other.{dead.pid}.tmp", f"out.{dead.pid}0.tmp"]
    for name in (left, *kept):
        os.makedirs(f"{rkt.files}/{name}/tree/rootfs", 0o700)
    for name in (f"out.{dead.pid}1.tmp", f"out.{dead.pid}2.tmp", f"out.{dead.pid}3.tmp"):
        kept.append(name)
    os.symlink(f"out.{os.getpid()}.tmp", f"{rkt.files}/{kept[-3]}")
    os.makedirs(f"{rkt.files}/{kept[-2]}/letters")
    os.makedirs(f"{rkt.files}/{kept[-1]}/done")
    os.chown(f"{rkt.files}/{kept[-1]}", 1, 1)
    used = os.open(f"{rkt.files}/{kept[3]}", os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_EX)
    rkt.rkt("image", verb, BASE, f"{rkt.files}/out")
    os.close(used)
    assert {name for name in os.listdir(rkt.files) if name.endswith(".tmp")} == set(kept)
    rkt.rkt("image", verb, "--overwrite", BASE, f"{rkt.files}/out")
    assert not os.path.exists(f"{rkt.files}/{kept[3]}")


@pytest.mark.parametrize("verb", ["extract", "render"])
def test_output_that_must_not_be_overwritten(rkt: RktContext, verb: str) -> None:
    store(rkt, base())
    for path in ("/", "/usr/../..", f"{rkt.files}/root"):
        if path.endswith("root"):
            os.symlink("/", path)
        text = refused(rkt, "image", verb, "--overwrite", BASE, path)
        assert text == "rkt: this would delete your root filesystem. Refusing.\n"
    for path in (rkt.data, os.path.dirname(rkt.data)):
        text = refused(rkt, "image", verb, "--overwrite", BASE, path)
        assert text == "rkt: this would delete rkt's data directory. Refusing.\n"
    for path in ("cas", "cas/tree/x", "pods/run"):
        text = refused(rkt, "image", verb, "--overwrite", BASE, f"{rkt.data}/{path}")
        assert text == "rkt: this would damage rkt's data directory. Refusing.\n"
    text = refused(rkt, "image", verb, "--overwrite", BASE, "/proc/nowhere/x")
    assert text == 'rkt: cannot write "/proc/nowhere/x": No such file or directory\n'
    assert "cannot find aci satisfying name" in refused(rkt, "image", verb, TOP, f"{rkt.files}/o")
    assert not os.path.exists(f"{rkt.files}/o")
    rkt.rkt("image", "verify", "--all")


@pytest.mark.parametrize("verb", ["extract", "render"])
def test_what_is_mounted_in_the_output_directory_is_kept(rkt: RktContext, verb: str) -> None:
    store(rkt, base())
    out = f"{rkt.files}/out"
    os.makedirs(f"{out}/mine/mnt")
    rkt.run([*rkt.enter_argv(), "mount", "-t", "tmpfs", "none", f"{out}/mine/mnt"])
    for path in (out, f"{out}/mine/mnt"):
        text = refused(rkt, "image", verb, "--overwrite", BASE, path)
        where = f"{os.path.realpath(out)}/mine/mnt"
        assert text == f'rkt: this would delete what is mounted at "{where}". Refusing.\n'
        assert os.listdir(out) == ["mine"]
    rkt.run([*rkt.enter_argv(), "umount", f"{out}/mine/mnt"])
    rkt.rkt("image", verb, "--overwrite", BASE, out)
    assert sorted(os.listdir(out)) == ["manifest", "rootfs"]


def test_render_without_a_dependency(rkt: RktContext) -> None:
    store(rkt, base(), top())
    rkt.rkt("image", "rm", BASE)
    text = refused(rkt, "image", "render", TOP, f"{rkt.files}/out")
    assert f'cannot find aci satisfying name: "{BASE}"' in text
    assert not os.path.exists(f"{rkt.files}/out")


# --- verify -----------------------------------------------------------------------------------


def test_verify_all(rkt: RktContext) -> None:
    lower, upper = store(rkt, base(), top())
    rkt.rkt("image", "render", TOP, f"{rkt.files}/rendered")
    assert rkt.rkt("image", "verify", "--all").stdout == "".join(
        f'successfully verified checksum for image: "{aci.name}" ("{aci.key}")\n'
        for aci in (lower, upper)
    )
    assert "either --all or images are needed" in refused(rkt, "image", "verify")
    assert "either --all or images are needed" in refused(rkt, "image", "verify", "--all", BASE)


def retarget(root: str) -> None:
    os.unlink(f"{root}/bin/sh")
    os.symlink("evil", f"{root}/bin/sh")


def pipe(root: str) -> None:
    os.unlink(f"{root}/etc/empty")
    os.mkfifo(f"{root}/etc/empty")


REPAIRABLE: dict[str, tuple[Callable[[str], object], str]] = {
    "mode": (lambda root: os.chmod(f"{root}/etc/base", 0o755),
             '"rootfs/etc/base": mode is 0755, was 4755'),
    "owner": (lambda root: os.chown(f"{root}/etc/both", 5, 0),
              '"rootfs/etc/both": owner is 5:0, was 0:0'),
    "time": (lambda root: os.utime(f"{root}/etc", (1, 1)),
             '"rootfs/etc": modification time is 1000000000, was 1500000000000000000'),
    "a file too many": (lambda root: os.mkdir(f"{root}/etc/new"),
                        '"rootfs/etc": modification time is '),
    "link": (retarget, '"rootfs/bin/sh": '),
    "attribute": (lambda root: os.setxattr(f"{root}/etc/both", "user.x", b"y"),
                  "\"rootfs/etc/both\": extended attribute user.x is b'y', was None"),
    "capability": (
        lambda root: os.setxattr(
            f"{root}/etc/both", "security.capability",
            bytes.fromhex("0100000200200000000000000000000000000000")),
        '"rootfs/etc/both": extended attribute security.capability is '),
    "kind": (pipe, '"rootfs/etc/empty": it is a pipe, was a file'),
    "root": (lambda root: os.chmod(root, 0o777), '"rootfs": mode is 0777, was 0755'),
}  # fmt: skip


@pytest.mark.parametrize("case", REPAIRABLE)
def test_damage_that_can_be_repaired(rkt: RktContext, case: str) -> None:
    """Contents are whole, so the tree is made anew out of them."""
    (aci,) = store(rkt, base().file("etc/empty", ""))
    damage, text = REPAIRABLE[case]
    times = {name: os.stat(tree(rkt, aci, name)).st_mtime_ns for name in ("etc", "bin")}
    damage(tree(rkt, aci))
    if case in ("link", "kind"):
        for name, when in times.items():
            os.utime(tree(rkt, aci, name), ns=(when, when))
    result = rkt.rkt("image", "verify", BASE, status=None)
    assert result.status == 0, result.stderr
    begin = f'rkt: tree cache verification failed for image {BASE}: image "{aci.key}" is damaged: '
    assert result.stderr.startswith(begin + text)
    assert result.stderr.endswith(";  rebuilding...\n")
    assert result.stdout.startswith("successfully verified checksum for image")
    assert rkt.rkt("image", "verify", "--all").stderr == ""


@pytest.mark.parametrize("how", ["other", "gone", "link", "pipe", "directory"])
def test_the_copy_of_a_manifest_is_restored(rkt: RktContext, how: str) -> None:
    (aci,) = store(rkt, base())
    path = f"{rkt.data}/cas/manifest/{aci.key}"
    with open(path, "rb") as file:
        good = file.read()
    os.unlink(path)
    if how == "other":
        write_new(path, good.replace(b"example", b"elpmaxe"))
    elif how == "link":
        os.symlink("/etc/passwd", path)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "directory":
        os.mkdir(path)
    done = rkt.rkt("image", "verify", BASE)
    said = f'rkt: image "{BASE}": restored the copy of its manifest that is for the group\n'
    assert done.stderr == said
    with open(path, "rb") as file:
        assert file.read() == good
    assert rkt.rkt("image", "verify", BASE).stderr == ""


LOST: dict[str, tuple[Callable[[str], object], str]] = {
    "content": (lambda root: write(f"{root}/etc/both", b"evil"), "image hash does not match"),
    "shorter": (lambda root: os.truncate(f"{root}/etc/both", 2), "is shorter than it was"),
    "gone": (lambda root: os.unlink(f"{root}/etc/both"), "cannot be read: No such file"),
    "no tree": (shutil.rmtree, "its tree is missing"),
    "no record": (
        lambda root: os.unlink(root.replace("/tree/", "/split/").removesuffix("/rootfs/")),
        "No such file or directory"),
}  # fmt: skip


def write(path: str, data: bytes) -> None:
    info = os.stat(path)
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("case", LOST)
def test_damage_that_cannot_be_repaired(rkt: RktContext, case: str) -> None:
    whole, aci = store(rkt, base("example.com/whole"), base())
    damage, text = LOST[case]
    damage(tree(rkt, aci))
    result = rkt.rkt("image", "verify", "--all", status=254)
    assert whole.key in result.stdout
    assert aci.key not in result.stdout
    assert f'image "{aci.key}" is damaged' in result.stderr
    assert text in result.stderr
    assert f"hint: rkt image rm {aci.key}, then fetch it again from {aci.path}\n" in result.stderr
    assert result.stderr.endswith("rkt: 1 image(s) not verified\n")
    rkt.rkt("image", "rm", aci.key)
    rkt.rkt("--insecure-options=image", "fetch", aci.path)
    assert rkt.rkt("image", "verify", "--all").stdout.count("successfully") == 2


def test_rendered_tree_is_made_anew(rkt: RktContext) -> None:
    store(rkt, base(), top())
    rkt.rkt("image", "render", TOP, f"{rkt.files}/out")
    (deps,) = [name for name in trees(rkt) if name.startswith("deps-")]
    path = f"{rkt.data}/cas/tree/{deps}/rootfs"
    os.unlink(f"{path}/etc/both")
    write_new(f"{path}/etc/both", b"evil")
    result = rkt.rkt("image", "verify", TOP)
    assert f'rendered tree "{deps}" is damaged: ' in result.stderr
    with open(f"{path}/etc/both", encoding="ascii") as file:
        assert file.read() == "top"
    assert rkt.rkt("image", "verify", "--all").stderr == ""


def write_new(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


@needs("oci-runtime", "overlay")
def test_tree_of_a_pod_is_not_replaced(rkt: RktContext) -> None:
    (aci,) = store(rkt, base())
    uuid = rkt.rkt("--insecure-options=image", "prepare", BASE).stdout.strip()
    os.chmod(tree(rkt, aci, "etc/both"), 0o600)
    text = refused(rkt, "image", "verify", BASE)
    assert f'tree "{aci.key}" cannot be replaced while pods use it: {uuid}' in text
    rkt.rkt("rm", uuid)
    rkt.rkt("image", "verify", BASE)
    assert stat.S_IMODE(os.stat(tree(rkt, aci, "etc/both")).st_mode) == 0o644


# --- build ------------------------------------------------------------------------------------


def test_build_fetch_and_build_again(rkt: RktContext) -> None:
    layout = f"{rkt.files}/layout"
    os.makedirs(f"{layout}/rootfs/etc")
    write_new(f"{layout}/rootfs/etc/x", b"x")
    os.link(f"{layout}/rootfs/etc/x", f"{layout}/rootfs/etc/y")
    document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": BASE}
    write_new(f"{layout}/manifest", json.dumps(document).encode())
    ids = {
        rkt.rkt("image", "build", f"--compression={kind}", layout, f"{rkt.files}/{kind}.aci").stdout
        for kind in ("gzip", "zstd", "xz", "bzip2", "none")
    }
    assert len(ids) == 1
    (image,) = ids
    path = f"{rkt.files}/zstd.aci"
    assert rkt.rkt("--insecure-options=image", "fetch", "--full", path).stdout == image
    rkt.rkt("image", "extract", BASE, f"{rkt.files}/again")
    old = {"SOURCE_DATE_EPOCH": "1500000000"}
    one = rkt.rkt("image", "build", layout, f"{rkt.files}/1.aci", env=old).stdout
    two = rkt.rkt("image", "build", f"{rkt.files}/again", f"{rkt.files}/2.aci", env=old).stdout
    assert one == two != image
    text = refused(rkt, "image", "build", layout, path)
    assert text == "rkt: output ACI file exists (try --overwrite)\n"
    rkt.rkt("image", "build", "--overwrite", layout, path)
    assert "extension must be .aci" in refused(rkt, "image", "build", layout, f"{rkt.files}/x")
    text = refused(rkt, "image", "build", "--compression=rar", layout, f"{rkt.files}/x.aci")
    assert "must be one of gzip, zstd, xz, bzip2, none" in text
    write_new(f"{layout}/README", b"")
    text = refused(rkt, "image", "build", layout, f"{rkt.files}/x.aci")
    assert text == 'rkt: unrecognized file path in layout: "README"\n'
    assert not os.path.exists(f"{rkt.files}/x.aci")
    for inside in (f"{layout}/x.aci", f"{layout}/rootfs/x.aci"):
        text = refused(rkt, "image", "build", layout, inside)
        assert text == f'rkt: "{inside}" is inside "{layout}", of which the image is made\n'
    os.unlink(f"{layout}/README")
    text = refused(rkt, "image", "build", layout, f"{rkt.files}/nowhere/x.aci")
    text = text.removeprefix("rkt: cannot build image ")
    assert text == f'"{rkt.files}/nowhere/x.aci": No such file or directory\n'


# --- one copy on disk -------------------------------------------------------------------------


@needs("oci-runtime", "overlay")
def test_an_image_is_on_disk_once(rkt: RktContext) -> None:
    """Blocks of the whole data directory after fetch and run, against those of the plain tree."""
    builder = base(exec=["/bin/true"])
    for number in range(1500):
        builder.file(f"d{number % 40}/f{number}", os.urandom(200 + 40 * (number % 500)))
    aci = builder.build(rkt.files)
    plain = f"{rkt.files}/plain"
    os.mkdir(plain)
    subprocess.run(["tar", "-xpf", aci.path, "-C", plain, "--numeric-owner"], check=True)
    (small,) = store(rkt, base("example.com/small", exec=["/bin/true"]))
    rkt.rkt("--insecure-options=image", "run", small.key)  # stores stage1
    before = disk(rkt.data)
    rkt.rkt("--insecure-options=image", "fetch", aci.path)
    rkt.rkt("--insecure-options=image", "run", aci.key)
    used, unpacked = disk(rkt.data) - before, disk(plain)
    print(f"store and pod {used} bytes, tree {unpacked} bytes: {used / unpacked:.3f}")
    assert used <= 1.15 * unpacked


def test_too_little_memory_is_no_fault_of_rkt(rkt: RktContext) -> None:
    path = base().build(rkt.files).path
    fetch = ("--insecure-options=image", "fetch", path)
    said = set()
    for size in range(24, 80, 4):  # MiB of addresses: fewer, and Python itself does not start
        argv = rkt.argv(*fetch)
        place = len(rkt.enter_argv())
        argv[place:place] = ["prlimit", f"--as={size << 20}"]
        result = rkt.run(argv)
        assert result.status in (0, 254), result
        assert "internal error" not in result.stderr
        said.add(result.stderr.splitlines()[-1])
    assert "rkt: there is not enough memory" in said
    rkt.rkt(*fetch)
    assert os.listdir(f"{rkt.data}/cas/tmp") == []
