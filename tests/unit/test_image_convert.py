"""Layers as images of their own: the archives, the merged tree, the app section."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt.errors import ArchiveError, FetchError, RktError, describe
from rkt.fetch.address import classify, docker_reference
from rkt.fetch.layout import LocalFetcher
from rkt.image import layerindex, names
from rkt.image.appsection import app_section
from rkt.image.export import archive_chunks
from rkt.image.ingest import ingest
from rkt.image.layer import (
    NeedsLower,
    convert,
    index_of_archive,
    layer_name,
    scan,
)
from rkt.image.merge import Merged
from rkt.image.render import render
from rkt.image.split import skeleton
from rkt.image.verify import verify_rendered
from rkt.linux import spill
from rkt.linux.spill import Scratch
from rkt.schema.docker import parse_reference
from rkt.schema.image import decode_image_manifest
from rkt.schema.oci import ContainerConfig, Descriptor, Platform, choose
from rkt.schema.types import BadValue
from rkt.store.images import Store
from rkt.store.records import SKIPPED, Verification
from rkt_testkit.oci import Image, Layer, archive, digest, listing, pack

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from rkt.image.layerindex import LayerIndex
    from rkt.store.records import ImageRecord

NAME = layer_name("sha256:" + "0" * 64)


@pytest.fixture(name="_room", params=["memory", "file"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have names in memory, as those of small images are, or in a file at once."""
    if request.param == "file":
        monkeypatch.setattr(spill, "_EACH", 1 << 40)
        monkeypatch.setattr(names, "_FILE_ROOM", 1 << 40)
        monkeypatch.setattr(names, "_NODE_ROOM", 1 << 40)


@pytest.fixture
def store(tmp_path: pathlib.Path, _room: None) -> Iterator[Store]:
    made = Store(str(tmp_path / "data"))
    yield made
    made.close()


def converted(layer: Layer, staging: pathlib.Path) -> tuple[tarfile.TarFile, bytes, LayerIndex]:
    """Convert a layer without unpacking it; gives the image archive."""
    staging.mkdir()
    done = convert(io.BytesIO(layer.tar()), NAME, str(staging), unpack=False)
    import zstandard

    with open(staging / "blob", "rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read()
    assert len(raw) == done.size
    return tarfile.TarFile(fileobj=io.BytesIO(raw)), raw, layerindex.unpack(done.index)


def fetch(store: Store, address: str) -> ImageRecord:
    return LocalFetcher(store).fetch(classify(address), address)


# --- one layer ---------------------------------------------------------------------------------


def test_a_layer_becomes_an_archive(tmp_path: pathlib.Path) -> None:
    layer = (
        Layer().directory("./", mode=0o711).directory("./usr/").file("usr/a", "data", mode=0o4755)
        .link("usr/b", "./usr/a").symlink("/usr/c", "../x").whiteout("usr/gone").opaque("var")
        .file("usr/x" * 40, "long", uid=70_000, xattrs={"user.k": b"v", "user.a": b"b"})
        .entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3).entry("pipe", tarfile.FIFOTYPE)
        .file(".wh..wh.plnk/x", "").file(".wh..wh.aufs", "")
    )  # fmt: skip
    made, raw, index = converted(layer, tmp_path / "one")
    names = [member.name for member in made]
    assert names == [
        "rootfs", "rootfs/usr", "rootfs/usr/a", "rootfs/usr/b", "rootfs/usr/c",
        "rootfs/" + "usr/x" * 40, "rootfs/null", "rootfs/pipe", "manifest",
    ]  # fmt: skip
    assert made.getmember("rootfs").mode == 0o711
    assert made.getmember("rootfs/usr/b").linkname == "rootfs/usr/a"
    assert made.getmember("rootfs/usr/c").linkname == "../x"
    long = made.getmember("rootfs/" + "usr/x" * 40)
    assert (long.uid, long.pax_headers["SCHILY.xattr.user.k"]) == (70_000, "v")
    assert (made.getmember("rootfs/null").devminor, made.getmember("rootfs/usr/a").mode) == (
        3, 0o4755,
    )  # fmt: skip
    manifest = decode_image_manifest(made.extractfile("manifest").read())  # type: ignore[union-attr]
    assert manifest.name == NAME
    assert manifest.annotation("oci/whiteouts") == ".wh.aufs usr/gone"
    assert manifest.annotation("oci/opaques") == "var"
    assert converted(layer, tmp_path / "two")[1] == raw
    # what an index file says can be had from the archive too
    notes = {note.name: note.value for note in manifest.annotations}
    again = index_of_archive(iter((raw,)), notes)
    assert (again.entries, again.root) == (index.entries, index.root)
    assert list(again.whiteouts) == sorted(index.whiteouts) == [b".wh.aufs", b"usr/gone"]
    assert list(again.opaques) == list(index.opaques) == [b"var"]


