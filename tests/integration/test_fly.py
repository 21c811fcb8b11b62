"""stage1-fly: one app in a chroot on the host, and what it has in common with the other flavours.

The tests that are imported are those of stage1-oci, run again with this stage1.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from integration.test_run import (  # noqa: F401
    test_a_dependency_lies_beneath_its_image,
    test_a_pod_never_changes_its_image,
    test_environment_and_its_precedence,
    test_exit_status,
    test_interactive_through_a_pipe,
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
    test_an_app_that_ignores_sigterm,
    test_an_app_that_is_not_well_has_failed,
    test_detached,
    test_on_failure_until_it_succeeds,
)
from rkt_testkit import probes
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.context import RktContext
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from rkt_testkit.context import Result

pytestmark = needs("root", "overlay", "busybox", "catatonit")

OPEN = "--insecure-options=image"


@pytest.fixture
def rkt() -> Iterator[RktContext]:
    """Give a machine whose pods get stage1-fly."""
    probes.enforce(("root", "namespaces", "rkt"))
    with RktContext() as context:
        context.use_stage1("fly")
        yield context


def script_image(rkt: RktContext, script: str = "exit 0", **app: object) -> str:
    """Build the image of a shell script."""
    builder = AciBuilder("example.com/app", exec=("/bin/sh", "-c", script), app=app).busybox()
    return builder.build(rkt.files).path


def fly(rkt: RktContext, script: str, *flags: str, status: int = 0, **app: object) -> Result:
    """Run a script as the app of a pod."""
    return rkt.rkt(OPEN, "run", *flags, script_image(rkt, script, **app), status=status)


def start(rkt: RktContext, script: str, *flags: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a pod whose app says `up` when it is; gives it and the UUID."""
    file = f"{rkt.files}/uuid"
    pod = rkt.spawn(OPEN, "run", f"--uuid-file-save={file}", *flags, script_image(rkt, script))
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    with open(file, encoding="ascii") as saved:
        return pod, saved.read()


def inside(rkt: RktContext, *argv: str) -> str:
    """Run a program where the tests' rkt runs; gives what it writes."""
    result = rkt.run([*rkt.enter_argv(), *argv])
    assert result.status == 0, result.stderr
    return result.stdout


def test_the_namespaces_are_those_of_the_host(rkt: RktContext) -> None:
    kinds = ("pid", "net", "ipc", "uts", "user")
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    expected = [inside(rkt, "readlink", f"/proc/self/ns/{kind}").strip() for kind in kinds]
    result = fly(rkt, f"{script}; hostname; ls /; grep Seccomp: /proc/self/status")
    lines = result.stdout.splitlines()
    assert lines[:5] == expected
    assert lines[5] == os.uname().nodename
    assert {"dev", "proc", "sys", "tmp", "bin"} <= set(lines[6:])
    assert lines[-1] == "Seccomp:\t0"
    assert "ignored" not in result.stderr


def test_user_group_environment_and_directory(rkt: RktContext) -> None:
    flags = ("--user=alice", "--group=staff", "--environment=A=b c", "--working-dir=/etc")
    path = script_image(
        rkt, 'id -u; id -g; pwd; echo "$A $AC_APP_NAME"; grep NoNewPrivs /proc/self/status'
    )
    result = rkt.rkt(OPEN, "run", path, *flags)
    assert result.stdout.splitlines() == ["1000", "1001", "/etc", "b c app", "NoNewPrivs:\t0"]


def test_status_signal_and_reason(rkt: RktContext) -> None:
    result = fly(rkt, "exit 7", status=7)
    assert 'rkt: app "app" exited with status 7' in result.stderr
    fly(rkt, "kill -9 $$", status=128 + 9)


def test_the_standard_input_is_the_callers(rkt: RktContext) -> None:
    assert rkt.rkt(OPEN, "run", script_image(rkt, "cat"), input="words\n").stdout == "words\n"


def test_no_other_descriptor_is_the_callers(rkt: RktContext) -> None:
    argv = rkt.argv(OPEN, "run", script_image(rkt, "exec ls /proc/self/fd"))
    result = rkt.run(["sh", "-c", 'exec "$@" 7</etc/passwd 9</etc', "sh", *argv])
    assert result.stdout.split() == ["0", "1", "2", "3"], result.stderr  # 3: that of ls


def test_exactly_one_app(rkt: RktContext) -> None:
    path = script_image(rkt)
    result = rkt.rkt(OPEN, "run", path, "--name=one", path, "--name=two", status=254)
    assert result.stderr.splitlines()[-1] == "rkt: fly only supports 1 application per Pod for now"
    assert "stage1 does not support mutable pods" in rkt.rkt("app", "sandbox", status=1).stderr


