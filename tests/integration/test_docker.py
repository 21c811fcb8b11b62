"""Docker and OCI images as a user gets them: a real registry, and umoci to compare with."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.oci import MTIME, Image, Layer, busybox, listing
from rkt_testkit.probes import SEARCH, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "namespaces", "rkt", "registry")

PORT = 5123
HOST = f"127.0.0.1:{PORT}"
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {top}/registry}}}}
http: {{addr: "127.0.0.1:{port}", host: "http://{host}"}}
"""
INSECURE = "--insecure-options=image,http"
ADDED = ("dev/fd", "dev/stderr", "dev/stdin", "dev/stdout")
"""What rkt puts into every docker image."""
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
NOW = (MTIME + 10_000_000) * 10**9


@pytest.fixture
def registry(rkt: RktContext) -> Iterator[str]:
    """Run Debian's registry inside the test's network namespace."""
    path = f"{rkt.files}/registry.yml"
    with open(path, "w", encoding="ascii") as file:
        file.write(CONFIG.format(top=rkt.files, port=PORT, host=HOST))
    argv = [*rkt.enter_argv(), "docker-registry", "serve", path]
    server = subprocess.Popen(argv, env={"PATH": SEARCH}, stderr=subprocess.DEVNULL)
    try:
        url = f"docker://{HOST}/nothing"
        probe = [*rkt.enter_argv(), "skopeo", "list-tags", "--tls-verify=false", url]
        rkt.wait_for(lambda: "404" in rkt.run(probe).stderr)
        yield HOST
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def push(rkt: RktContext, registry: str) -> Callable[..., Image]:
    """Push images with skopeo."""

    def copy(made: Image, name: str, *flags: str) -> Image:
        layout = made.write(f"{rkt.files}/push-{name.replace('/', '-').replace(':', '-')}", "x")
        tool(rkt, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", *flags,
             f"oci:{layout}:x", f"docker://{registry}/{name}")  # fmt: skip
        return made

    return copy


