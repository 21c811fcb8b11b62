"""`run --interactive`, `enter` and `app exec` on a real terminal, and through pipes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import APPLETS, AciBuilder
from rkt_testkit.probes import needs
from rkt_testkit.runtimes import OUTLIVE_POD, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt_testkit.context import RktContext, Terminal

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
PROMPT = "in the app> "
RUNTIMES = ("crun", "runc")
WAYS = ("run", "enter")


def image(rkt: RktContext) -> str:
    """Build an image whose app is a shell with a prompt; gives its path."""
    env = [{"name": "PS1", "value": PROMPT}, {"name": "ENV", "value": "/etc/none"}]
    builder = AciBuilder("example.com/app", exec=["/bin/sh"], app={"environment": env})
    return builder.busybox(*APPLETS, "nohup", "setsid").build(rkt.files).path


def background(rkt: RktContext, runtime: str) -> str:
    """Start a pod that waits; gives its UUID."""
    words = ("run", "--detach", image(rkt), "--", "-c", "sleep 1000")
    return rkt.rkt(OPEN, *words, env={"RKT_OCI_RUNTIME": runtime}).stdout.strip()


class Shell:
    """A shell in an app, on a terminal: the app itself, or one that was entered."""

    def __init__(
        self, rkt: RktContext, way: str, runtime: str, *words: str, rows: int = 24
    ) -> None:
        env = {"RKT_OCI_RUNTIME": runtime, "TERM": "xterm-256color"}
        self.uuid = ""
        if way == "run":
            argv = [OPEN, "run", "--interactive", image(rkt)]
            argv += ["--", *words] if words else []
        else:
            self.uuid = background(rkt, runtime)
            argv = ["enter", self.uuid, "sh", *words]
        self.rkt = rkt
        self.screen: Terminal = rkt.terminal(*argv, env=env, size=(rows, 80))
        if way == "run":
            self.screen.expect("rkt: warning: signature verification has been disabled\n")
        if not words:
            self.screen.expect(PROMPT)

    def type(self, text: str) -> str:
        """Type a line; gives what it prints before the next prompt."""
        self.screen.write(f"{text}\n")
        return self.screen.expect(PROMPT).partition("\n")[2]

    def end(self, status: int) -> None:
        """Assert how the command ends, and that the terminal is as it was."""
        assert self.screen.finish() == status
        assert self.screen.is_restored
        self.screen.close()
        if self.uuid:
            self.rkt.rkt("stop", "--force", self.uuid)
            self.rkt.wait_for(lambda: self.rkt.pod_state(self.uuid) == "exited")


@pytest.fixture(params=[(w, r) for w in WAYS for r in RUNTIMES], ids="-".join)
def start(request: pytest.FixtureRequest, rkt: RktContext) -> Callable[..., Shell]:
    """Start a shell in an app, by every way with every runtime."""
    way, runtime = request.param
    return lambda *words, rows=24: Shell(rkt, way, runtime, *words, rows=rows)


def test_a_terminal_of_the_right_size(start: Callable[..., Shell]) -> None:
    # Asked for at the very beginning: the size must not come later than the command.
    shell = start("-c", "stty size; tty; echo $TERM", rows=33)
    shell.screen.read_until("xterm-256color\n")
    assert shell.screen.output == "33 80\n/dev/pts/0\nxterm-256color\n"
    shell.end(0)


def test_the_size_follows_the_window(start: Callable[..., Shell]) -> None:
    shell = start("-c", "trap 'stty size' WINCH; echo armed; while :; do sleep 0.1; done")
    shell.screen.expect("armed\n")
    for rows, columns in ((50, 132), (7, 20)):
        shell.screen.resize(rows, columns)
        shell.screen.expect(f"{rows} {columns}\n")
    shell.screen.write("\x03")
    shell.end(130)


def test_keys_are_for_the_app(start: Callable[..., Shell]) -> None:
    shell = start()
    shell.screen.write("sh -c 'echo one; cat'\n")
    shell.screen.expect("\none\n")
    shell.screen.write("\x03")  # ends the job, neither the shell nor the pod
    shell.screen.expect(PROMPT)
    assert shell.type("echo $?") == "130\n"
    shell.screen.write("sh -c 'echo two; cat'\n")
    shell.screen.expect("\ntwo\n")
    shell.screen.write("\x1a")
    stopped = shell.screen.expect(PROMPT)
    assert "Stopped" in stopped
    assert "Stopped" in shell.type("jobs")
    shell.screen.write("fg\n")
    shell.screen.expect('echo two; cat"\n')  # by now the shell edits no more
    shell.screen.write("typed\n")
    shell.screen.expect("typed\ntyped\n")
    shell.screen.write("\x04")  # Ctrl-D is the end of what cat reads, and then of the shell
    shell.screen.expect(PROMPT)
    assert shell.type("echo $?") == "0\n"
    shell.screen.write("\x04")
    shell.end(0)


def test_the_exit_status(start: Callable[..., Shell]) -> None:
    shell = start()
    shell.screen.write("exit 42\n")
    shell.end(42)


def test_killed_by_a_signal(start: Callable[..., Shell]) -> None:
    shell = start("-c", "kill -9 $$")
    shell.end(137)


def test_the_last_output_is_not_lost(start: Callable[..., Shell]) -> None:
    shell = start("-c", "seq 5000; echo -n end")
    shell.screen.read_until("end")
    lines = shell.screen.output.splitlines()
    assert lines[:5000] == [str(n) for n in range(1, 5001)]
    assert lines[5000].startswith("end")
    shell.end(0)


def test_what_runs_on_in_the_background_does_not_hold_it(start: Callable[..., Shell]) -> None:
    shell = start()
    shell.type("nohup setsid sleep 1000 &")
    shell.screen.write("exit 3\n")
    shell.end(3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ended_by_a_signal(start: Callable[..., Shell], number: signal.Signals) -> None:
    shell = start("-c", "trap 'exit 9' HUP TERM INT; echo armed; while :; do sleep 0.1; done")
    shell.screen.expect("armed\n")
    assert not shell.screen.is_restored
    shell.screen.process.send_signal(number)
    if shell.uuid:  # it is `enter` that ends, and what it started hears that the line is dead
        rkt, uuid = shell.rkt, shell.uuid
        assert shell.screen.finish() == 128 + number
        rkt.wait_for(lambda: "armed" not in rkt.rkt("enter", uuid, "ps").stdout)
        shell.end(128 + number)
    else:
        shell.end(9)


@pytest.mark.parametrize("way", WAYS)
def test_brought_to_the_foreground(rkt: RktContext, way: str) -> None:
    uuid = background(rkt, "crun") if way == "enter" else ""
    script = 'set -m; "$@" & until [ "$(jobs -s)" ]; do sleep 0.1; done; fg'
    words = ("enter", uuid, "sh") if uuid else (OPEN, "run", "--interactive", image(rkt), "--")
    screen = rkt.terminal(*words, "-c", "echo here; read x; echo got $x; exit 3",
                          around=("bash", "-c", script, "bash"))  # fmt: skip
    screen.expect("here\n")
    screen.write("this\n")
    screen.expect("got this\n")
    assert screen.finish() == 3
    assert screen.is_restored
    screen.close()
    if uuid:
        rkt.rkt("stop", "--force", uuid)
        rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_pod_ends_under_a_shell(rkt: RktContext, runtime: str) -> None:
    shell = Shell(rkt, "enter", runtime)
    rkt.rkt("stop", "--force", shell.uuid)
    assert shell.screen.finish() == 137
    assert shell.screen.is_restored
    shell.screen.close()
    rkt.wait_for(lambda: rkt.pod_state(shell.uuid) == "exited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_pod_ends_while_it_is_entered(rkt: RktContext, runtime: str) -> None:
    """With it goes the file in which the runtime says what it has started."""
    Runtime(rkt, "exec", OUTLIVE_POD, (runtime,))
    uuid = rkt.rkt(OPEN, "run", "--detach", image(rkt), "--", "-c", "sleep 1000").stdout.strip()
    script = "echo ready; exec sleep 1000"
    screen = rkt.terminal("enter", uuid, "sh", "-c", script)
    screen.expect("ready\n")
    piped = None
    if runtime == "runc":  # crun is executed, and has no such file
        piped = rkt.spawn("enter", uuid, "sh", "-c", script)
        assert piped.stdout is not None
        assert piped.stdout.readline() == b"ready\n"
    rkt.rkt("stop", "--force", uuid)
    assert (screen.wait(), screen.output) == (137, "")
    if piped is not None:
        assert piped.wait(60) == 137
        assert piped.stderr is not None
        assert piped.stderr.read() == b""
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


def test_an_app_that_cannot_start(rkt: RktContext) -> None:
    screen = rkt.terminal(OPEN, "run", "--interactive", image(rkt), "--exec=/nosuch")
    assert screen.finish() == 254
    assert screen.is_restored
    assert 'error looking up "/nosuch": no such file or directory' in screen.output
    screen.close()


def test_a_command_that_cannot_start(rkt: RktContext) -> None:
    uuid = background(rkt, "runc")
    for command, text in (
        ("/nosuch", 'rkt: error looking up "/nosuch": no such file or directory\n'),
        ("nosuch", 'rkt: error looking up "nosuch": not found along PATH='),
    ):
        screen = rkt.terminal("enter", uuid, command)
        assert screen.finish() == 254
        assert screen.is_restored
        assert text in screen.output
        screen.close()
    screen = rkt.terminal("enter", uuid)
    assert screen.finish() == 254
    assert screen.output.startswith('No command specified, assuming "/bin/bash"\n')
    assert 'error looking up "/bin/bash": no such file or directory' in screen.output
    screen.close()
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


def test_a_session_leaves_nothing_in_the_pod(rkt: RktContext) -> None:
    uuid = background(rkt, "runc")
    before = sorted(os.listdir(f"{rkt.pod_dir(uuid)}/bundle"))
    screen = rkt.terminal("enter", uuid, "true")
    assert screen.wait() == 0
    assert sorted(os.listdir(f"{rkt.pod_dir(uuid)}/bundle")) == before
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


def test_what_a_killed_session_of_that_number_left(rkt: RktContext) -> None:
    """PIDs come round in the life of a pod."""
    uuid = background(rkt, "runc")
    leave = 'touch "$0/bundle/enter$$"; exec "$@"'
    screen = rkt.terminal(
        "enter", uuid, "echo", "here", around=("sh", "-c", leave, rkt.pod_dir(uuid))
    )
    assert (screen.wait(), screen.output) == (0, "here\n")
    assert not [name for name in os.listdir(f"{rkt.pod_dir(uuid)}/bundle") if "enter" in name]
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


# Without a terminal


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("user", ["0", "alice"])
def test_piping_through_a_pod(rkt: RktContext, runtime: str, user: str) -> None:
    data = "".join(f"line {n}\n" for n in range(20_000))
    result = rkt.rkt(
        OPEN, "run", "--interactive", image(rkt), f"--user={user}", "--", "-c",
        "cat; tty >&2; exit 5", input=data, status=5, env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    assert result.stdout == data
    assert result.stderr.splitlines()[1:] == [
        "not a tty", 'rkt: app "app" exited with status 5'
    ]  # fmt: skip


def test_a_file_as_input(rkt: RktContext) -> None:
    path = f"{rkt.files}/input"
    with open(path, "wb") as file:
        file.write(b"\0bytes\xff" * 1000)
    os.chown(path, 1234, 1234)
    with open(path, "rb") as file:
        done = subprocess.run(
            rkt.argv(OPEN, "run", "--interactive", image(rkt), "--user=alice", "--", "-c", "cat"),
            stdin=file, capture_output=True, check=False, env=rkt.env,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"\0bytes\xff" * 1000)
    assert os.stat(path).st_uid == 1234


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_reader_that_has_enough(rkt: RktContext, runtime: str) -> None:
    """Part of a pipeline: when its reader has gone, the app gets SIGPIPE like any program."""
    words = ("run", "--interactive", image(rkt), "--exec=/bin/yes")
    pod = rkt.spawn(OPEN, *words, env={"RKT_OCI_RUNTIME": runtime})
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"y\n"
    pod.stdout.close()
    assert pod.wait(60) == 128 + signal.SIGPIPE
    assert pod.stderr is not None
    assert b'rkt: app "app" killed by SIGPIPE' in pod.stderr.read()


def test_output_that_nobody_wants_ends_nothing(rkt: RktContext) -> None:
    script = "for i in 1 2 3; do echo x; done; exit 3"
    words = ("run", "--interactive", image(rkt), "--", "-c", script)
    with open("/dev/null", "w") as null:
        argv = rkt.argv(OPEN, *words)
        result = subprocess.run(argv, stdout=null, env=rkt.env, check=False, timeout=60)
    assert result.returncode == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_closed_streams(rkt: RktContext, runtime: str) -> None:
    """What the caller closed is /dev/null for the app, not a file that rkt has opened since."""
    script = "ls -l /proc/self/fd/0; cat; echo the end; echo of it >&2; exit 3"
    words = ("run", "--interactive", image(rkt), "--", "-c", script)
    env = {**rkt.env, "RKT_OCI_RUNTIME": runtime}
    for closed, out in (("<&-", b"the end\n"), (">&-", b""), ("<&- >&- 2>&-", b"")):
        argv = ["sh", "-c", f'exec "$@" {closed}', "sh", *rkt.argv(OPEN, *words)]
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False, timeout=60
        )
        assert (result.returncode, result.stdout[-8:]) == (3, out), result.stderr
        assert b"internal error" not in result.stderr
        if out:
            assert b"/dev/null" in result.stdout or b"pipe:" in result.stdout


def test_no_input_at_all(rkt: RktContext) -> None:
    with open("/dev/null", "rb") as null:
        done = subprocess.run(
            rkt.argv(OPEN, "run", "--interactive", image(rkt), "--", "-c", "wc -c; exit 4"),
            stdin=null, capture_output=True, check=False, env=rkt.env,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, b"0\n")


def test_the_callers_pipe_or_file_as_stream(rkt: RktContext) -> None:
    words = ("run", image(rkt), "--stdin=stream", "--", "-c", "wc -c; exit 3")
    result = rkt.rkt(OPEN, *words, input="x" * 3_000_000, status=3)
    assert result.stdout == "3000000\n"
    path = f"{rkt.files}/input"
    with open(path, "wb") as file:
        file.write(b"y" * 100_000)
    with open(path, "rb") as file:
        done = subprocess.run(
            rkt.argv(OPEN, *words), stdin=file, capture_output=True, check=False, env=rkt.env
        )
    assert (done.returncode, done.stdout) == (3, b"100000\n")


def test_the_callers_pipe_and_a_client_as_stream(rkt: RktContext) -> None:
    script = 'while read -r line; do echo "seen: $line"; done; exit 3'
    save = f"--uuid-file-save={rkt.files}/uuid"
    words = ("run", save, image(rkt), "--stdin=stream", "--", "-c", script)
    pod = rkt.spawn(OPEN, *words, stdin=subprocess.PIPE)
    assert pod.stdin is not None
    assert pod.stdout is not None
    pod.stdin.write(b"one\n")
    pod.stdin.flush()
    assert pod.stdout.readline() == b"seen: one\n"
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.rkt("attach", "--mode=stdin", uuid, input="two\n")
    assert pod.stdout.readline() == b"seen: two\n"
    pod.stdin.write(b"three\n")
    pod.stdin.close()  # unlike a client's, this end is the app's
    assert pod.stdout.read() == b"seen: three\n"
    assert pod.wait(30) == 3


@pytest.mark.parametrize("left", ["", "exec 3<&0; sleep 1000 & "])
def test_a_restarted_app_reads_on(rkt: RktContext, left: str) -> None:
    # What it left behind has its pipe open, but reads nothing that is meant for the next run.
    script = left + 'if read -r line; then echo "$line"; else echo end; fi; exit 3'
    words = ("run", "--restart=on-failure:2", image(rkt), "--stdin=stream", "--", "-c", script)
    process = rkt.spawn(OPEN, *words, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
        while b"it starts again" not in process.stderr.readline():
            pass  # what it had not read is lost with its pipe
    process.stdin.close()
    assert process.stdout.read() == b"end\n"
    assert process.wait(30) == 3


def test_two_apps_that_read_streams(rkt: RktContext) -> None:
    # Nobody could say whose the caller's input is: they wait for who attaches.
    path = image(rkt)
    both = ("--stdin=stream", "--", "-c", 'read -r line; echo "$line"')
    words = (path, "--name=a", *both, "---", path, "--name=b", *both)
    pod = rkt.spawn(
        OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", *words, stdin=subprocess.PIPE
    )
    assert pod.stdin is not None
    assert pod.stdout is not None
    pod.stdin.write(b"lost\n")
    pod.stdin.close()
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/uuid"))
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)
    for app in ("a", "b"):
        rkt.rkt("attach", "--mode=stdin", f"--app={app}", uuid, input=f"for {app}\n")
    lines = sorted(line.partition(b": ")[2] for line in pod.stdout.read().splitlines())
    assert lines == [b"for a", b"for b"]
    assert pod.wait(30) == 0


def test_a_stream_as_input(rkt: RktContext) -> None:
    # The end of who is attached is not the end of the input: others may have more to say.
    script = 'read -r a; echo "seen: $a"; read -r b; echo "seen: $b"; exit 3'
    words = ("run", "--detach", image(rkt), "--stdin=stream", "--stdout=stream", "--", "-c", script)
    uuid = rkt.rkt(OPEN, *words).stdout.strip()
    attached = rkt.rkt("attach", "--mode=stdin,stdout", uuid, input="one\ntwo\n")
    assert attached.stdout == "seen: one\nseen: two\n"
    assert "app=3" in rkt.rkt("status", "--wait", uuid).stdout.splitlines()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_entering_through_pipes(rkt: RktContext, runtime: str) -> None:
    uuid = background(rkt, runtime)
    result = rkt.rkt("enter", uuid, "sh", "-c", "cat; tty; exit 6", input="piped\n", status=6)
    assert result.stdout == "piped\nnot a tty\n"
    result = rkt.rkt("enter", uuid, "sh", "-c", "echo x >/dev/stderr; kill -9 $$", status=137)
    assert result.stderr == "x\n"
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_runs_on_does_not_hold_enter(rkt: RktContext, runtime: str) -> None:
    uuid = background(rkt, runtime)
    argv = rkt.argv("enter", uuid, "sh", "-c", "sleep 1000 & echo started; exit 6")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          env=rkt.env) as process:  # fmt: skip
        assert process.wait(30) == 6
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    argv = rkt.argv("enter", uuid, "sh", "-c", script)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          env=rkt.env) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 7
    assert not [name for name in os.listdir(f"{rkt.pod_dir(uuid)}/bundle") if "enter" in name]
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_entering_with_files(rkt: RktContext, runtime: str) -> None:
    """crun gives a command's streams to its user: that must not happen to files of the caller's."""
    uuid = background(rkt, runtime)
    paths = [f"{rkt.files}/{name}" for name in ("in", "out", "err")]
    with open(paths[0], "wb") as file:
        file.write(b"x" * 300_000)
    script = "cat; echo end; echo err >&2; sleep 1000 & exit 6"
    with open(paths[0], "rb") as stdin, open(paths[1], "wb") as out, open(paths[2], "wb") as err:
        for path in paths:
            os.chown(path, 1234, 1235)
        argv = rkt.argv("enter", uuid, "sh", "-c", script)
        done = subprocess.run(argv, stdin=stdin, stdout=out, stderr=err, check=False, env=rkt.env,
                              timeout=60)  # fmt: skip
        both = rkt.argv("enter", uuid, "sh", "-c", "for i in 1 2 3; do echo o; echo e >&2; done")
        subprocess.run(both, stdout=err, stderr=err, check=True, env=rkt.env, timeout=60)
    assert done.returncode == 6
    assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in paths} == {(1234, 1235)}
    with open(paths[1], "rb") as file:
        assert file.read() == b"x" * 300_000 + b"end\n"
    with open(paths[2], "rb") as file:
        lines = file.read().split()
    assert lines[0] == b"err"
    # runc carries both streams itself, each as it comes.
    assert (sorted(lines[1:]) if runtime == "runc" else lines[1:]) == (
        [b"e"] * 3 + [b"o"] * 3 if runtime == "runc" else [b"o", b"e"] * 3
    )
    with open(paths[1], "wb") as out:
        argv = rkt.argv("enter", uuid, "sh", "-c", "echo ready; exec sleep 1000")
        process = subprocess.Popen(argv, stdout=out, env=rkt.env)
        rkt.wait_for(lambda: os.path.getsize(paths[1]) == len("ready\n"))
        process.terminate()
        assert process.wait(30) in (143, -15)
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_entering_with_nothing_hands_no_device_of_the_host_over(
    rkt: RktContext, runtime: str
) -> None:
    """Root in an app can change the mode of what it has: that of /dev/null is everybody's."""
    uuid = background(rkt, runtime)
    script = (
        "seen=$(for fd in 0 1 2; do stat -L -c %F /proc/$$/fd/$fd; done); echo $seen >/tmp/seen; "
        "cat; exit 6"
    )
    done = subprocess.run(
        rkt.argv("enter", uuid, "sh", "-c", script), check=False, env=rkt.env, timeout=60,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 6
    assert rkt.rkt("enter", uuid, "cat", "/tmp/seen").stdout == "fifo fifo fifo\n"
    rkt.rkt("stop", "--force", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


def test_interactive_wants_one_app(rkt: RktContext) -> None:
    path = image(rkt)
    words = (path, "--name=one", path, "--name=two")
    result = rkt.rkt(OPEN, "run", "--interactive", *words, status=254)
    assert result.stderr == "rkt: interactive option only supports one image\n"
    uuid = rkt.rkt(OPEN, "prepare", *words).stdout.strip()
    result = rkt.rkt("run-prepared", "--interactive", uuid, status=254)
    assert result.stderr == "rkt: interactive option only supports pods with one app\n"
    assert re.search("^state=prepared$", rkt.rkt("status", uuid).stdout, re.MULTILINE)


def test_what_cannot_be_entered(rkt: RktContext) -> None:
    uuid = rkt.rkt(OPEN, "prepare", image(rkt)).stdout.strip()
    assert rkt.rkt("enter", uuid, "id", status=254).stderr == (
        f'rkt: pod "{uuid}" isn\'t currently running\n'
    )
    result = rkt.rkt("enter", "zz", "id", status=254)
    assert result.stderr == 'rkt: problem retrieving pod: no matches found for "zz"\n'
    assert rkt.rkt("enter", status=254).stderr.startswith("rkt: a pod UUID is needed\n")
    sandbox = rkt.spawn("app", "sandbox", f"--uuid-file-save={rkt.files}/sandbox")

    def is_ready() -> bool:
        if not os.path.exists(f"{rkt.files}/sandbox"):
            return False
        with open(f"{rkt.files}/sandbox") as file:
            saved = file.read()
        return bool(saved) and rkt.pod_state(saved) == "running"

    rkt.wait_for(is_ready)
    with open(f"{rkt.files}/sandbox") as file:
        empty = file.read()
    assert rkt.rkt("enter", empty, "id", status=254).stderr == "rkt: pod contains zero apps\n"
    rkt.rkt("stop", empty)
    sandbox.wait(30)
