"""The tests' own tools: a leak must be seen, or every other test proves less than it says."""

from __future__ import annotations

import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.context import RktContext
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.keyring import Keyring

pytestmark = needs("root", "namespaces")


def leak(*command: str) -> str:
    """Run a command in a context and give what its end complains of."""
    context = RktContext()
    context.run([*context.enter_argv(), *command])
    with pytest.raises(AssertionError, match="left on the machine") as caught:
        context.close(patience=0.2)
    assert not os.path.exists(context.top)
    return str(caught.value)


def test_clean_context_has_nothing_to_say() -> None:
    with RktContext() as context:
        assert (
            context.run([*context.enter_argv(), "sh", "-c", "ip -o link"]).stdout.count("\n") == 1
        )
        assert context.leaked() == []


def test_what_runs_is_told() -> None:
    with RktContext() as context:
        process = context.adopt(subprocess.Popen(["sleep", "1000"]))
        (line,) = context.running()
        assert line.startswith(f"process {process.pid}: sleep 1000\n")
        assert f" below {os.getpid()} in " in line


def test_mount_is_seen() -> None:
    assert "mounts: /mnt (tmpfs)" in leak("mount", "-t", "tmpfs", "none", "/mnt")


def test_interface_is_seen() -> None:
    assert "interfaces: rkt0" in leak("ip", "link", "add", "rkt0", "type", "veth")


def test_orphan_is_seen_and_killed() -> None:
    complaint = leak("sh", "-c", "setsid sleep 4711 >/dev/null 2>&1 &")
    assert "sleep 4711" in complaint
    assert subprocess.run(["pgrep", "-f", "^sleep 4711$"], check=False).returncode == 1


def test_zombie_is_dead() -> None:
    with RktContext() as context:
        # The orphan ends at once, and nobody has read its status yet.
        context.run([*context.enter_argv(), "sh", "-c", "setsid true &"])


def test_temporary_file_is_seen() -> None:
    assert "files: " in leak("sh", "-c", 'touch "$TMPDIR/forgotten"')


def test_cgroup_is_seen() -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    unified = os.path.exists("/sys/fs/cgroup/cgroup.procs")
    path = f"/sys/fs/cgroup/{'' if unified else 'pids/'}rkt-{uuid}"
    context = RktContext()
    context.pods.add(uuid)
    os.mkdir(path)
    try:
        with pytest.raises(AssertionError, match=f"cgroups: {path}"):
            context.close(patience=0.2)
    finally:
        os.rmdir(path)


@needs("gpg", "busybox")
def test_images_are_the_same_bytes_each_time(
    tmp_path: object, keyring: Keyring, publisher: str
) -> None:
    first = AciBuilder("example.com/a").busybox()
    second = AciBuilder("example.com/a").busybox()
    assert first.tar() == second.tar()
    image = first.build(str(tmp_path), compression="xz", keyring=keyring, fingerprint=publisher)
    with open(image.signature, "rb") as file:
        assert file.read().startswith(b"-----BEGIN PGP SIGNATURE-----")
    with tarfile.open(image.path) as archive:
        assert archive.getnames()[:2] == ["manifest", "rootfs"]
    assert len(image.key) == 71