def tool(rkt: RktContext, *argv: str) -> str:
    done = subprocess.run([*rkt.enter_argv(), *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare(rkt: RktContext, address: str, layout: str) -> None:
    """Fetch and render an image, and compare it with what umoci unpacks."""
    key = rkt.rkt(INSECURE, "fetch", "--full", address).stdout.strip()
    rkt.rkt("image", "render", "--rootfs-only", key, f"{rkt.files}/ours")
    tool(rkt, "umoci", "unpack", "--image", layout, f"{rkt.files}/theirs")
    ours, theirs = listing(f"{rkt.files}/ours"), listing(f"{rkt.files}/theirs/rootfs")
    for name in ADDED:
        del ours[name]
    if "dev" not in theirs:
        del ours["dev"]
    for name, values in theirs.items():
        if isinstance(values[3], int) and values[3] > NOW and name in ours:
            # a directory without an entry: umoci takes the time of now, rkt 1970
            ours[name] = (*ours[name][:3], values[3], *ours[name][4:])
    assert ours == theirs
    shutil.rmtree(f"{rkt.files}/ours")
    shutil.rmtree(f"{rkt.files}/theirs")


def test_run_from_a_registry(rkt: RktContext, push: Callable[..., Image]) -> None:
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id -u; id -g; pwd; echo $WORD; cat /new; ls /etc"],
        "User": "web", "Env": ["WORD=hello", "PATH=/bin"], "WorkingDir": "/tmp",
    }  # fmt: skip
    top = Layer().whiteout("etc/gone").file("new", "added\n").link("bin/cat", "bin/busybox")
    made = push(Image([busybox(), top], config=config), "team/app:v2")
    address = f"docker://{HOST}/team/app:v2"
    done = rkt.rkt(INSECURE, "run", "--net=none", address)
    lines = done.stdout.split()
    assert lines[:5] == ["33", "33", "/tmp", "hello", "added"]
    assert "gone" not in lines
    assert f"rkt: fetching image from {address}\n" in done.stderr
    for layer in made.layers:
        assert f"Downloading layer: {layer['digest'][7:]}\n" in done.stderr
    # it is stored now: under its address, and under its name
    done = rkt.rkt(INSECURE, "run", "--net=none", address)
    assert "fetching" not in done.stderr
    done = rkt.rkt(INSECURE, "run", "--net=none", f"127.0.0.1_{PORT}/team/app:v2")
    assert done.stdout.split()[:2] == ["33", "33"]
    done = rkt.rkt("run", "--net=none", f"127.0.0.1_{PORT}/team/app:v2", status=254)
    text = (
        "signature verification for docker images is not supported (try --insecure-options=image)"
    )
    assert done.stderr == f"rkt: {text}\n"
    done = rkt.rkt("fetch", address, status=254)
    assert done.stderr == f"rkt: {text}\n"


@pytest.mark.parametrize("flags", [
    (), ("--format=v2s2",), ("--dest-compress-format=zstd",), ("--dest-decompress",),
], ids=["oci", "schema2", "zstd", "plain"])  # fmt: skip
def test_forms_in_a_registry(
    rkt: RktContext, push: Callable[..., Image], flags: tuple[str, ...]
) -> None:
    push(Image([busybox(), Layer().file("new", "x")]), "app:v1", *flags)
    compare(rkt, f"docker://{HOST}/app:v1", f"{rkt.files}/push-app-v1:x")


def test_index_in_a_registry(rkt: RktContext, registry: str) -> None:
    here, there = (
        Image([Layer().file("here")]),
        Image([Layer().file("there")], architecture="s390x"),
    )
    here.blobs.update(there.blobs)
    inner = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
             "manifests": [
                 {**there.descriptor, "platform": {"os": "linux", "architecture": "s390x"}},
                 {**here.descriptor, "platform": {"os": "linux", "architecture": "amd64"}},
             ]}  # fmt: skip
    from rkt_testkit.oci import encode

    top = here.put(encode(inner), str(inner["mediaType"]))
    notes = {"org.opencontainers.image.ref.name": "x"}
    layout = here.write(f"{rkt.files}/multi", "x", manifests=[{**top, "annotations": notes}])
    tool(rkt, "skopeo", "copy", "--all", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:x",
         f"docker://{registry}/multi")  # fmt: skip
    for address in (f"docker://{HOST}/multi", f"docker://{HOST}/multi@{top['digest']}",
                    f"oci:{layout}:x"):  # fmt: skip
        key = rkt.rkt(INSECURE, "fetch", address).stdout.strip()
        manifest = rkt.rkt("image", "cat-manifest", key).stdout
        assert here.descriptor["digest"] in manifest


def test_everything_that_a_layer_can_hold(rkt: RktContext, push: Callable[..., Image]) -> None:
    sparse = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str(256 << 20),
    }  # fmt: skip
    table = b"2\n4096\n5\n268435453\n3\n".ljust(512, b"\0")
    lower = (
        Layer().directory("./", mode=0o751).directory("usr").directory("usr/lib")
        .file("usr/lib/a", "a" * 5000, mode=0o4755, uid=5, gid=6).link("usr/lib/b", "usr/lib/a")
        .symlink("lib", "usr/lib").symlink("broken", "/no/where").directory("dev")
        .file("cap", "x", mode=0o755, xattrs={"security.capability": CAPABILITY, "user.x": b"y"})
        .entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        .entry("dev/disk", tarfile.BLKTYPE, devmajor=7, devminor=1, mode=0o660, gid=6)
        .entry("pipe", tarfile.FIFOTYPE, mode=0o600)
        .directory("opaque").file("opaque/old", "x").directory("opaque/sub")
        .file("opaque/sub/f", "x")
        .directory("dir").file("dir/f", "x").file("file", "x").directory("gone").file("gone/f", "x")
        .file("w\u00f6rter \u20ac", "utf-8", uid=300_000).file("n" * 200, "long")
    )  # fmt: skip
    upper = (
        Layer().file("lib/via-link", "v").link("hard", "usr/lib/b").opaque("opaque")
        .file("opaque/new", "n").file("dir", "now a file").directory("file", mode=0o700)
        .whiteout("gone").file("usr/lib/c", "c", mtime=MTIME + 0.25)
        .directory("usr", mode=0o711, gid=9, mtime=MTIME + 5)
    )  # fmt: skip
    top = Layer().directory("gone", mode=0o700).file("gone/g", "again").whiteout("none")
    huge = Layer().file("GNUSparseFile.0/huge", table + b"hello" + b"end", pax_headers=sparse)
    made = Image([lower, upper, huge, top])
    push(made, "all:1")
    layout = f"{rkt.files}/push-all-1:x"
    compare(rkt, f"docker://{HOST}/all:1", layout)
    assert _used(rkt) < 1_000_000  # holes stay holes


