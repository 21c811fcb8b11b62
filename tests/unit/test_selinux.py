"""SELinux: contexts out of the host's configuration, and levels that no two pods share."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from rkt import const
from rkt.errors import RktError
from rkt.linux import selinux
from rkt.pod.lifecycle import Pod
from rkt.stage0 import selinux as contexts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROCESS, FILE = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"


def test_the_file_of_contexts_is_that_of_the_policy(tmp_path: Path) -> None:
    assert selinux.contexts_file(f"{tmp_path}") == f"{tmp_path}/targeted/contexts/lxc_contexts"
    (tmp_path / "config").write_text("#SELINUXTYPE=mls\nSELINUX=permissive\nSELINUXTYPE=default\n")
    assert selinux.contexts_file(f"{tmp_path}") == f"{tmp_path}/default/contexts/lxc_contexts"
    (tmp_path / "config").write_text("SELINUXTYPE=../../x\n")
    assert selinux.contexts_file(f"{tmp_path}") == f"{tmp_path}/x/contexts/lxc_contexts"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            f'process = "{PROCESS}"\nro_file = "a:b:c:d"\nfile = "{FILE}"\n',
            (PROCESS, FILE, "a:b:c:d"),
        ),
        (f"process={PROCESS}\nfile={FILE}", (PROCESS, FILE, FILE)),
        (f"process={PROCESS}:c1,c2\nfile={FILE}", (f"{PROCESS}:c1,c2", FILE, FILE)),
        (f'process = "{PROCESS}"\n', None),
        (f'# process = "{PROCESS}"\nfile = "{FILE}"\n', None),
        (f'process = "{PROCESS}"\nfile = "a:b:c,d=\\":s0"\n', None),
        (f'process = "a:b:c"\nfile = "{FILE}"\n', None),
    ],
)
def test_contexts_of_containers(tmp_path: Path, text: str, found: object) -> None:
    path = tmp_path / "lxc_contexts"
    assert selinux.of_containers(f"{path}") is None
    path.write_text(text)
    assert selinux.of_containers(f"{path}") == found


def test_a_context_with_another_level() -> None:
    assert selinux.with_level("u:r:t:s0-s0:c0.c1023", "s0:c1,c2") == "u:r:t:s0:c1,c2"


def test_every_pair_of_categories_comes_once() -> None:
    used: set[str] = set()
    for seed in range(3000):
        used.add(selinux.free_level(seed, set()))
    assert len(used) == 3000
    every = {f"s0:c{low},c{high}" for high in range(1024) for low in range(high)}
    assert used < every
    assert selinux.free_level(524_000, every - {"s0:c3,c9"}) == "s0:c3,c9"
    with pytest.raises(RktError, match="all pairs of SELinux categories are in use"):
        selinux.free_level(7, every)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Give what assigns contexts to a new pod."""
    path = tmp_path / "lxc_contexts"
    path.write_text(f'process = "{PROCESS}"\nfile = "{FILE}"\n')
    monkeypatch.setattr(selinux, "contexts_file", lambda: f"{path}")
    monkeypatch.setattr(selinux, "in_policy", lambda _context: True)

    def assign(ident: str = "") -> tuple[str, str]:
        ident = ident or str(uuid.uuid4())
        where = tmp_path / "pods" / "run" / ident
        where.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(where)
        return contexts.assign(Pod(f"{tmp_path}/pods", "run", ident, -1))

    return assign


def test_pods_have_different_levels(make: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    first = "00000000-0000-0000-0000-000000000001"
    # Of the same residue: both would like the same pair.
    second = str(uuid.UUID(int=1 + 1024 * 1023 // 2))
    process, file = make(first)
    assert process == f"{PROCESS}:c0,c2"
    assert file == f"{FILE}:c0,c2"
    assert make(second) == (f"{PROCESS}:c1,c2", f"{FILE}:c1,c2")
    os.unlink(tmp_path / "pods" / "run" / first / const.SELINUX_LEVEL)  # as gc does
    assert make(second)[0] == process


def test_a_damaged_record_of_another_pod_is_no_obstacle(
    make: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    odd = tmp_path / "pods" / "run" / "odd"
    odd.mkdir(parents=True)
    (tmp_path / "pods" / "run" / "file").write_text("")
    (odd / const.SELINUX_LEVEL).write_bytes(b"\xff\xfe" * 5000)
    assert make("00000000-0000-0000-0000-000000000001")[0] == f"{PROCESS}:c0,c2"
    os.unlink(odd / const.SELINUX_LEVEL)
    os.mkdir(odd / const.SELINUX_LEVEL)
    assert make("00000000-0000-0000-0000-000000000001")[0] == f"{PROCESS}:c0,c2"


def test_a_policy_without_the_contexts_is_named(
    make: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(selinux, "in_policy", lambda context: context != FILE)
    assert make() == ("", "")
    said = capsys.readouterr().err
    assert f'SELinux does not confine the pod: the policy has no "{FILE}" of "' in said
    monkeypatch.setattr(selinux, "contexts_file", lambda: "/nowhere")
    assert make() == ("", "")
    said = capsys.readouterr().err
    assert 'SELinux does not confine the pod: no contexts for containers in "/nowhere"' in said


def test_a_whole_tree_gets_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("")
    (tmp_path / "d" / "link").symlink_to("/etc")
    seen: dict[str, object] = {}

    def setxattr(path: str, name: str, value: bytes, *, follow_symlinks: bool) -> None:
        seen[os.path.relpath(path, tmp_path)] = (name, value, follow_symlinks)

    monkeypatch.setattr(os, "setxattr", setxattr)
    selinux.set_contexts_below(f"{tmp_path}/d", FILE)
    value = ("security.selinux", FILE.encode() + b"\0", False)
    assert seen == dict.fromkeys(("d", "d/e", "d/e/f", "d/link"), value)
