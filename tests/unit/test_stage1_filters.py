"""Compiled filters are found again for the same rules only, and only where root alone writes."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import pytest

from rkt.stage1.host import filters
from rkt.stage1.host.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = bytes(range(64))
ANNOTATION = "run.oci.seccomp_bpf_data"


def config(action: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    return {"linux": {"seccomp": {"defaultAction": action, "syscalls": []}}}


@pytest.fixture
def crun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Give a runtime that has just started the container `app`; whoever runs this is root."""
    (tmp_path / "ld.so.cache").write_bytes(b"libraries")
    monkeypatch.setattr(filters, "_LIBRARIES", str(tmp_path / "ld.so.cache"))
    info = os.stat(tmp_path)
    monkeypatch.setattr(filters, "_OWNER", info.st_uid)
    (tmp_path / "crun").write_bytes(b"program")
    (tmp_path / "runtime" / "app").mkdir(parents=True)
    (tmp_path / "runtime" / "app" / "seccomp.bpf").write_bytes(PROGRAM)
    return Runtime(str(tmp_path / "crun"), str(tmp_path))


def keep(crun: Runtime, where: str) -> None:
    key = filters.insert(config(), crun, where)
    assert key
    filters.keep(key, crun, "app", where)


def test_a_filter_is_compiled_once(crun: Runtime, tmp_path: Path) -> None:
    where = str(tmp_path / "filters")
    keep(crun, where)
    second = config()
    assert filters.insert(second, crun, where) == b""
    assert base64.b64decode(second["annotations"][ANNOTATION]) == PROGRAM
    assert second["linux"] == config()["linux"]  # for a crun that does not know the annotation
    assert os.stat(where).st_mode & 0o777 == 0o700


def test_other_rules_another_runtime_and_new_libraries_find_nothing(
    crun: Runtime, tmp_path: Path
) -> None:
    where = str(tmp_path / "filters")
    keep(crun, where)
    assert filters.insert(config("SCMP_ACT_KILL_PROCESS"), crun, where)
    (tmp_path / "ld.so.cache").write_bytes(b"libraries and libseccomp")
    assert filters.insert(config(), crun, where)
    (tmp_path / "ld.so.cache").write_bytes(b"libraries")
    (tmp_path / "crun").write_bytes(b"another program")
    assert filters.insert(config(), crun, where)


def test_a_filter_of_other_rules_under_the_same_name_is_not_used(
    crun: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binascii.crc32", lambda _: 1)
    where = str(tmp_path / "filters")
    keep(crun, where)
    other = config("SCMP_ACT_KILL_PROCESS")
    assert filters.insert(other, crun, where)
    assert "annotations" not in other


def test_a_stale_annotation_goes(crun: Runtime, tmp_path: Path) -> None:
    again = {**config(), "annotations": {ANNOTATION: "AAAA"}}
    assert filters.insert(again, crun, str(tmp_path / "filters"))
    assert "annotations" not in again


def test_a_directory_that_others_may_write_to_is_not_used(crun: Runtime, tmp_path: Path) -> None:
    where = tmp_path / "filters"
    keep(crun, str(where))
    where.chmod(0o777)
    assert filters.insert(config(), crun, str(where))
    for file in where.iterdir():
        file.unlink()
    filters.keep(b"key\n", crun, "app", str(where))
    assert list(where.iterdir()) == []


@pytest.mark.parametrize("program", [b"", PROGRAM[:-1]])
def test_what_is_no_program_is_not_kept(crun: Runtime, tmp_path: Path, program: bytes) -> None:
    (tmp_path / "runtime" / "app" / "seccomp.bpf").write_bytes(program)
    where = tmp_path / "filters"
    keep(crun, str(where))
    assert list(where.iterdir()) == []


def test_only_so_many_are_kept(
    crun: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "_MOST", 1)
    where = tmp_path / "filters"
    keep(crun, str(where))
    filters.keep(b"another\n", crun, "app", str(where))
    assert len(list(where.iterdir())) == 1


def test_other_runtimes_and_apps_without_filter_are_left_alone(
    crun: Runtime, tmp_path: Path
) -> None:
    where = str(tmp_path / "filters")
    keep(crun, where)
    crun.name = "runc"
    plain = config()
    assert filters.insert(plain, crun, where) == b""
    assert plain == config()
    crun.name = "crun"
    none: dict[str, Any] = {"linux": {}}
    assert filters.insert(none, crun, where) == b""
    assert none == {"linux": {}}


def test_nothing_in_the_state_directory_is_no_failure(crun: Runtime, tmp_path: Path) -> None:
    filters.keep(b"key\n", crun, "gone", str(tmp_path / "filters"))
    assert not os.path.exists(tmp_path / "filters")