def test_120_layers(rkt: RktContext) -> None:
    layers = [
        Layer().directory(f"d{n % 7}", mtime=MTIME + n).file(f"d{n % 7}/f{n}", str(n))
        .whiteout(f"d{(n + 3) % 7}/f{n - 4}")
        for n in range(120)
    ]  # fmt: skip
    layout = Image(layers).write(f"{rkt.files}/many")
    compare(rkt, f"oci:{layout}", f"{layout}:latest")


def test_names_that_are_no_text(rkt: RktContext) -> None:
    lower = (
        Layer().directory("a").file("a/\udcff\udcfe", "bytes").file("a/keep", "k").file("a/go", "")
    )
    layout = Image([lower, Layer().whiteout("a/go")]).write(f"{rkt.files}/names")
    compare(rkt, f"oci:{layout}", f"{layout}:latest")


def test_links_to_what_is_replaced_in_the_same_layer(rkt: RktContext) -> None:
    def top() -> Layer:
        return Layer().directory("./", mtime=MTIME)

    lower = top().directory("d").file("d/a", "0").link("d/z", "d/a").file("k", "0")
    cases = [
        [top().file("a", "1").link("b", "a").link("c", "b").file("a", "2").link("e", "a")],
        [top().file("a", "1").link("b", "a").symlink("a", "b")],
        [top().file("a", "1").link("b", "a").link("a", "b")],
        [top().directory("d", mtime=MTIME).file("d/a", "1").link("b", "d/a").file("d", "file")],
        [lower, top().link("b", "k").file("k", "1"), top().link("c", "b")],
        [lower, top().link("b", "d/a").file("d", "1")],
        [lower, top().link("b", "k").file("b", "x").link("c", "k").file("k", "n")],
    ]
    # what is copied for a link that is replaced in turn, directories that no entry makes
    two = top().file("b/b", "0").directory("c").link("m", "b/b").symlink("way", "/c")
    cases += [
        [two, top().link("d/x", "b/b").file("d", "1"), top().link("late", "b/b")],
        [two, top().link("d/x", "b/b").file("d", "1").link("e", "b/b"), top().link("late", "m")],
        [two, top().link("a", "b/b").symlink("b", "c").link("c", "a").file("a", "2")],
        [two, top().link("a", "b/b").file("b", "1").directory("a").file("a/a", "2")],
        [two, top().link("a", "b/b").link("a", "m").link("f", "a").file("m", "2")],
        [two, top().link("d/x", "m").link("d/y", "d/x").link("e", "d/y").file("d", "1")],
        [two, top().file("way/a", "1").symlink("way/b", "a").symlink("way", "/c").file("c/d", "2")],
        [two, top().file("way/a", "1").file("way", "2")],
        [two, top().file("b", "1").directory("b")],
        [top().file("a", "1").link("b", "a").link("c", "b").link("b", "c").file("b", "2")],
        [two, top().link("a", "b/b").link("c", "a").link("d", "a").file("a", "2")],
    ]
    # directories that are listed again, in the place of something else
    for below in (top().file("d", "1"), top().symlink("d", "/e").directory("e"), top()):
        again = top().directory("d", mode=0o700).file("d/x", "2").directory("d/y")
        again.directory("d").file("d/y/z", "3").directory("d/y", mode=0o711)
        cases.append([below, again])
    for number, layers in enumerate(cases):
        layout = Image(layers).write(f"{rkt.files}/links-{number}")
        compare(rkt, f"oci:{layout}", f"{layout}:latest")
    late = Image([lower, top().whiteout("k").link("b", "k")]).write(f"{rkt.files}/late")
    done = rkt.rkt(INSECURE, "fetch", f"oci:{late}", status=254)
    assert done.stderr.endswith('"b": hard link to "k", which is no earlier file\n')


