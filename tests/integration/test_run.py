"""`rkt run`: what a pod is told, what its apps see, what comes back."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import Result, RktContext

OPEN = "--insecure-options=image"


def image(rkt: RktContext, name: str = "example.com/busybox", **more: object) -> Aci:
    """Build a busybox image."""
    return AciBuilder(name, **more).busybox().build(rkt.files)  # type: ignore[arg-type]


def sh(rkt: RktContext, script: str, *flags: str, status: int | None = 0) -> Result:
    """Run a shell script as the only app of a pod."""
    aci = os.path.join(rkt.files, "example.com-busybox.aci")
    path = aci if os.path.exists(aci) else image(rkt).path
    return rkt.rkt(OPEN, "run", path, "--exec=/bin/sh", *flags, "--", "-c", script, status=status)


def test_arguments_of_several_images(rkt: RktContext) -> None:
    worker = image(rkt, "example.com/worker", exec=("/bin/echo", "worker"))
    syncer = image(rkt, "example.com/syncer", exec=("/bin/echo", "syncer"))
    result = rkt.rkt(
        OPEN, "run", worker.path, "--", "--loglevel", "verbose", "---",
        syncer.path, "--", "--interval", "30s",
    )  # fmt: skip
    lines = sorted(re.sub(r"\[\d+\]", "[PID]", line) for line in result.stdout.splitlines())
    assert lines == ["syncer[PID]: syncer --interval 30s", "worker[PID]: worker --loglevel verbose"]


def test_output_of_a_single_app_is_raw(rkt: RktContext) -> None:
    result = sh(rkt, "printf 'a\\tb\\001no newline'; printf err >&2")
    assert result.stdout == "a\tb\x01no newline"
    assert result.stderr.endswith("err")


def test_lines_of_several_apps_are_never_torn(rkt: RktContext) -> None:
    script = "for i in $(seq 300); do printf 'aaaaaaaaaa'; printf 'bbbbbbbbbb\\n'; done"
    aci = image(rkt, exec=("/bin/sh", "-c", script))
    result = rkt.rkt(OPEN, "run", aci.path, "--name=one", aci.path, "--name=two")
    lines = result.stdout.splitlines()
    assert len(lines) == 600
    assert {re.sub(r"\[\d+\]", "", line) for line in lines} == {
        "one: aaaaaaaaaabbbbbbbbbb",
        "two: aaaaaaaaaabbbbbbbbbb",
    }


def test_environment_and_its_precedence(rkt: RktContext) -> None:
    aci = image(
        rkt, exec=("/bin/env",),
        app={"environment": [{"name": "FROM_IMAGE", "value": "i"}, {"name": "BOTH", "value": "i"}]},
    )  # fmt: skip
    result = rkt.rkt(
        OPEN, "run", "--inherit-env", "--set-env=FOO=bar", "--set-env=EXAMPLE_OVERRIDE=over",
        aci.path,
        env={"EXAMPLE_ENV": "hello", "EXAMPLE_OVERRIDE": "under", "BOTH": "parent"},
    )  # fmt: skip
    env = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert env["EXAMPLE_ENV"] == "hello"
    assert env["FOO"] == "bar"
    assert env["EXAMPLE_OVERRIDE"] == "over"
    assert env["FROM_IMAGE"] == "i"
    assert env["BOTH"] == "i"
    assert env["AC_APP_NAME"] == "busybox"


def test_nothing_is_inherited_unless_asked_for(rkt: RktContext) -> None:
    aci = image(rkt, exec=("/bin/env",))
    result = rkt.rkt(OPEN, "run", aci.path, env={"SECRET": "x"})
    env = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert "SECRET" not in env
    assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env["HOME"] == "/root"


def test_user_group_and_working_directory(rkt: RktContext) -> None:
    aci = image(rkt, user="alice", group="staff", exec=("/bin/sh", "-c", "id -u; id -g; pwd"),
                app={"workingDirectory": "/usr/bin"})  # fmt: skip
    assert rkt.rkt(OPEN, "run", aci.path).stdout.split() == ["1000", "1001", "/usr/bin"]
    result = rkt.rkt(OPEN, "run", aci.path, "--user=1234", "--group=/tmp", "--working-dir=/etc")
    assert result.stdout.split() == ["1234", "0", "/etc"]


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_exit_status(rkt: RktContext, script: str, status: int) -> None:
    sh(rkt, script, status=status)


def to_full(rkt: RktContext, streams: str, *args: str) -> Result:
    """Run a command some of whose streams are on a full disk."""
    return rkt.run(["sh", "-c", f'exec "$@" {streams}', "sh", *rkt.argv(*args)])


def test_messages_that_cannot_be_written_stop_nothing(rkt: RktContext) -> None:
    path = image(rkt, exec=("/bin/sh", "-c", "echo heard; exit 3")).path
    assert to_full(rkt, "2>/dev/full", OPEN, "run", path) == (3, "heard\n", "")
    done = rkt.run(["bash", "-c", '"$@" 2> >(exit)', "bash", *rkt.argv(OPEN, "run", path)])
    assert done == (3, "heard\n", "")
    assert to_full(rkt, ">/dev/full 2>&1", OPEN, "run", path).status == 3
    assert to_full(rkt, "2>/dev/full", "nosuch").status == 254


def test_logs_that_cannot_be_written_are_a_failure(rkt: RktContext) -> None:
    sh(rkt, "seq 10000", "--pod-name=p")
    done = rkt.run(["sh", "-c", 'exec "$@" >/dev/full', "sh", *rkt.argv("logs", "p")])
    assert done == (254, "", "rkt: cannot write the output: No space left on device\n")


def test_the_first_failing_app_ends_the_pod(rkt: RktContext) -> None:
    aci = image(rkt)
    rkt.rkt(
        OPEN, "run", aci.path, "--name=fails", "--exec=/bin/sh", "--", "-c", "sleep 0.3; exit 5",
        "---", aci.path, "--name=sleeps", "--exec=/bin/sleep", "--", "1000", status=5,
    )  # fmt: skip
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    lines = rkt.rkt("status", uuid).stdout.splitlines()
    assert lines[:5] == ["state=exited", "pid=-1", "exited=true", "fails=5", "sleeps=143"]


def test_apps_of_a_pod_share_namespaces_but_not_files(rkt: RktContext) -> None:
    kinds = "pid ipc uts net"
    script = f"for n in {kinds}; do readlink /proc/self/ns/$n; done; touch /mine; ls / | grep mine"
    aci = image(rkt, exec=("/bin/sh", "-c", script))
    result = rkt.rkt(OPEN, "run", aci.path, "--name=one", aci.path, "--name=two")
    seen: dict[str, list[str]] = {"one": [], "two": []}
    for line in result.stdout.splitlines():
        seen[line.split("[")[0]].append(line.split(": ", 1)[1])
    assert seen["one"] == seen["two"]
    assert len(seen["one"]) == 5


def test_the_host_network_is_the_default(rkt: RktContext) -> None:
    inside = sh(rkt, "readlink /proc/self/ns/net; readlink /proc/self/ns/pid").stdout.split()
    outside = rkt.run([*rkt.enter_argv(), "readlink", "/proc/self/ns/net", "/proc/self/ns/pid"])
    assert inside[0] == outside.stdout.split()[0]
    assert inside[1] != outside.stdout.split()[1]


def test_no_network_is_a_namespace_with_loopback(rkt: RktContext) -> None:
    result = sh(rkt, "ls /sys/class/net; cat /sys/class/net/lo/flags", "--net=none")
    assert result.stdout.split() == ["lo", "0x9"]


def test_default_confinement(rkt: RktContext) -> None:
    script = (
        "grep -E '^(CapBnd|CapEff|Seccomp):' /proc/self/status; ls /sys/firmware /sys/module;"
        "echo x > /proc/sys/kernel/core_pattern"
    )
    result = sh(rkt, script, status=1)
    caps = "00000000a80425fb"
    assert [line.split() for line in result.stdout.splitlines() if "Cap" in line] == [
        ["CapEff:", caps],
        ["CapBnd:", caps],
    ]
    assert "Seccomp:\t2\n/sys/firmware:\n\n/sys/module:\n" in result.stdout
    assert "core_pattern: Read-only file system" in result.stderr


def test_without_overlay_the_pod_gets_a_copy(rkt: RktContext) -> None:
    script = "echo changed > /etc/passwd; cat /etc/passwd; cat /proc/self/mountinfo"
    result = sh(rkt, script, "--no-overlay")
    assert result.stdout.startswith("changed\n")
    assert " - overlay " not in result.stdout.split("\n", 2)[1]
    assert "root:x:0" in sh(rkt, "cat /etc/passwd", "--no-overlay").stdout


def test_a_pod_never_changes_its_image(rkt: RktContext) -> None:
    sh(rkt, "echo changed > /etc/passwd; rm -r /root; touch /new")
    assert sh(rkt, "head -1 /etc/passwd; ls -d /root; ls /new", status=1).stdout == (
        "root:x:0:0::/root:/bin/sh\n/root\n"
    )


def test_a_dependency_lies_beneath_its_image(rkt: RktContext) -> None:
    base = AciBuilder("example.com/base").busybox().file("etc/who", "base").file("etc/base", "b")
    top = AciBuilder("example.com/top", exec=("/bin/cat", "/etc/who", "/etc/base"))
    top.directory("etc").file("etc/who", "top").manifest["dependencies"] = [
        {"imageName": "example.com/base"}
    ]
    rkt.rkt(OPEN, "fetch", base.build(rkt.files).path)
    assert rkt.rkt(OPEN, "run", top.build(rkt.files).path).stdout == "topb"


def test_a_volume_of_the_host(rkt: RktContext) -> None:
    os.mkdir(f"{rkt.files}/work")
    aci = image(rkt, exec=("/bin/sh", "-c", "echo $AC_APP_NAME >/var/lib/work/out; cat /backup/in"),
                app={"mountPoints": [{"name": "work", "path": "/var/lib/work"}]})  # fmt: skip
    with open(f"{rkt.files}/work/in", "w") as file:
        file.write("from the host")
    result = rkt.rkt(
        OPEN, "run", f"--volume=work,kind=host,source={rkt.files}/work", aci.path,
        "--mount=volume=work,target=/backup",
    )  # fmt: skip
    assert result.stdout == "from the host"
    with open(f"{rkt.files}/work/out") as file:
        assert file.read() == "busybox\n"


def test_by_hash_and_by_its_beginning(rkt: RktContext) -> None:
    aci = image(rkt, exec=("/bin/echo", "ran"))
    short = rkt.rkt(OPEN, "fetch", aci.path).stdout.strip()
    assert short == aci.id[:39]
    for name in (aci.id, aci.key, short, aci.id[:15], "example.com/busybox:1.0.0"):
        assert rkt.rkt(OPEN, "run", name).stdout == "ran\n"


def test_two_apps_of_one_image_need_two_names(rkt: RktContext) -> None:
    aci = image(rkt)
    result = rkt.rkt(OPEN, "run", aci.path, aci.path, status=254)
    assert "rkt: error: multiple apps with name busybox\n" in result.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--user=nobody-here"], 'invalid user "nobody-here"'),
        (["--group=nobody-here"], 'invalid group "nobody-here"'),
        (["--exec=/bin/missing"], '"/bin/missing"'),
        (["--exec=missing"], '"missing"'),
        (["--working-dir=/nowhere"], '"/nowhere"'),
        (["--exec=/bin/broken"], "/lib/no-such-interpreter"),
    ],
)
def test_what_an_image_lacks(rkt: RktContext, flags: list[str], text: str) -> None:
    builder = AciBuilder("example.com/lacking").busybox()
    builder.file("bin/broken", "#!/lib/no-such-interpreter\n", mode=0o755)
    result = rkt.rkt(OPEN, "run", builder.build(rkt.files).path, *flags, status=254)
    (line,) = [x for x in result.stderr.splitlines() if "warning" not in x and "hint" not in x]
    assert line.startswith("rkt: ")
    assert text in line
    assert "lacking" in line


def test_a_missing_runtime_is_named(rkt: RktContext) -> None:
    aci = image(rkt)
    result = rkt.rkt(OPEN, "run", aci.path, status=254, env={"RKT_OCI_RUNTIME": "/no/such/runtime"})
    assert "/no/such/runtime" in result.stderr
    assert "Traceback" not in result.stderr


def test_interactive_on_a_terminal(rkt: RktContext) -> None:
    aci = image(rkt)
    terminal = rkt.terminal(OPEN, "run", "--interactive", aci.path, "--exec=/bin/sh")
    terminal.write("tty; echo ask''ed; stty size\n")
    terminal.read_until("asked")
    terminal.write("exit 9\n")
    assert terminal.wait() == 9
    assert "/dev/pts/0" in terminal.output


def test_interactive_through_a_pipe(rkt: RktContext) -> None:
    aci = image(rkt, exec=("/bin/tr", "a-z", "A-Z"))
    result = rkt.rkt(OPEN, "run", "--interactive", aci.path, input="through\n")
    assert result.stdout == "THROUGH\n"


def test_prepare_and_run_prepared(rkt: RktContext) -> None:
    aci = image(rkt, exec=("/bin/echo", "later"))
    uuid = rkt.rkt(OPEN, "prepare", "--quiet", aci.path).stdout.strip()
    assert rkt.pod_state(uuid) == "prepared"
    assert rkt.rkt("run-prepared", uuid[:8]).stdout == "later\n"
    result = rkt.rkt("run-prepared", uuid, status=254)
    assert result.stderr == f'rkt: pod "{uuid}" is not prepared\n'


def test_the_uuid_is_saved(rkt: RktContext) -> None:
    sh(rkt, "true", f"--uuid-file-save={rkt.files}/uuid")
    with open(f"{rkt.files}/uuid") as file:
        assert rkt.pod_state(file.read()) == "exited"
    assert sh(rkt, "echo ran", "--uuid-file-save=").stdout == "ran\n"


def test_an_image_fetched_without_verification_is_not_run_without_saying_so(
    rkt: RktContext,
) -> None:
    aci = image(rkt, exec=("/bin/echo", "ran"))
    rkt.rkt(OPEN, "fetch", aci.path)
    refusal = 'refusing to execute image "example.com/busybox": it was fetched without verification'
    for verb in ("run", "prepare"):
        result = rkt.rkt(verb, aci.key, status=254)
        assert result.stderr.splitlines() == [
            f"rkt: {refusal}",
            f"hint: rkt fetch {aci.path} (or use --insecure-options=image)",
        ]
    assert rkt.rkt(OPEN, "run", aci.key).stdout == "ran\n"