def test_a_layer_without_an_entry_for_the_root_says_nothing_of_it(tmp_path: pathlib.Path) -> None:
    made, raw, index = converted(Layer().file("a", ""), tmp_path / "x")
    assert [member.name for member in made] == ["rootfs/a", "rootfs", "manifest"]
    assert index.root is None
    assert index_of_archive(iter((raw,)), {}).root is None


def test_layers_without_an_end_and_without_entries(tmp_path: pathlib.Path) -> None:
    whole = Layer().file("a", "x").tar()
    made, raw, _ = converted(Layer.of(whole[:1024]), tmp_path / "cut")
    assert "rootfs/a" in made.getnames()
    assert converted(Layer.of(whole), tmp_path / "whole")[1] == raw
    for number, empty in enumerate((b"", bytes(1024), bytes(10240))):
        made, _, _ = converted(Layer.of(empty), tmp_path / str(number))
        assert made.getnames() == ["rootfs", "manifest"]


def test_sparse_files_stay_sparse(tmp_path: pathlib.Path) -> None:
    records = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "big",
        "GNU.sparse.realsize": str(1 << 33),
    }  # fmt: skip
    table = b"2\n4096\n5\n8589930000\n3\n".ljust(512, b"\0")
    layer = Layer().file("GNUSparseFile.0/big", table + b"hello" + b"end", pax_headers=records)
    _, raw, index = converted(layer, tmp_path / "x")
    assert next(iter(index.entries))[1] == b"big"
    assert len(raw) < 20_000
    made = tarfile.TarFile(fileobj=io.BytesIO(raw))
    assert made.getmember("rootfs/big").size == 1 << 33
    file = made.extractfile("rootfs/big")
    assert file is not None
    file.seek(4090)
    assert file.read(16) == bytes(6) + b"hello" + bytes(5)


def test_entries_that_come_twice_and_go_through_links(tmp_path: pathlib.Path) -> None:
    layer = (
        Layer().directory("usr", mode=0o700).file("f", "old").directory("usr").file("f", "new")
        .symlink("lib", "usr/lib").directory("usr/lib").file("lib/one", "1")
        .symlink("abs", "/usr").file("abs/lib/two", "2").symlink("up", "../../../usr")
        .file("up/three", "3").file("d", "").directory("d").file("d/x", "")
    )  # fmt: skip
    made, _, index = converted(layer, tmp_path / "x")
    names = made.getnames()
    assert len(set(names)) == len(names)
    assert {"rootfs/usr/lib/one", "rootfs/usr/lib/two", "rootfs/usr/three", "rootfs/d/x"} < set(
        names
    )
    assert made.extractfile("rootfs/f").read() == b"new"  # type: ignore[union-attr]
    assert made.getmember("rootfs/usr").mode == 0o755
    assert made.getmember("rootfs/d").isdir()
    assert (tar_kind := made.getmember("rootfs/lib")).issym() and tar_kind.linkname == "usr/lib"
    with Scratch.within(str(tmp_path)) as scratch:
        assert Merged(scratch).apply(index).is_plain


@pytest.mark.parametrize(("layer", "expected"), [
    (Layer().file("a/../../b"), 'entry "a/../../b": path contains ".."'),
    (Layer().link("a", "../etc/passwd"), 'entry "../etc/passwd": path contains ".."'),
    (Layer().file("f", "").file("f/g", ""), '"f": "f" is not a directory'),
    (Layer().symlink("l", "l").file("l/x", ""), '"l": too many levels of symbolic links'),
    (Layer().file("x/.wh...", ""), '"x/.wh...": bad whiteout'),
    (Layer().file(".", ""), '".": the root must be a directory'),
    (Layer().symlink("l", ""), '"l": symbolic link without a target'),
    (Layer().entry("x", b"9"), '"x": unsupported type: 57'),
    (Layer.of(b"x" * 2000), "malformed archive: bad checksum in a header"),
    (Layer.of(Layer().file("a", "x" * 5000).tar()[:2048]),
     "malformed archive: unexpected end of file"),
    (Layer.of(Layer().file("a").tar() + b"x" * 512),
     "malformed archive: data after the end of the archive"),
])  # fmt: skip
def test_bad_layers(tmp_path: pathlib.Path, layer: Layer, expected: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        converted(layer, tmp_path / "x")
    assert caught.value.message == expected


def test_a_link_to_a_lower_layer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NeedsLower):
        converted(Layer().link("b", "a"), tmp_path / "x")