def test_whatever_chance_makes_is_what_umoci_makes(rkt: RktContext) -> None:
    """Compare images of random entries; those that umoci itself refuses do not count."""
    compared = 0
    for seed in range(12):
        layout = _random(seed).write(f"{rkt.files}/random-{seed}")
        argv = ["umoci", "unpack", "--image", f"{layout}:latest", f"{rkt.files}/try"]
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            compare(rkt, f"oci:{layout}", f"{layout}:latest")
            compared += 1
        shutil.rmtree(f"{rkt.files}/try", ignore_errors=True)
    assert compared >= 8


def _random(seed: int) -> Image:
    chance = random.Random(seed)
    layers = []
    files: list[str] = []

    def place(depth: int = 3) -> str:
        return "/".join(chance.choice("abc") for _ in range(chance.randint(1, depth)))

    for number in range(chance.randint(2, 5)):
        layer = Layer().directory("./", mtime=MTIME + number)
        used: set[str] = set()
        for step in range(chance.randint(2, 9)):
            kind, when = chance.random(), MTIME + 100 * number + step
            path = f"{place(2)}/{chance.choice('xyz')}"
            if path in used:
                continue
            used.add(path)
            if kind < 0.4:
                layer.file(
                    path, f"{number}-{step}", mode=chance.choice((0o644, 0o4755)), mtime=when
                )
                files.append(path)
            elif kind < 0.6:
                layer.directory(f"{path}d", mode=chance.choice((0o755, 0o1777)), mtime=when)
            elif kind < 0.7:
                layer.symlink(f"{path}l", chance.choice((place(2), "/" + place(2), "../x")))
            elif kind < 0.75 and files:
                layer.link(f"{path}h", chance.choice(files), mtime=when)
            elif kind < 0.95:
                layer.whiteout(chance.choice((place(), path)))
            else:
                layer.opaque(place(2))
        layers.append(layer)
    return Image(layers)


def test_archives_of_other_tools(rkt: RktContext) -> None:
    layout = Image([busybox(), Layer().file("new", "x")]).write(f"{rkt.files}/app")
    for kind in ("oci-archive", "docker-archive"):
        path = f"{rkt.files}/{kind}.tar"
        tool(rkt, "skopeo", "copy", "--quiet", f"oci:{layout}:latest", f"{kind}:{path}:app:latest")
        compare(rkt, f"{kind}:{path}", f"{layout}:latest")


def test_out_of_the_store_and_into_another_one(rkt: RktContext) -> None:
    """An image of layers as a directory, and as one ACI that another machine can use."""
    upper = Layer().file("new", "x").whiteout("etc/gone").link("bin/cat", "bin/busybox")
    config = {"Cmd": ["/bin/cat", "/new"]}
    layout = Image([busybox(), upper], config=config).write(f"{rkt.files}/app", "v1")
    address = f"oci:{layout}"
    rkt.rkt(INSECURE, "fetch", address)
    rkt.rkt("image", "extract", "app:v1", f"{rkt.files}/extracted")
    rkt.rkt("image", "render", "app:v1", f"{rkt.files}/rendered")
    found = listing(f"{rkt.files}/rendered/rootfs")
    assert found == listing(f"{rkt.files}/extracted/rootfs")
    assert {"new", "bin/cat", "etc/passwd"} <= found.keys()
    assert "etc/gone" not in found
    for name in ("extracted", "rendered"):
        with open(f"{rkt.files}/{name}/manifest", encoding="utf-8") as file:
            manifest = json.load(file)
        assert manifest["name"] == "app"
        assert "dependencies" not in manifest
    done = rkt.rkt("image", "export", "app:v1", f"{rkt.files}/top.aci")
    assert done.stderr == (
        "rkt: warning: the files of this image are in its layers, which the ACI only names\n"
        "hint: for an ACI with all of them use rkt image render and rkt image build\n"
    )
    rkt.rkt("image", "build", f"{rkt.files}/rendered", f"{rkt.files}/whole.aci")
    rkt.rkt("image", "rm", "app:v1")
    assert rkt.rkt("image", "list", "--all", "--no-legend").stdout == "\n"
    done = rkt.rkt(INSECURE, "run", "--net=none", f"{rkt.files}/whole.aci")
    assert done.stdout == "x"


