"""Key directories: prefixes, order, masks, what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt.errors import ConfigError, KernelError, RktError
from rkt.keystore.keys import Keystore
from rkt.keystore.packets import PublicKey, public_keys

if TYPE_CHECKING:
    import pathlib


def make_key(letter: bytes) -> PublicKey:
    """Make something that has the form of a key."""
    body = b"\x04" + letter * 50
    return public_keys(bytes([0xC6, len(body)]) + body)[0]


ONE, TWO = make_key(b"1"), make_key(b"2")


class Dirs:
    """A system and a local configuration directory."""

    def __init__(self, top: str) -> None:
        self.system, self.local = f"{top}/system", f"{top}/local"
        self.keystore = Keystore(system=self.system, local=self.local)

    def put(self, layer: str, where: str, key: PublicKey, *, empty: bool = False) -> str:
        """Write a key file, or an empty one that masks it."""
        directory = f"{getattr(self, layer)}/trustedkeys/{where}"
        os.makedirs(directory, exist_ok=True)
        path = f"{directory}/{key.fingerprint}"
        with open(path, "wb") as file:
            file.write(b"" if empty else key.armored)
        return path

    def found(self, name: str) -> set[tuple[str, str | None]]:
        """Give fingerprints and prefixes of the keys for a name."""
        return {(key.fingerprint, key.prefix) for key in self.keystore.keys_for(name)}


@pytest.fixture
def dirs(tmp_path: pathlib.Path) -> Dirs:
    return Dirs(str(tmp_path))


def test_nothing_is_there(dirs: Dirs) -> None:
    assert dirs.keystore.keys_for("example.com/app") == []
    assert not dirs.keystore.has_prefix_key("example.com/app")
    assert dirs.keystore.all_keys() == []


def test_root_and_prefix_keys(dirs: Dirs) -> None:
    dirs.put("system", "root.d", ONE)
    dirs.put("local", "prefix.d/example.com/app", TWO)
    both = {(ONE.fingerprint, None), (TWO.fingerprint, "example.com/app")}
    assert dirs.found("example.com/app") == both
    assert dirs.found("example.com/app/sub") == both
    assert dirs.found("example.com") == {(ONE.fingerprint, None)}
    assert dirs.found("example.org/app") == {(ONE.fingerprint, None)}
    assert {key.fingerprint for key in dirs.keystore.all_keys()} == {
        ONE.fingerprint, TWO.fingerprint,
    }  # fmt: skip


def test_a_directory_counts_as_a_prefix_of_the_string(dirs: Dirs) -> None:
    dirs.put("local", "prefix.d/example.com/ap", ONE)
    assert dirs.found("example.com/app") == {(ONE.fingerprint, "example.com/ap")}
    assert dirs.found("example.com/other") == set()
    dirs.put("local", "prefix.d/example.co", TWO)
    assert dirs.found("example.com/other") == set()


def test_masks_remove_what_was_collected_before_them(dirs: Dirs) -> None:
    dirs.put("system", "root.d", ONE)
    dirs.put("local", "root.d", ONE, empty=True)
    assert dirs.found("example.com/app") == set()
    dirs.put("system", "prefix.d/example.com", ONE)  # read after the mask
    assert dirs.found("example.com/app") == {(ONE.fingerprint, "example.com")}
    dirs.put("local", "prefix.d/example.com", ONE, empty=True)
    assert dirs.found("example.com/app") == set()


def test_key_file_with_another_key(dirs: Dirs) -> None:
    path = dirs.put("local", "root.d", ONE)
    os.rename(path, os.path.join(os.path.dirname(path), TWO.fingerprint))
    with pytest.raises(ConfigError, match="fingerprint mismatch: "):
        dirs.keystore.keys_for("example.com/app")


def test_key_file_that_is_none(dirs: Dirs) -> None:
    path = dirs.put("local", "root.d", ONE)
    with open(path, "wb") as file:
        file.write(b"hello")
    with pytest.raises(ConfigError, match=r'key file ".*": this is not OpenPGP data'):
        dirs.keystore.keys_for("example.com/app")


def test_half_written_file_of_another_rkt_is_ignored(dirs: Dirs) -> None:
    path = dirs.put("local", "root.d", ONE)
    os.rename(path, f"{path}.77.tmp")
    assert dirs.keystore.keys_for("example.com/app") == []


def test_adding(dirs: Dirs) -> None:
    old = os.umask(0o077)
    try:
        path = dirs.keystore.add_prefix("example.com/app", ONE.armored, ONE.fingerprint)
        root = dirs.keystore.add_root(TWO.armored, TWO.fingerprint)
    finally:
        os.umask(old)
    base = f"{dirs.local}/trustedkeys"
    assert path == f"{base}/prefix.d/example.com/app/{ONE.fingerprint}"
    assert root == f"{base}/root.d/{TWO.fingerprint}"
    assert os.stat(path).st_mode & 0o777 == 0o644
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o755
    assert dirs.keystore.has_prefix_key("example.com/app/sub")
    assert not dirs.keystore.has_prefix_key("example.com")
    with open(path, "rb") as file:
        assert public_keys(file.read()) == [ONE]


@pytest.mark.parametrize("prefix", ["example.com/../../x", "a//b", "a/./b"])
def test_prefix_cannot_lead_out(dirs: Dirs, prefix: str) -> None:
    with pytest.raises(RktError, match="cannot be the name of a directory"):
        dirs.keystore.add_prefix(prefix, ONE.armored, ONE.fingerprint)
    assert not dirs.keystore.has_prefix_key(prefix)
    assert dirs.keystore.keys_for(prefix) == []


def test_image_name_cannot_lead_out(dirs: Dirs) -> None:
    dirs.put("local", "root.d/../elsewhere", ONE)
    assert dirs.keystore.keys_for("x/../../elsewhere") == []
    assert dirs.keystore.keys_for("../elsewhere") == []


def test_adding_where_nothing_can_be_written(dirs: Dirs) -> None:
    with open(dirs.local, "wb"):
        pass
    with pytest.raises(KernelError, match="storing the key"):
        dirs.keystore.add_root(ONE.armored, ONE.fingerprint)
