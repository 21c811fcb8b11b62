"""Rendering: the order of dependencies, whitelists, upper wins, one tree for one list."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from rkt.errors import KernelError, RenderError
from rkt.image import ingest
from rkt.image.order import dependency_order
from rkt.image.render import Tree, copy_tree, render
from rkt.store.images import Store
from rkt.store.records import VERIFIED, ImageKey, Verification
from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(ingest, "can_own_files", lambda: True)
    store = Store(f"{tmp_path}/data")
    yield store
    store.close()


def put(
    store: Store,
    name: str,
    *needs: object,
    files: Sequence[str] = (),
    whitelist: Sequence[str] = (),
    builder: AciBuilder | None = None,
) -> ImageKey:
    """Store the image example.com/NAME; its files hold its name."""
    builder = builder or AciBuilder(f"example.com/{name}")
    for path in files:
        builder.file(path, name, owner=(os.geteuid(), os.getegid()))
    builder.manifest["dependencies"] = [
        need if isinstance(need, dict) else {"imageName": f"example.com/{need}"} for need in needs
    ]
    builder.manifest["pathWhitelist"] = list(whitelist)
    path = f"{os.path.dirname(store.data_dir)}/{name}.aci"
    with open(path, "wb") as file:
        file.write(builder.tar())
    return ingest.ingest(store, path, source=path, verification=Verification(VERIFIED)).key


def names(store: Store, key: ImageKey) -> list[str]:
    return [
        store.get(e.key).name.removeprefix("example.com/") for e in dependency_order(store, key)
    ]


def content(tree: Tree) -> dict[str, str]:
    found = {}
    for folder, _, files in os.walk(tree.rootfs):
        for name in files:
            path = os.path.join(folder, name)
            with open(path, encoding="utf-8") as file:
                found[os.path.relpath(path, tree.rootfs)] = file.read()
    return found


def test_the_order_of_the_reference(store: Store) -> None:
    put(store, "d")
    put(store, "b")
    put(store, "c", "d")
    assert names(store, put(store, "a", "b", "c")) == ["a", "c", "d", "b"]


def test_a_diamond_is_visited_once_for_each_path(store: Store) -> None:
    put(store, "d")
    put(store, "b", "d")
    put(store, "c", "d")
    assert names(store, put(store, "a", "b", "c")) == ["a", "c", "d", "b", "d"]


def test_an_image_alone_is_its_own_tree(store: Store) -> None:
    key = put(store, "a", files=["f"])
    tree = render(store, key)
    assert tree == Tree(key, f"{store.tree_path(key)}/rootfs")
    assert store.trees() == [key]


def test_upper_wins(store: Store) -> None:
    put(store, "low", files=["a", "b", "c", "dir/x", "only/low"])
    put(store, "mid", files=["b", "c", "dir/y"])
    key = put(store, "top", "low", "mid", files=["c"])
    tree = render(store, key)
    assert tree.id.startswith("deps-sha512-")
    assert len(tree.id) == len("deps-sha512-") + 64
    assert content(tree) == {
        "a": "low", "b": "mid", "c": "top", "dir/x": "low", "dir/y": "mid", "only/low": "low",
    }  # fmt: skip
    with open(f"{store.tree_path(tree.id)}/manifest", "rb") as file:
        assert file.read() == store.manifest_bytes(key)
    low = store.find("example.com/low", {})
    assert low is not None
    assert os.path.samefile(f"{tree.rootfs}/a", f"{store.tree_path(low.key)}/rootfs/a")
    before = os.stat(tree.rootfs).st_ino
    assert render(store, key) == tree
    assert os.stat(tree.rootfs).st_ino == before
    assert os.listdir(f"{store.path}/tmp") == []
    assert os.listdir(f"{store.path}/treelocks") == []


def test_kinds_replace_each_other(store: Store, tmp_path: Path) -> None:
    low = AciBuilder("example.com/low").symlink("d", str(tmp_path)).symlink("l", "/etc")
    put(store, "low", files=["f/inner", "g"], builder=low)
    top = AciBuilder("example.com/top")
    key = put(store, "top", "low", files=["d/x", "f", "l", "g/inner"], builder=top)
    tree = render(store, key)
    assert content(tree) == {"d/x": "top", "f": "top", "l": "top", "g/inner": "top"}
    assert not os.path.islink(f"{tree.rootfs}/d")
    assert not os.path.exists(f"{tmp_path}/x")


def test_a_directory_that_is_only_implied_takes_the_lower_one_s_mode(store: Store) -> None:
    me = (os.geteuid(), os.getegid())
    low = AciBuilder("example.com/low").directory("tmp", 0o1777, owner=me)
    put(store, "low", builder=low)
    tree = render(store, put(store, "top", "low", files=["tmp/f"]))
    assert stat.S_IMODE(os.stat(f"{tree.rootfs}/tmp").st_mode) == 0o1777
    assert content(tree) == {"tmp/f": "top"}


def test_own_whitelist_leaves_files_out_and_keeps_directories(store: Store) -> None:
    me = (os.geteuid(), os.getegid())
    builder = AciBuilder("example.com/a").directory("empty", 0o701, owner=me)
    key = put(store, "a", files=["keep", "drop", "d/keep"], builder=builder,
              whitelist=["/keep", "/d/keep/"])  # fmt: skip
    tree = render(store, key)
    assert tree.id.startswith("deps-")
    assert content(tree) == {"keep": "a", "d/keep": "a"}
    assert stat.S_IMODE(os.stat(f"{tree.rootfs}/empty").st_mode) == 0o701


def test_an_ancestor_s_whitelist_holds_for_directories_too(store: Store) -> None:
    me = (os.geteuid(), os.getegid())
    low = AciBuilder("example.com/low").directory("d1", owner=me).directory("d2", owner=me)
    put(store, "low", files=["x", "y", "d2/z"], builder=low, whitelist=["/x", "/y", "/d2/z"])
    put(store, "mid", "low", files=["m"], whitelist=["/x"])
    key = put(store, "top", "mid", files=["t"], whitelist=["/t", "/y", "/d1", "/d2/z"])
    tree = render(store, key)
    assert content(tree) == {"t": "top", "y": "low", "d2/z": "low"}
    assert sorted(os.listdir(tree.rootfs)) == ["d1", "d2", "t", "y"]


def test_a_sibling_s_whitelist_does_not_count(store: Store) -> None:
    put(store, "low", files=["x"])
    put(store, "one", "low")
    put(store, "two", files=["y"], whitelist=["/y"])
    assert content(render(store, put(store, "top", "two", "one"))) == {"x": "low", "y": "two"}


def test_a_hidden_first_name_of_a_hard_link(store: Store) -> None:
    me = (os.geteuid(), os.getegid())
    builder = AciBuilder("example.com/a").file("one", b"x", owner=me).hardlink("two", "one")
    tree = render(store, put(store, "a", builder=builder, whitelist=["/two"]))
    assert content(tree) == {"two": "x"}


def test_dependencies_by_label_and_by_id(store: Store) -> None:
    old = AciBuilder("example.com/low", version="1").file("f", b"old")
    new = AciBuilder("example.com/low", version="2").file("f", b"new")
    first = put(store, "low", builder=old)
    put(store, "low", builder=new)
    need = {"imageName": "example.com/low"}
    version = {**need, "labels": [{"name": "version", "value": "1"}]}
    assert content(render(store, put(store, "a", version))) == {"f": "old"}
    pinned = {**need, "imageID": "sha512-" + store.get(first).digest}
    assert content(render(store, put(store, "b", pinned))) == {"f": "old"}
    assert content(render(store, put(store, "c", need))) == {"f": "new"}


def test_a_dependency_stored_after_the_check_is_not_used(store: Store) -> None:
    first = put(store, "low", builder=AciBuilder("example.com/low", version="1").file("f", b"old"))
    top = put(store, "a", {"imageName": "example.com/low"})
    store.pin(top, frozenset((top, first)))
    put(store, "low", builder=AciBuilder("example.com/low", version="2").file("f", b"new"))
    with pytest.raises(RenderError) as caught:
        render(store, top)
    text = f'image "{top}": its dependencies changed meanwhile, try again'
    assert caught.value.message == text


def test_what_is_missing_is_named(store: Store) -> None:
    need = {
        "imageName": "example.com/low",
        "labels": [{"name": "version", "value": "1"}, {"name": "os", "value": "linux"}],
    }
    with pytest.raises(RenderError) as caught:
        render(store, put(store, "a", need))
    assert caught.value.message == (
        'dependency of image "example.com/a": cannot find aci satisfying name: "example.com/low" '
        "and labels: os=linux, version=1 in the local store"
    )
    assert caught.value.hint == "rkt fetch example.com/low"
    missing = "sha512-" + "ab" * 64
    with pytest.raises(RenderError, match=f'with ID "{missing}" is not in the local store'):
        render(store, put(store, "b", {"imageName": "example.com/low", "imageID": missing}))
    other = put(store, "other")
    with pytest.raises(RenderError, match=r'has the name "example.com/other"'):
        render(store, put(store, "c", {"imageName": "example.com/low", "imageID": other}))


def test_cycles(store: Store) -> None:
    put(store, "b", "a")
    key = put(store, "a", "b")
    with pytest.raises(RenderError, match=f'image "{key}" depends on itself'):
        render(store, key)


def test_exponential_dependencies(store: Store) -> None:
    put(store, "n0")
    key = ImageKey("")
    for level in range(1, 14):
        key = put(store, f"n{level}", f"n{level - 1}", f"n{level - 1}")
    with pytest.raises(RenderError, match="has more than 4096 dependencies"):
        render(store, key)


def test_a_failed_render_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "low", files=["a"])
    key = put(store, "top", "low", files=["b"])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(KernelError, match="No space left on device"):
        render(store, key)
    assert not [tree for tree in store.trees() if tree.startswith("deps-")]
    assert os.listdir(f"{store.path}/tmp") == []


def test_copy_tree(store: Store, tmp_path: Path) -> None:
    me = (os.geteuid(), os.getegid())
    builder = AciBuilder("example.com/a").directory("d", 0o750, owner=me)
    builder.file("d/f", b"x" * 70000, mode=0o640, owner=me).hardlink("g", "d/f").symlink("l", "/x")
    tree = render(store, put(store, "a", builder=builder))
    copy_tree(tree.rootfs, f"{tmp_path}/copy")
    copy = f"{tmp_path}/copy"
    assert sorted(os.listdir(copy)) == ["d", "g", "l"]
    assert os.path.samefile(f"{copy}/g", f"{copy}/d/f")
    assert not os.path.samefile(f"{copy}/g", f"{tree.rootfs}/g")
    assert os.readlink(f"{copy}/l") == "/x"
    for path in (".", "d", "g", "l"):
        one, two = os.lstat(f"{tree.rootfs}/{path}"), os.lstat(f"{copy}/{path}")
        assert (one.st_mode, one.st_mtime_ns, one.st_size) == (
            two.st_mode, two.st_mtime_ns, one.st_size)  # fmt: skip
    with open(f"{copy}/g", "ab") as file:
        file.write(b"changed")
    assert os.stat(f"{tree.rootfs}/g").st_size == 70000