# --- the merged tree ---------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: pathlib.Path, _room: None) -> Iterator[Scratch]:
    with Scratch.within(str(tmp_path)) as made:
        yield made


def merged(scratch: Scratch, *layers: Layer) -> Merged:
    tree = Merged(scratch)
    for layer in layers:
        tree.apply(scan(io.BytesIO(layer.tar())))
    return tree


def bare(tree: Merged) -> set[bytes]:
    return {path for path, _ in tree.bare_directories().items()}


def test_deletions(scratch: Scratch) -> None:
    base = Layer().directory("a").file("a/x").file("a/y").directory("b").file("b/z").file("c")
    tree = merged(
        scratch, base, Layer().whiteout("a/x").opaque("b").file("b/new").whiteout("none/at/all")
    )
    assert set(tree.paths()) == {b"a", b"a/y", b"b", b"b/new", b"c"}
    # what a layer deletes is below it, never its own
    tree = merged(
        scratch, base, Layer().file("a/x", "new").whiteout("a/x").whiteout("c").file("c/now/dir")
    )
    assert set(tree.paths()) >= {b"a/x", b"c", b"c/now", b"c/now/dir"}
    tree = merged(scratch, base, Layer().whiteout("b"), Layer().file("b/again"))
    assert bare(tree) == {b"b"}  # its owner and mode are not those of the deleted one
    tree = merged(scratch, base, Layer().whiteout("b"), Layer().directory("b"))
    assert bare(tree) == set()


def test_types_change(scratch: Scratch) -> None:
    base = Layer().directory("d").file("d/x").file("f").symlink("s", "d")
    tree = merged(scratch, base, Layer().file("d").directory("f").directory("s").file("s/y"))
    assert set(tree.paths()) == {b"d", b"f", b"s", b"s/y"}
    tree = merged(scratch, base, Layer().file("s/y"))
    assert set(tree.paths()) == {b"d", b"d/x", b"d/y", b"f", b"s"}


def test_a_link_leads_nowhere_but_inside(scratch: Scratch) -> None:
    base = Layer().symlink("up", "../../../etc").symlink("abs", "/etc").symlink("none", "x/y")
    top = Layer().file("up/a").file("abs/b").file("none/c")
    assert set(merged(scratch, base, top).paths()) >= {b"etc/a", b"etc/b", b"x/y/c"}


# --- whole images ------------------------------------------------------------------------------


def test_every_archive_is_a_valid_image(store: Store, tmp_path: pathlib.Path) -> None:
    lower = Layer().directory("./").directory("a").file("a/x", "1").file("a/y").symlink("l", "a")
    upper = Layer().whiteout("a/y").link("b", "a/x").file("l/via", "2")
    path = Image([lower, upper]).write(str(tmp_path / "img"))
    fetch(store, f"oci:{path}")
    other = Store(str(tmp_path / "other"))
    for number, record in enumerate(store.list()):
        target = tmp_path / f"{number}.aci"
        with open(target, "wb") as file:
            for chunk in archive_chunks(store, record.key):
                file.write(chunk)
        again = ingest(other, str(target), source="x", verification=Verification(SKIPPED))
        assert again.digest == record.digest
        assert again.name == record.name
    assert len(other.list()) == 4  # two layers, the selection, the image
    other.close()


def test_layers_are_shared_and_ids_are_fixed(store: Store, tmp_path: pathlib.Path) -> None:
    base = Layer().directory("bin").file("bin/sh", "sh").tar()
    one = Image([Layer.of(base), Layer().file("one")])
    two = Image([Layer.of(base), Layer().file("two")])
    first = fetch(store, f"oci:{one.write(str(tmp_path / 'one'))}")
    second = fetch(store, f"oci:{two.write(str(tmp_path / 'two'))}")
    assert len(store.list()) == 5
    assert first.name == "one"
    assert second.label("version") == "latest"
    again = fetch(store, f"oci:{tmp_path}/one:latest")  # with and without the tag
    assert first.digest == again.digest