def test_what_is_ignored_is_said(rkt: RktContext) -> None:
    path = script_image(rkt, "grep CapBnd /proc/self/status")
    pod_flags = ("--net=none", "--hostname=h", "--ipc=private")
    app_flags = ("--memory=1G", "--caps-retain=CAP_KILL")
    result = rkt.rkt(OPEN, "run", *pod_flags, path, *app_flags)
    assert "warning: fly has the network of the host: --net=none is ignored" in result.stderr
    assert "warning: fly has the hostname of the host: --hostname is ignored" in result.stderr
    assert "warning: --ipc option is not supported by stage1" in result.stderr
    for name in ("resource/memory", "os/linux/capabilities-retain-set"):
        assert f'app "app": {name} (fly does not isolate)' in result.stderr
    with open("/proc/self/status", encoding="ascii") as file:
        assert result.stdout in file.read()


def test_what_is_only_for_pods_is_ignored_too(rkt: RktContext) -> None:
    isolators = [{"name": "os/unix/sysctl", "value": {"kernel.msgmax": "9"}}]
    builder = AciBuilder("example.com/app", exec=["/bin/true"], app={"isolators": isolators})
    result = rkt.rkt(OPEN, "run", builder.busybox().build(rkt.files).path)
    assert 'app "app": os/unix/sysctl (fly does not isolate)' in result.stderr


def test_private_users_are_refused(rkt: RktContext) -> None:
    result = rkt.rkt(OPEN, "run", "--private-users", "--no-overlay", script_image(rkt), status=254)
    assert "fly has no user namespaces: --private-users cannot be had" in result.stderr


# --- mounts ---------------------------------------------------------------------------------------


def test_a_mount_point_without_a_volume(rkt: RktContext) -> None:
    result = fly(rkt, "", status=254, mountPoints=[{"name": "data", "path": "/data"}])
    assert 'app "app": missing volume for mountpoint "data"' in result.stderr


def test_volumes(rkt: RktContext) -> None:
    source = f"{rkt.files}/source"
    os.makedirs(f"{source}/below")
    inside(rkt, "mount", "-t", "tmpfs", "none", f"{source}/below")
    inside(rkt, "touch", f"{source}/below/deep")
    script = "ls /data/below; touch /data/new && echo written; ls -a /empty | wc -l"
    more = ("--volume=empty,kind=empty", "--mount=volume=data,target=/data",
            "--mount=volume=empty,target=/empty")  # fmt: skip
    try:
        plain = fly(rkt, script, f"--volume=data,kind=host,source={source}", *more)
        assert plain.stdout == "written\n2\n"
        deep = fly(rkt, script, f"--volume=data,kind=host,source={source},recursive=true", *more)
        assert deep.stdout == "deep\nwritten\n2\n"
        volume = f"--volume=data,kind=host,source={source},recursive=true,readOnly=true"
        sealed = fly(rkt, f"{script}; touch /data/below/x", volume, *more, status=1)
        assert sealed.stdout == "deep\n2\n"
        assert sealed.stderr.count("Read-only file system") == 2
    finally:
        inside(rkt, "umount", f"{source}/below")


def test_mounts_of_an_agent_appear_on_the_host(rkt: RktContext) -> None:
    """Where the host's mount is shared, what either side mounts appears on the other."""
    source = f"{rkt.files}/shared"
    os.makedirs(source)
    inside(rkt, "mount", "-t", "tmpfs", "none", source)
    inside(rkt, "mount", "--make-shared", source)
    inside(rkt, "mkdir", f"{source}/one", f"{source}/two")
    script = (
        "mount -t tmpfs none /agent/one && touch /agent/one/mine && echo up;"
        " while [ ! -e /agent/two/theirs ]; do sleep 0.1; done; echo seen"
    )
    try:
        pod, _ = start(rkt, script, f"--volume=agent,kind=host,source={source}",
                       "--mount=volume=agent,target=/agent")  # fmt: skip
        assert inside(rkt, "ls", f"{source}/one") == "mine\n"
        inside(rkt, "mount", "-t", "tmpfs", "none", f"{source}/two")
        inside(rkt, "touch", f"{source}/two/theirs")
        assert pod.stdout is not None
        assert pod.stdout.read() == b"seen\n"
        assert pod.wait(60) == 0
        # The app's mount was made on the host and stays there, as with any program of the host.
        assert inside(rkt, "ls", f"{source}/one") == "mine\n"
    finally:
        inside(rkt, "umount", "--recursive", source)


@pytest.mark.parametrize("overlay", [True, False])
def test_a_read_only_root(rkt: RktContext, overlay: bool) -> None:
    flags = () if overlay else ("--no-overlay",)
    path = script_image(rkt, "touch /x; touch /tmp/y && echo tmp; touch /run/z")
    result = rkt.rkt(OPEN, "run", *flags, path, "--readonly-rootfs=true", status=1)
    assert result.stdout == "tmp\n"
    assert result.stderr.count("Read-only file system") == 2


