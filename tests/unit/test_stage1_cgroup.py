"""Where a pod's control groups lie, and what this process does with its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rkt.stage1.host import cgroup

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def here() -> str:
    return Path("/proc/self/cgroup").read_text(encoding="ascii")


def test_this_process_stays_where_it_is() -> None:
    before = here()
    cgroup.hasten(cgroup.read_layout())
    assert here() == before


@pytest.mark.parametrize(
    ("mounts", "own", "joined"),
    [
        (HYBRID, "2:name=systemd:/a\n1:cpu,cpuacct:/b c\n0::/d\n", "cpu,cpuacct/b c"),
        (UNIFIED, "1:cpu:/a\n0::/user.slice/x\n", "user.slice/x"),
        (HYBRID, "5:memory:/a\n", ""),  # not mounted here
        ("", "0::/\n", ""),
    ],
)
def test_which_group_it_joins(
    mounts: str, own: str, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, int]] = []
    monkeypatch.setattr(cgroup, "_own", lambda: own)
    monkeypatch.setattr(cgroup, "_join", lambda path, pid: found.append((path, pid)))
    cgroup.hasten(cgroup.Layout(mounts, own))
    assert found == ([(f"/sys/fs/cgroup/{joined}", 0)] if joined else [])


def test_cgroups_of_a_hybrid_host() -> None:
    layout = cgroup.Layout(HYBRID, "4:memory:/x\n0::/user.slice\n")
    assert (layout.unified, layout.hybrid) == (False, True)
    assert {"cpu", "cpuacct"} <= layout.controllers and "name=systemd" not in layout.controllers
    assert layout.pod_path("u") == "/rkt-u"
    assert len(layout.hierarchies) == 3


def test_cgroups_of_a_unified_host() -> None:
    layout = cgroup.Layout(UNIFIED, "0::/user.slice/s.scope\n")
    assert (layout.unified, layout.hybrid) == (True, False)
    assert layout.pod_path("u") == "/user.slice/s.scope/rkt-u"
    assert cgroup.Layout(UNIFIED, "0::/\n").pod_path("u") == "/rkt-u"


@pytest.mark.parametrize(("path", "good"), [
    ("/rkt-u", True), ("/a/b/rkt-u", True), ("/", False), ("/rkt-v", False), ("rkt-u", False),
    ("/../rkt-u", False), ("/rkt-u/x", False), ("", False), ("/xrkt-u", False),
])  # fmt: skip
def test_only_a_pods_own_cgroup_is_removed(path: str, good: bool) -> None:
    assert cgroup.is_pod_path(path, "u") is good


def test_cgroups_are_removed_deepest_first(tmp_path: Path) -> None:
    (tmp_path / "rkt-u/a/b").mkdir(parents=True)
    layout = cgroup.Layout("", "")
    layout.hierarchies = [str(tmp_path), str(tmp_path / "none")]
    assert cgroup.remove(layout, "/rkt-u") == []
    assert list(tmp_path.iterdir()) == []