def test_layers_are_stored_once(rkt: RktContext, push: Callable[..., Image]) -> None:
    shared = [Layer().file(f"big{n}", os.urandom(3_000_000)).tar() for n in range(3)]
    push(Image([*map(Layer.of, shared), Layer().file("one")]), "one")
    push(Image([*map(Layer.of, shared), Layer().file("two")]), "two")
    rkt.rkt(INSECURE, "fetch", f"docker://{HOST}/one")
    before = _used(rkt)
    assert before < 9_000_000 * 1.15 + 500_000
    done = rkt.rkt(INSECURE, "fetch", f"docker://{HOST}/two")
    assert done.stderr.count("Downloading layer") == 1
    assert _used(rkt) - before < 200_000


def test_each_file_is_stored_once_wherever_its_layer_puts_it(rkt: RktContext) -> None:
    """A layer through a link of a lower one, or with a link to a lower file, depends on that."""
    lower = (
        Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
        .file("usr/lib/base", os.urandom(4_000_000))
        .file("usr/\udcfe", "no text")
        .file("usr/lib/cap", os.urandom(1_000_000), mode=0o4755, uid=5,
              xattrs={"security.capability": CAPABILITY, "user.x": b"y"})
    )  # fmt: skip
    through = Layer().file("lib/more", os.urandom(3_000_000), mode=0o600).file("lib/empty")
    linking = Layer().link("second", "usr/lib/base").link("third", "usr/lib/cap")
    names = Layer().file("lib/\udcff", os.urandom(2_000_000)).whiteout("usr/lib/empty")
    layout = Image([lower, through, linking, names]).write(f"{rkt.files}/app")
    compare(rkt, f"oci:{layout}", f"{layout}:latest")
    assert _used(rkt) < 10_000_000 * 1.15
    rkt.rkt("image", "verify", "--all")
    # a layer is whole without the one that it shares its files with
    assert rkt.rkt("image", "list", "--all").stdout.count("oci-layer/") == 6
    rkt.rkt("image", "gc")
    assert rkt.rkt("image", "list", "--all").stdout.count("oci-layer/") == 4
    assert _used(rkt) < 10_000_000 * 1.15
    rkt.rkt("image", "verify", "--all")


def test_a_layer_that_occurs_twice_gives_two_files(rkt: RktContext) -> None:
    def turn(target: str) -> Layer:
        return Layer().directory("./").directory(target).symlink("way", target)

    again = Layer().file("way/file", "x" * 5000).link("way/other", "way/file").tar()
    linked = Layer().link("kept", "one/file")
    layers = [turn("one"), Layer.of(again), linked, turn("two"), Layer.of(again)]
    layout = Image(layers).write(f"{rkt.files}/app")
    compare(rkt, f"oci:{layout}", f"{layout}:latest")
    rkt.rkt("image", "verify", "--all")
    # the layer alone takes the place of what a link in another one still needs
    plain = Image([Layer().file("k", "1"), Layer().link("l", "k"), Layer().file("k", "1")])
    layout = plain.write(f"{rkt.files}/plain")
    compare(rkt, f"oci:{layout}", f"{layout}:latest")


def test_a_layer_cannot_lead_the_next_one_outside(rkt: RktContext) -> None:
    victim = f"{rkt.files}/victim"
    os.mkdir(victim)
    lower = (
        Layer().symlink("out", victim).symlink("up", "../" * 20 + victim[1:])
        .directory("etc").symlink("etc/self", "/proc/self/root")
    )  # fmt: skip
    upper = Layer().file("out/a", "1").file("up/b", "2").file("etc/self/c", "3")
    layout = Image([lower, upper]).write(f"{rkt.files}/app")
    rkt.rkt(INSECURE, "fetch", f"oci:{layout}")
    rkt.rkt("image", "render", "--rootfs-only", "app:latest", f"{rkt.files}/ours")
    assert os.listdir(victim) == []
    made = listing(f"{rkt.files}/ours")
    assert {f"{victim[1:]}/a", f"{victim[1:]}/b", "proc/self/root/c"} < set(made)