def test_the_hosts_devices_are_not_mounted_over(rkt: RktContext) -> None:
    result = fly(rkt, "", "--volume=v,kind=empty", "--mount=volume=v,target=/dev/rkt-test-fly",
                 status=254)  # fmt: skip
    assert 'cannot mount at "/dev/rkt-test-fly": the host has no such file' in result.stderr
    assert not os.path.exists("/dev/rkt-test-fly")


# --- a running pod --------------------------------------------------------------------------------

LOOP = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1 & wait; done"


def test_enter_logs_status_stop_and_gc(rkt: RktContext) -> None:
    pod, uuid = start(rkt, LOOP)
    result = rkt.rkt("enter", uuid, "/bin/sh", "-c", "echo $AC_APP_NAME; ls /bin/busybox; exit 9",
                     status=9)  # fmt: skip
    assert result.stdout == "app\n/bin/busybox\n"
    assert rkt.pod_state(uuid) == "running"
    assert os.readlink(f"{rkt.pod_dir(uuid)}/flavor") == "fly"
    rkt.rkt("stop", uuid)
    assert pod.wait(60) == 3
    assert "\napp=3\n" in rkt.rkt("status", uuid).stdout
    assert "bye" in rkt.rkt("logs", uuid).stdout
    rkt.rkt("rm", uuid)
    assert not os.listdir(f"{rkt.data}/pods/run")


def test_a_terminal(rkt: RktContext) -> None:
    terminal = rkt.terminal(
        OPEN, "run", "--interactive", script_image(rkt, "tty; read x; echo got $x")
    )
    terminal.read_until("/dev/")
    terminal.write("words\n")
    terminal.read_until("got words")
    assert terminal.wait() == 0


def test_stop_with_force_kills_what_the_app_started(rkt: RktContext) -> None:
    script = "trap '' TERM; setsid sleep 1000 & echo up; wait"
    pod, uuid = start(rkt, script)
    rkt.rkt("stop", "--force", uuid)
    assert pod.wait(60) == 128 + signal.SIGKILL


def test_nothing_outlives_a_killed_supervisor_and_gc(rkt: RktContext) -> None:
    """The kernel kills the app; what it started is in its control group, where gc finds it."""
    pod, uuid = start(rkt, "setsid sleep 1000 & echo up; wait")
    pod.kill()
    pod.wait(60)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")
    rkt.rkt("rm", uuid)
    rkt.wait_for(lambda: not rkt.leaked())


def test_a_daemon_ends_with_the_pod(rkt: RktContext) -> None:
    """Also one that holds the app's output open."""
    result = fly(rkt, "setsid sleep 1000 & echo parent")
    assert result.stdout == "parent\n"


def test_a_program_that_cannot_be_executed(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/bad", exec=("/bin/bad",)).busybox()
    builder.file("bin/bad", "\x7fELF not", mode=0o755)
    result = rkt.rkt(OPEN, "run", builder.build(rkt.files).path, status=254)
    assert result.stderr.splitlines()[-1].startswith('rkt: app "bad": fly: cannot execute')
    assert "exec format error" in result.stderr.lower()


def test_health_and_restart(rkt: RktContext) -> None:
    file = f"{rkt.files}/count"
    script = f"echo x >>{file}; [ $(wc -l <{file}) = 3 ] || exit 1"
    result = fly(rkt, script.replace(rkt.files, "/data"), "--restart=on-failure",
                 f"--volume=data,kind=host,source={rkt.files}",
                 "--mount=volume=data,target=/data")  # fmt: skip
    assert result.stderr.count("it starts again") == 2


def test_prepared_pods_keep_their_flavour(rkt: RktContext) -> None:
    uuid = rkt.rkt(OPEN, "prepare", script_image(rkt, "readlink /proc/self/ns/pid")).stdout.strip()
    os.unlink(f"{rkt.local}/stage1.d/stage1.json")
    result = rkt.rkt("run-prepared", uuid)
    assert result.stdout.strip() == inside(rkt, "readlink", "/proc/self/ns/pid").strip()


def test_what_it_uses_is_counted(rkt: RktContext) -> None:
    script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 1000 & echo ready >&2; wait"
    path = AciBuilder("example.com/app", exec=("/bin/sh", "-c", script)).busybox().build(rkt.files)
    uuid = rkt.rkt(OPEN, "run", "--detach", path.path).stdout.strip()
    rkt.wait_for(lambda: rkt.rkt("logs", uuid).stderr == "ready\n")
    (pod,) = json.loads(rkt.rkt("stats", "--format=json", uuid).stdout)
    (app,) = pod["apps"]
    for used in (pod, app):
        assert used["cpu_nanoseconds"] > 1_000_000
        assert used["pids"] == 2
        assert 10_000 < used["memory"] < 100_000_000
        assert used["memory_limit"] is None
    assert pod["network_received"] is None
    rkt.rkt("stop", uuid)
    rkt.rkt("status", "--wait", uuid)
