"""The example's way to make an image: libraries found, bytes repeatable."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.probes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def build() -> ModuleType:
    path = os.path.join(REPOSITORY, "examples/redis/build.py")
    spec = importlib.util.spec_from_file_location("redis_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_elf_headers_tell_the_libraries(build: ModuleType) -> None:
    interpreter, libraries = build.elf_needs(os.path.realpath(sys.executable))
    assert os.path.exists(interpreter)
    assert any(name.startswith("libc.so") for name in libraries)
    assert build.elf_needs(__file__) == ("", [])


def test_paths_of_a_merged_usr(build: ModuleType) -> None:
    assert build.merged("/lib/x86_64-linux-gnu/libc.so.6") == "usr/lib/x86_64-linux-gnu/libc.so.6"
    assert build.merged("usr/bin/sh") == "usr/bin/sh"
    assert build.merged("etc/passwd") == "etc/passwd"


def test_program_brings_links_and_libraries(build: ModuleType, tmp_path: Path) -> None:
    real = os.path.realpath(sys.executable)
    _, libraries = build.elf_needs(real)
    link = tmp_path / "link"
    link.symlink_to("python")
    files = {"usr/bin/python": real, "usr/bin/link": str(link)}
    with pytest.raises(SystemExit, match="which no package brings"):
        build.program(files, "usr/bin/link")
    interpreter, _ = build.elf_needs(real)
    files |= {f"usr/lib/{name}": __file__ for name in libraries}
    files[build.merged(interpreter)] = __file__
    entries = build.program(files, "usr/bin/link")
    assert entries["usr/bin/link"].target == "python"
    assert {"usr/bin/python", build.merged(interpreter)} <= entries.keys()


def test_same_input_same_bytes(build: ModuleType, tmp_path: Path) -> None:
    entries = {"b/file": build.text("x"), "a": build.Entry(tarfile.SYMTYPE, target="b")}
    digests = set()
    for name, order in (("1.aci", 1), ("2.aci", -1)):
        path = str(tmp_path / name)
        build.write_aci(path, b"{}", dict(list(entries.items())[::order]), 1_500_000_000)
        with open(path, "rb") as file:
            digests.add(hashlib.sha256(file.read()).hexdigest())
    assert len(digests) == 1
    with tarfile.open(str(tmp_path / "1.aci")) as archive:
        assert archive.getnames() == ["manifest", "rootfs", "rootfs/a", "rootfs/b", "rootfs/b/file"]