def test_any_number_of_files_can_be_left_of_a_layer(
    store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = Layer().directory("./").directory("a", mode=0o700, mtime=5)
    for number in range(40):
        lower.file(f"a/f{number:02}", str(number)).file(f'a/b/"{number:02}"', "x" * number)
    lower.link("a/z", "a/f00").link("a/b/z", "a/f07")
    upper = Layer().file("a/f03", "new")
    top = Layer()
    for number in range(20):
        top.whiteout(f"a/f{number:02}")
    path = Image([lower, upper, top]).write(str(tmp_path / "img"))
    whole = fetch(store, f"oci:{path}")
    tree = listing(render(store, whole.key).rootfs)
    assert len([name for name in tree if name.startswith("a/f")]) == 20
    monkeypatch.setattr("rkt.image.convert.MAX_WHITELIST", 200)
    other = Store(str(tmp_path / "other"))
    parts = fetch(other, f"oci:{path}")
    lists = [
        decode_image_manifest(other.manifest_bytes(one.key), "x").path_whitelist
        for one in other.list()
        if one.name.startswith("oci-layers/")
    ]
    assert len(lists) > 5
    assert all(sum(map(len, one)) < 300 for one in lists)
    assert listing(render(other, parts.key).rootfs) == tree
    verify_rendered(other, parts.key)
    other.close()


def test_forms_of_one_image(store: Store, tmp_path: pathlib.Path) -> None:
    made = Image([Layer().file("a", "1")], compression="none")
    layout = made.write(str(tmp_path / "app"), "v1")
    record = fetch(store, f"oci:{layout}:v1")
    assert (record.name, record.label("version")) == ("app", "v1")
    packed = archive(layout, str(tmp_path / "app.tar"))
    assert fetch(store, f"oci-archive:{packed}").digest == record.digest
    with open(packed, "rb") as file, open(tmp_path / "zipped", "wb") as out:
        out.write(pack(file.read(), "gzip"))
    os.rename(tmp_path / "zipped", tmp_path / "app.tar.gz")
    assert fetch(store, f"oci-archive:{tmp_path}/app.tar.gz:v1").digest == record.digest
    saved = made.save(str(tmp_path / "saved.tar"), "busybox:1.0", "quay.io/x/y:z")
    record = fetch(store, f"docker-archive:{saved}")
    assert record.name == "registry-1.docker.io/library/busybox"
    assert record.label("version") == "1.0"
    assert fetch(store, f"docker-archive:{saved}:quay.io/x/y:z").name == "quay.io/x/y"
    layers = [one for one in store.list() if one.name.startswith("oci-layer/")]
    assert len(layers) == 1  # the same bytes, whatever brought them


@pytest.mark.parametrize(("tag", "name", "version"), [
    ("", "quay.io/x/y", "1"), ("quay.io/x/y:2", "quay.io/x/y", "2"), ("y:2", "quay.io/x/y", "2"),
    ("x/y:1", "quay.io/x/y", "1"), ("y", "localhost/y", "latest"), ("localhost/y", "localhost/y",
    "latest"), ("2", "", ""), ("y:3", "", ""), ("quay.io/x/y", "", ""),
])  # fmt: skip
def test_tags_of_a_saved_image(
    store: Store, tmp_path: pathlib.Path, tag: str, name: str, version: str
) -> None:
    tags = ("quay.io/x/y:1", "quay.io/x/y:2", "localhost/y:latest")
    saved = Image([Layer().file("a", "1")]).save(str(tmp_path / "saved.tar"), *tags)
    address = f"docker-archive:{saved}" + (f":{tag}" if tag else "")
    if not name:
        listed = f"(there are: {', '.join(tags)})"
        assert failure(store, address) == f'"{saved}": no image with the tag "{tag}" {listed}'
        return
    record = fetch(store, address)
    assert (record.name, record.label("version")) == (name, version)


def failure(store: Store, address: str) -> str:
    with pytest.raises(RktError) as caught:
        fetch(store, address)
    return describe(caught.value)


def test_bad_layouts(store: Store, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "img")
    assert failure(store, f"oci:{path}:v1") == f'"oci:{path}:v1": no such file or directory'
    os.mkdir(path)
    assert failure(store, f"oci:{path}") == f'"{path}": not an OCI image layout'
    made = Image([Layer().file("a")])
    made.write(path, "v1")
    assert failure(store, f"oci:{path}:v2") == (
        f'"{path}": no image with the tag "v2" (there are: v1)'
    )
    blob = f"{path}/blobs/{made.layers[0]['digest'].replace(':', '/')}"
    size = os.path.getsize(blob)
    with open(blob, "r+b") as file:
        file.seek(size - 1)
        file.write(b"x")
    with open(blob, "rb") as file:
        wrong = digest(file.read())
    name = os.path.relpath(blob, path)
    assert failure(store, f"oci:{path}") == f'"{name}": its digest is {wrong}'
    os.truncate(blob, size - 1)
    assert failure(store, f"oci:{path}") == f'"{name}": has {size - 1} bytes instead of {size}'
    os.unlink(blob)
    assert failure(store, f"oci:{path}") == f'"{blob}": no such file'
    os.mkfifo(blob)
    assert failure(store, f"oci:{path}").endswith("is not a regular file")
    assert store.list() == []


def test_bad_archives(store: Store, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "x.tar")
    made = Image([Layer().file("a")])
    made.save(path)
    assert failure(store, f"oci-archive:{path}") == f'"{path}": not an OCI image layout'
    made.config["rootfs"] = {"type": "layers", "diff_ids": []}
    made.config_descriptor["digest"] = digest(b"")
    made.save(path)
    assert failure(store, f"docker-archive:{path}").startswith(
        f'"{path}": configuration: its digest is sha256:'
    )
    with open(path, "wb") as file:
        file.write(b"text")
    assert failure(store, f"docker-archive:{path}") == f'"{path}": error: unknown image filetype'
    wrong = Image([Layer().file("a", "1")])
    other = Image([Layer().file("a", "2")])
    wrong.tars = other.tars
    wrong.save(path)
    assert failure(store, f"docker-archive:{path}").endswith(
        f"its digest is {digest(other.tars[0])}"
    )
    with tarfile.open(path, "w"):
        pass
    assert failure(store, f"docker-archive:{path}") in (
        f'"{path}": not an archive of docker save: it has no manifest.json',
        f'"{path}": error: unknown image filetype',
    )


def test_several_images_in_one_layout(store: Store, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "img")
    one, two = Image([Layer().file("a")]), Image([Layer().file("b")])
    one.write(path, "one")
    key = "org.opencontainers.image.ref.name"
    two.write(path, "two", manifests=[
        {**one.descriptor, "annotations": {key: "one"}},
        {**two.descriptor, "annotations": {key: "example.com/team/app:two"}},
    ])  # fmt: skip
    assert failure(store, f"oci:{path}") == (
        f'"{path}": several images, give a tag (there are: example.com/team/app:two, one)'
    )
    record = fetch(store, f"oci:{path}:example.com/team/app:two")
    assert (record.name, record.label("version")) == ("example.com/team/app", "two")


def test_index_files_are_for_root_s_eyes(store: Store, tmp_path: pathlib.Path) -> None:
    fetch(store, f"oci:{Image([Layer().file('a')]).write(str(tmp_path / 'img'))}")
    layer = next(one for one in store.list() if one.name.startswith("oci-layer/"))
    if layer.unpacked:
        index = layerindex.read(f"{store.tree_path(layer.key)}/index")
        assert index is not None
        assert (32768, b"a", b"") in index.entries
        with open(store.split_path(layer.key), "rb") as file:
            assert index_of_archive(skeleton(file), {}).entries == index.entries
    assert layerindex.read(str(tmp_path / "none")) is None


# --- configuration -----------------------------------------------------------------------------


def test_app_section() -> None:
    told: list[str] = []
    config = ContainerConfig(
        user="web:www", env=("A=1", "B=x=y", "A=2", "bad name=1", "EMPTY"),
        entrypoint=("/run",), cmd=("--flag",), working_dir="srv",
        volumes=dict.fromkeys(("/data/db", "/data.db", "/b")),
        exposed_ports=dict.fromkeys(("80/tcp", "53/udp", "90", "8000-8010/tcp", "x/tcp", "0")),
    )  # fmt: skip
    app = app_section(config, told.append)
    assert app is not None
    assert (app.exec, app.user, app.group) == (("/run", "--flag"), "web", "www")
    assert app.working_directory == "/srv"
    env = [(one.name, one.value) for one in app.environment]
    assert env == [("A", "2"), ("B", "x=y"), ("EMPTY", "")]
    points = [(one.name, one.path) for one in app.mount_points]
    assert points == [
        ("volume-b", "/b"), ("volume-data-db", "/data.db"), ("volume-data-db-1", "/data/db")
    ]  # fmt: skip
    ports = [(one.name, one.protocol, one.port, one.count) for one in app.ports]
    assert ports == [
        ("53-udp", "udp", 53, 1), ("80-tcp", "tcp", 80, 1), ("8000-8010-tcp", "tcp", 8000, 11),
        ("90-tcp", "tcp", 90, 1),
    ]  # fmt: skip
    assert len(told) == 3
    assert app_section(ContainerConfig(), told.append) is None
    plain = app_section(ContainerConfig(cmd=("x",), user="7"), told.append)
    assert plain is not None
    assert (plain.user, plain.group) == ("7", "7")
    root = app_section(ContainerConfig(cmd=("x",)), told.append)
    assert root is not None
    assert (root.user, root.group) == ("0", "0")


@pytest.mark.parametrize(("text", "expected"), [
    ("busybox", "registry-1.docker.io/library/busybox:latest"),
    ("docker.io/busybox", "registry-1.docker.io/library/busybox:latest"),
    ("team/app:v1", "registry-1.docker.io/team/app:v1"),
    ("quay.io/coreos/etcd:v2.0.0", "quay.io/coreos/etcd:v2.0.0"),
    ("localhost/x", "localhost/x:latest"),
    ("host:5000/x", "host:5000/x:latest"),
    ("[::1]:5000/x/y", "[::1]:5000/x/y:latest"),
    ("x@sha256:" + "a" * 64, "registry-1.docker.io/library/x@sha256:" + "a" * 64),
    ("h.io/x:t@sha256:" + "a" * 64, "h.io/x:t@sha256:" + "a" * 64),
])  # fmt: skip
def test_references(text: str, expected: str) -> None:
    assert str(parse_reference(text)) == expected


@pytest.mark.parametrize("text", [
    "", "UPPER", "a//b", "/a", "a/", "a:", "a:b:c", "a@sha256:x", "a@", "../a", "a b", "-a",
    "host:x/a", "a:" + "x" * 129, "h.io/" + "x" * 256, "a?b", "a\n", "h.io/a#b", "u@h.io/a",
])  # fmt: skip
def test_bad_references(text: str) -> None:
    with pytest.raises(BadValue):
        parse_reference(text)
    with pytest.raises(FetchError) as caught:
        docker_reference(f"docker://{text}")
    assert 'expected syntax is "docker://[REGISTRY_HOST[:REGISTRY_PORT]/]IMAGE_NAME[:TAG]"' in (
        caught.value.message
    )


def test_platforms() -> None:
    def one(number: int, arch: str, variant: str | None = None) -> Descriptor:
        platform = Platform("linux", arch, variant) if arch else None
        return Descriptor(f"sha256:{number:064d}", 1, platform=platform)

    def chosen(*found: Descriptor, wanted: Platform) -> int | None:
        best = choose(found, wanted)
        return int(best.digest[7:]) if best else None

    arm = (one(1, "arm", "v6"), one(2, "arm", "v7"), one(3, "arm", "v5"), one(4, "amd64"))
    assert chosen(*arm, wanted=Platform("linux", "arm", "v7")) == 2
    assert chosen(arm[0], arm[2], wanted=Platform("linux", "arm", "v7")) == 1
    assert chosen(arm[1], wanted=Platform("linux", "arm", "v6")) is None
    assert chosen(*arm, wanted=Platform("linux", "amd64")) == 4
    assert chosen(one(1, ""), one(2, "amd64"), wanted=Platform("linux", "amd64")) == 2
    assert chosen(one(1, ""), wanted=Platform("linux", "amd64")) == 1
    assert chosen(one(1, "amd64", "v3"), one(2, "amd64"), wanted=Platform("linux", "amd64")) == 2
    assert chosen(one(1, "arm64"), wanted=Platform("linux", "arm64", "v8")) == 1
