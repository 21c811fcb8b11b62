"""stage1-nspawn on a machine with systemd, and what it has in common with the other flavours.

The tests that are imported are those of stage1-oci, run again with this stage1.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

from integration.test_hostile_roots import PLACES, Trap
from integration.test_run import (  # noqa: F401
    test_a_dependency_lies_beneath_its_image,
    test_a_pod_never_changes_its_image,
    test_environment_and_its_precedence,
    test_exit_status,
    test_nothing_is_inherited_unless_asked_for,
    test_output_of_a_single_app_is_raw,
    test_prepare_and_run_prepared,
    test_user_group_and_working_directory,
    test_what_an_image_lacks,
    test_without_overlay_the_pod_gets_a_copy,
)
from integration.test_supervision import (  # noqa: F401
    image,
    test_a_check_that_does_not_answer,
    test_a_post_stop_handler_that_fails,
    test_an_app_that_is_not_well_has_failed,
    test_on_failure_until_it_succeeds,
)
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.bedcontext import BedContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.bed import Bed
    from rkt_testkit.context import Result, RktContext

OPEN = "--insecure-options=image"
NSPAWN = "--stage1-from-dir=stage1-nspawn.aci"


@pytest.fixture
def rkt(bed: Bed) -> Iterator[BedContext]:
    """Give directories of its own on the machine, where pods get stage1-nspawn."""
    context = BedContext(bed, "nspawn")
    try:
        yield context
    except BaseException:
        context.close(check=False)
        raise
    context.close()


def run(rkt: RktContext, script: str, *flags: str, status: int = 0, **app: object) -> Result:
    """Run a script as the only app of a pod."""
    builder = AciBuilder("example.com/app", exec=("/bin/sh", "-c", script), app=app).busybox()
    path = str(builder.build(rkt.files).path)
    return rkt.rkt(OPEN, "run", *flags, path, status=status)


def shell(rkt: RktContext, **app: object) -> str:
    """Build an image with a shell."""
    builder = AciBuilder("example.com/shell", exec=["/bin/sh"], app=app).busybox()
    return str(builder.build(rkt.files).path)


def test_the_pods_first_process_is_systemd(rkt: RktContext) -> None:
    done = run(rkt, "cat /proc/1/comm; hostname; exit 3", "--hostname=here", status=3)
    assert done.stdout == "systemd\nhere\n"
    assert 'app "app" exited with status 3' in done.stderr


def test_no_text_of_an_app_is_taken_for_a_setting(rkt: RktContext) -> None:
    hostile = "%n $HOME ${PATH} \"x' \\n\n[Service]\nExecStopPost=/bin/false\n;#\u00e9"
    script = 'printf "%s|%s|%s" "$HOSTILE" "$0" "$PWD"'
    builder = AciBuilder(
        "example.com/app", exec=["/bin/sh", "-c", script, hostile],
        app={"environment": [{"name": "HOSTILE", "value": hostile}],
             "workingDirectory": "/%n $HOME"},
    ).busybox()  # fmt: skip
    builder.file("%n $HOME/here", b"")
    path = str(builder.build(rkt.files).path)
    done = rkt.rkt(OPEN, "run", path, "--name=a-b-1")
    assert done.stdout == f"{hostile}|{hostile}|/%n $HOME"


def test_apps_share_a_pod_but_not_their_files(rkt: RktContext) -> None:
    path = shell(rkt)
    first = "touch /mine /dev/shm/ours; until [ -e /dev/shm/done ]; do sleep 0.02; done; exit 4"
    second = (
        "until [ -e /dev/shm/ours ]; do sleep 0.02; done; ls /mine 2>&1; ps; touch /dev/shm/done"
    )
    done = rkt.rkt(
        OPEN, "run", path, "--name=a-b", "--exec=/bin/sh", "--", "-c", first,
        "---", path, "--name=c", "--exec=/bin/sh", "--", "-c", second, status=4,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert all(line.startswith("c[") for line in lines), lines
    assert any("No such file" in line for line in lines)
    assert any("/dev/shm/ours" in line and "touch /mine" in line for line in lines)


def test_a_signal_is_the_apps_end(rkt: RktContext) -> None:
    done = run(rkt, "kill -KILL $$", status=137)
    assert 'app "app" killed by SIGKILL' in done.stderr


def test_what_an_app_may_do(rkt: RktContext) -> None:
    script = (
        "grep -E '^(CapBnd|Seccomp:)' /proc/self/status; touch /proc/sys/kernel/x 2>/dev/null; "
        "echo $?; ls /sys/firmware; ls -l /dev/console | cut -c1; cat /proc/self/cgroup | tail -1"
    )
    lines = run(rkt, script).stdout.splitlines()
    assert lines[:2] == ["CapBnd:\t00000000a00425fb", "Seccomp:\t2"]
    assert lines[2] == "1"
    assert lines[3] == "c"
    assert lines[4].startswith("0::/app_app.slice/app-"), lines


def test_devices_of_an_image_are_none(rkt: RktContext) -> None:
    trap = Trap(rkt, "cat /etc/node; mknod /dev/node c 1 5; head -c 1 /dev/zero | wc -c")
    trap.put("etc/node", "zero")
    result = trap.run("nspawn")
    assert result.stdout == "1\n"
    assert "can't open '/etc/node': Permission denied" in result.stderr
    assert "mknod: /dev/node: Operation not permitted" in result.stderr


def test_capabilities_and_system_calls_are_those_asked_for(rkt: RktContext) -> None:
    path = shell(rkt)
    script = "grep CapBnd /proc/self/status; mkdir /x"
    done = rkt.rkt(
        OPEN, "run", path, "--caps-retain=CAP_NET_ADMIN,CAP_SYS_TIME",
        "--seccomp=mode=remove,errno=ENOSYS,mkdir,mkdirat", "--exec=/bin/sh", "--", "-c", script,
        status=1,
    )  # fmt: skip
    assert done.stdout == "CapBnd:\t0000000002001000\n"
    assert "Function not implemented" in done.stderr


def test_volumes_users_and_a_read_only_root(rkt: RktContext) -> None:
    for name in ("ro", "rw"):
        os.mkdir(f"{rkt.files}/{name}")
        os.chmod(f"{rkt.files}/{name}", 0o777)
    with open(f"{rkt.files}/ro/file", "w", encoding="ascii") as file:
        file.write("from the host\n")
    path = shell(rkt)
    done = rkt.rkt(
        OPEN, "run", f"--volume=ro,kind=host,source={rkt.files}/ro,readOnly=true",
        f"--volume=rw,kind=host,source={rkt.files}/rw", "--volume=new,kind=empty,mode=0777",
        "--mount=volume=ro,target=/run/%25n", "--mount=volume=rw,target=/data/deep",
        "--mount=volume=new,target=/tmp/new", path, "--readonly-rootfs=true", "--user=1234",
        "--group=2345", "--supplementary-gids=3456", "--exec=/bin/sh", "--", "-c",
        "cat /run/%n/file; for d in /run/%n /data/deep /tmp/new /; do touch $d/t && echo $d; done;"
        "id",
        status=0,
    )  # fmt: skip
    assert done.stdout == (
        "from the host\n/data/deep\n/tmp/new\nuid=1234 gid=2345 groups=2345,3456\n"
    )
    assert os.listdir(f"{rkt.files}/rw") == ["t"]
    assert os.stat(f"{rkt.files}/rw/t").st_uid == 1234


def test_a_private_network(rkt: RktContext) -> None:
    done = run(rkt, "ip -o link | wc -l", "--net=none")
    assert done.stdout == "1\n"


def test_the_terminal_is_in_the_pod(rkt: RktContext) -> None:
    path = shell(rkt)
    words = rkt.argv(
        OPEN, "run", "--interactive", path, "--exec=/bin/sh", "--", "-c", "tty; ls /dev/pts"
    )
    done = rkt.run(["script", "-qec", shlex.join(words), "/dev/null"])
    assert done.status == 0, done
    assert "/dev/pts/0" in done.stdout


def test_standard_input_goes_to_the_app(rkt: RktContext) -> None:
    done = rkt.rkt(OPEN, "run", "--interactive", shell(rkt), "--exec=/bin/cat", input="data\n")
    assert done.stdout == "data\n"


def test_it_is_entered_stopped_and_collected(bed: Bed, busybox: str) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    bed.write("/etc/rkt-app", script)
    bed.start("pod", "rkt", OPEN, "run", NSPAWN, "--volume=s,kind=host,source=/etc/rkt-app",
              "--mount=volume=s,target=/script", busybox, "--exec=/bin/sh", "--", "/script",
              properties=("KillMode=mixed",))  # fmt: skip
    bed.wait_for(bed.pods)
    (uuid,) = bed.pods()
    bed.wait_for(lambda: bed.tool("rkt", "logs", uuid, status=None).stdout == "up\n")
    line = next(x for x in bed.tool("rkt", "list").stdout.splitlines() if uuid[:8] in x)
    assert "running" in line
    seen = bed.rkt("enter", uuid, "/bin/sh", "-c", "cat /proc/1/comm /proc/self/cgroup; exit 5",
                   status=5).stdout.splitlines()  # fmt: skip
    assert seen[0] == "systemd"
    assert seen[-1].startswith("0::/app_shell.slice/"), seen
    assert "rkt: error looking up" in bed.rkt("enter", uuid, "nothing", status=254).stderr
    bed.rkt("stop", uuid)
    bed.rkt("status", "--wait", uuid)
    text = bed.tool("rkt", "status", uuid).stdout
    assert "shell=7" in text
    assert "exited with status 7: the pod was stopped by SIGTERM" in text
    assert bed.tool("rkt", "logs", uuid).stdout == "up\nbye\n"
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] != "active")
    bed.tool("systemctl", "reset-failed", "pod", status=None)
    bed.rkt("rm", uuid)
    assert bed.pods() == []
    assert bed.leaked() == []


def test_stop_force_kills_the_pod(bed: Bed, busybox: str) -> None:
    bed.start("pod", "rkt", OPEN, "run", NSPAWN, busybox, "--exec=/bin/sleep", "--", "1000",
              properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    bed.rkt("stop", "--force", uuid)
    bed.rkt("status", "--wait", uuid)
    assert "shell=137" in bed.tool("rkt", "status", uuid).stdout
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] != "active")
    bed.tool("systemctl", "reset-failed", "pod", status=None)


@pytest.mark.parametrize("which", ["systemd", "systemd-nspawn"])
def test_the_end_of_a_first_process_is_the_pods(bed: Bed, busybox: str, which: str) -> None:
    bed.start("pod", "rkt", OPEN, "run", NSPAWN, busybox, "--exec=/bin/sleep", "--", "1000",
              properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    pid = bed.read(f"/var/lib/rkt/pods/run/{uuid}/pid").strip()
    assert bed.read(f"/proc/{pid}/comm") == "systemd\n"
    if which == "systemd-nspawn":
        pid = bed.tool("ps", "-o", "ppid=", "-p", pid).stdout.strip()
        assert bed.read(f"/proc/{pid}/comm") == "systemd-nspawn\n"
    bed.tool("kill", "-KILL", pid)
    bed.rkt("status", "--wait", uuid)
    assert "shell-reason=killed by SIGKILL" in bed.tool("rkt", "status", uuid).stdout
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] != "active")
    bed.tool("systemctl", "reset-failed", "pod", status=None)


def test_a_killed_supervisor_leaves_nothing_of_systemd_nspawn(bed: Bed, busybox: str) -> None:
    bed.start("pod", "rkt", OPEN, "run", NSPAWN, busybox, "--exec=/bin/sleep", "--", "1000",
              properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    first = bed.read(f"/var/lib/rkt/pods/run/{uuid}/pid").strip()
    bed.tool("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "pod")
    bed.wait_for(lambda: bed.tool("kill", "-0", first, status=None).status != 0)
    bed.wait_for(lambda: bed.show("pod", "ActiveState")["ActiveState"] == "failed")
    bed.tool("systemctl", "reset-failed", "pod")
    assert bed.tool("find", "/run/systemd/nspawn", "-mindepth", "1").stdout == ""


def test_attach(bed: Bed, busybox: str) -> None:
    bed.start("pod", "rkt", OPEN, "run", NSPAWN, busybox, "--stdin=stream", "--stdout=stream",
              "--exec=/bin/cat", properties=("Type=notify", "KillMode=mixed"))  # fmt: skip
    (uuid,) = bed.pods()
    words = ["timeout", "20", "rkt", "attach", "--mode=stdin,stdout", uuid]
    done = bed.tool(
        "sh", "-c", '{ echo hi; cat; } </dev/zero 2>&1 | "$@" | head -c 3', "sh", *words,
        status=None,
    )  # fmt: skip
    assert done.stdout == "hi\n"
    bed.rkt("stop", uuid)
    bed.rkt("status", "--wait", uuid)


def test_an_app_starts_again_without_what_it_left(rkt: RktContext) -> None:
    script = 'echo "[$(pidof sleep)]"; sleep 1000 & exit 3'
    done = run(rkt, script, "--restart=on-failure:1", status=3)
    assert done.stdout == "[]\n[]\n"
    assert "exited with status 3 (after 1 restart)" in done.stderr


def test_nothing_of_the_pods_systemd_is_to_be_had(rkt: RktContext) -> None:
    script = "ls /proc/1/root/; cat /proc/1/environ; kill -KILL 1; echo still here"
    done = run(rkt, script)
    assert done.stdout == "still here\n"
    assert done.stderr.count("Permission denied") == 2


def test_the_namespaces_that_were_asked_for(rkt: RktContext) -> None:
    host = rkt.run(["readlink", "/proc/self/ns/ipc"]).stdout
    assert run(rkt, "readlink /proc/self/ns/ipc", "--ipc=parent").stdout == host
    assert run(rkt, "readlink /proc/self/ns/ipc").stdout != host


def test_without_restrictions(rkt: RktContext) -> None:
    script = "mkdir -p /mnt; mount -t tmpfs x /mnt && echo mounted; ls /sys/fs/cgroup/cgroup.procs"
    done = run(rkt, script, "--insecure-options=all-run,image")
    assert done.stdout == "mounted\n/sys/fs/cgroup/cgroup.procs\n"


@pytest.mark.parametrize("kind", PLACES)
def test_what_pods_need_is_something_else(rkt: RktContext, kind: str) -> None:
    trap = Trap(rkt)
    for place in PLACES[kind]:
        trap.put(place, kind)
    result = trap.run("nspawn", "--user=alice", "--group=staff")
    assert (result.status, result.stdout) == (0, "ran\n"), result.stderr


@pytest.mark.parametrize("name", ["run/systemd", "run/systemd/incoming"])
def test_places_of_systemd_that_lead_out(rkt: RktContext, name: str) -> None:
    trap = Trap(rkt)
    trap.put(name, "->OUTSIDE/dir")
    assert trap.run("nspawn").stdout == "ran\n"


# --- refusals ------------------------------------------------------------------------------------


def refused(bed: Bed, busybox: str, *properties: str) -> list[str]:
    """Run a pod that is refused; gives the lines that say why."""
    done = bed.rkt(OPEN, "run", NSPAWN, busybox, status=254, properties=properties)
    return [line for line in done.stderr.splitlines() if "warning" not in line]


def test_a_host_without_systemd_nspawn(bed: Bed, busybox: str) -> None:
    assert refused(bed, busybox, "InaccessiblePaths=/usr/bin/systemd-nspawn") == [
        'rkt: stage1-nspawn: "systemd-nspawn" is not installed (Debian: systemd-container)'
    ]


def test_a_systemd_nspawn_that_is_too_old(bed: Bed, busybox: str) -> None:
    old = f"{bed.files}/old-nspawn"
    with open(old, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\necho 'systemd 232 (232-25+deb9u14)'\n")
    os.chmod(old, 0o755)
    assert refused(bed, busybox, f"BindReadOnlyPaths={old}:/usr/bin/systemd-nspawn") == [
        'rkt: stage1-nspawn: "/usr/bin/systemd-nspawn" is of systemd 232, at least 250 is needed'
    ]


def test_a_systemd_nspawn_that_fails(bed: Bed, busybox: str) -> None:
    broken = f"{bed.files}/broken-nspawn"
    with open(broken, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\n[ $1 = --version ] && exec echo systemd 252\n"
                   "echo 'no room for a pod' >&2; exit 1\n")  # fmt: skip
    os.chmod(broken, 0o755)
    assert refused(bed, busybox, f"BindReadOnlyPaths={broken}:/usr/bin/systemd-nspawn") == [
        "rkt: systemd-nspawn: no room for a pod"
    ]


def test_what_it_has_not(rkt: RktContext) -> None:
    done = run(rkt, "true", "--private-users", status=254)
    assert "rkt: nspawn has no user namespaces yet: --private-users cannot be had" in done.stderr
    done = rkt.rkt(OPEN, "app", "sandbox", status=None)
    assert done.status != 0
    assert "stage1 does not support mutable pods" in done.stderr


def test_what_it_does_not_enforce_is_said(rkt: RktContext) -> None:
    isolators = [{"name": "resource/block-iops", "value": {"default": True, "limit": "100"}}]
    done = run(rkt, "true", isolators=isolators)
    assert 'app "app": resource/block-iops (nspawn limits it for pods only)' in done.stderr