def _used(rkt: RktContext) -> int:
    return int(tool(rkt, "du", "-s", "--block-size=1", rkt.data).split()[0])


def test_two_at_a_time_download_each_layer_once(
    rkt: RktContext, push: Callable[..., Image]
) -> None:
    push(Image([Layer().file(f"f{n}", os.urandom(2_000_000)) for n in range(4)]), "app")
    running = [rkt.spawn(INSECURE, "fetch", f"docker://{HOST}/app") for _ in range(2)]
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len({out for out, _ in ended}) == 1
    listed = rkt.rkt("image", "list", "--all", "--no-legend").stdout
    assert listed.count("oci-layer/") == 4


def test_a_line_for_each_download_on_a_terminal(
    rkt: RktContext, push: Callable[..., Image]
) -> None:
    made = push(Image([Layer().file(f"f{n}", os.urandom(300_000)) for n in range(3)]), "app")
    terminal = rkt.terminal(INSECURE, "fetch", f"docker://{HOST}/app")
    text = terminal.read_until("sha512-")
    assert terminal.wait() == 0
    for layer in made.layers:
        assert f"Downloading layer {layer['digest'][7:19]}: [{'=' * 30}" in text


def test_collection_waits_for_an_image_that_is_being_made(
    rkt: RktContext, push: Callable[..., Image]
) -> None:
    push(Image([busybox(), Layer().file("new", "x")]), "app")
    rkt.rkt("image", "list")
    os.makedirs(f"{rkt.data}/locks", exist_ok=True)
    locked = subprocess.Popen(
        ["flock", "--exclusive", f"{rkt.data}/locks", "sh", "-c", "echo held; cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert locked.stdout is not None
    locked.stdout.readline()
    fetching = rkt.spawn(INSECURE, "fetch", f"docker://{HOST}/app")
    assert fetching.stderr is not None
    lines = iter(fetching.stderr.readline, b"")
    while not (line := next(lines)).startswith(b"rkt: waiting for another rkt"):
        assert b"Downloading" not in line
    locked.communicate()
    assert fetching.communicate()[0].startswith(b"sha512-")
    rkt.rkt("image", "gc")
    rkt.rkt(INSECURE, "run", "--net=none", f"docker://{HOST}/app", "--exec=/bin/sh", "--", "-c",
            "test -f /new")  # fmt: skip


def test_killed_at_any_moment(rkt: RktContext, push: Callable[..., Image]) -> None:
    push(Image([Layer().file(f"f{n}", os.urandom(1_500_000)) for n in range(4)]), "app")
    address = f"docker://{HOST}/app"
    for _ in range(5):
        process = rkt.spawn(INSECURE, "fetch", address)
        assert process.stderr is not None
        for _ in range(random.randint(1, 6)):
            process.stderr.readline()
        process.kill()
        process.communicate()
    rkt.rkt(INSECURE, "fetch", address)
    rkt.rkt("image", "verify", "--all")
    assert [name for name in os.listdir(f"{rkt.data}/cas/tmp") if not name.startswith(".")] == []


def test_memory_is_bounded_whatever_the_number_of_files(rkt: RktContext) -> None:
    """Names take the most: each process that has a part in it stays below 100 MB.

    Names are in a file from less than 100 000 on: a million takes little more than these.
    """
    count = 100_000
    layers = [Layer(), Layer()]
    for number, layer in enumerate(layers):
        for one in range(count):
            layer.file(f"usr/lib/python3/dist-packages/p{number}-{one // 100}/module_{one}.py")
    for one in range(0, count, 5):
        layers[1].whiteout(f"usr/lib/python3/dist-packages/p0-{one // 100}/module_{one}.py")
    layout = Image(layers).write(f"{rkt.files}/names")
    assert rkt.peak(INSECURE, "fetch", f"oci:{layout}") < 70_000
    manifest = rkt.rkt("image", "cat-manifest", "names:latest").stdout
    assert '"imageName": "oci-layers/sha256-' in manifest, "deletions were not put apart"
