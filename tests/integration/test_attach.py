"""Attaching to the streams and the terminal of an app that runs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
UNSIGNED = "rkt: warning: signature verification has been disabled\n"
STREAMS = ("--stdin=stream", "--stdout=stream", "--stderr=stream")
TTY = ("--stdin=tty", "--stdout=tty", "--stderr=tty")
ECHO = 'while read -r line; do echo "got $line"; echo "err $line" >&2; done; echo over'


def start(rkt: RktContext, script: str, *flags: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start an ordinary pod whose app runs a script; gives its process and its UUID."""
    aci = AciBuilder("example.com/a", exec=("/bin/sh", "-c", script)).busybox().build(rkt.files)
    process = rkt.spawn(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", aci.path, *flags)
    path = f"{rkt.files}/uuid"
    rkt.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) == 36)
    with open(path) as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready=30s", uuid)
    return process, uuid


def attach(rkt: RktContext, *args: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return rkt.spawn("attach", *args, stdin=stdin)


def say(client: subprocess.Popen[bytes], text: str) -> None:
    assert client.stdin is not None
    client.stdin.write(text.encode())
    client.stdin.flush()


def line(client: subprocess.Popen[bytes]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().decode()


def end(process: subprocess.Popen[bytes], status: int = 143) -> tuple[str, str]:
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    return out.decode(), err.decode().removeprefix(UNSIGNED)


def test_streams(rkt: RktContext) -> None:
    process, uuid = start(rkt, ECHO, *STREAMS)
    assert rkt.rkt("attach", "--mode=list", uuid).stdout == "stdin\nstdout\nstderr\n"
    client = attach(rkt, uuid)
    say(client, "one\n")
    assert line(client) == "got one\n"
    assert client.stderr is not None
    assert client.stderr.readline() == b"err one\n"
    other = attach(rkt, "--mode=stdout", uuid)
    _until_attached(rkt, process, "sock-stdout", 2)
    say(client, "two\n")
    assert line(client) == line(other) == "got two\n"
    # What is typed by several comes together; closing detaches, and the app goes on.
    assert client.stdin is not None
    client.stdin.close()
    rkt.rkt("attach", "--mode=stdin", uuid, input="three\nfour\n")
    assert [line(other), line(other)] == ["got three\n", "got four\n"]
    assert [line(client), line(client)] == ["got three\n", "got four\n"]
    other.terminate()
    assert other.wait(30) == 0
    assert end(process) == ("", "")
    assert client.wait(30) == 0  # the end of the app is its end


def test_input_that_the_app_did_not_take(rkt: RktContext) -> None:
    """What is left of it at the app's end is lost, which is no failure of who attached."""
    process, uuid = start(rkt, "echo ready; until [ -e /go ]; do sleep 0.05; done; echo over",
                          "--stdin=stream", "--stdout=stream")  # fmt: skip
    client = attach(rkt, uuid)
    # More than two pipes and the supervisor hold, less than the socket takes besides.
    say(client, "x" * 200_000)
    other = attach(rkt, "--mode=stdout", uuid)
    _until_attached(rkt, process, "sock-stdout", 2)
    rkt.rkt("enter", uuid, "/bin/touch", "/go")
    assert other.communicate(timeout=30) == (b"over\n", b"")
    out, err = client.communicate(timeout=30)
    assert (client.returncode, err) == (0, b"")
    assert out.endswith(b"over\n")
    assert process.wait(30) == 0


def test_the_record_of_endpoints(rkt: RktContext) -> None:
    process, uuid = start(rkt, ECHO, "--stdin=stream", "--stdout=stream")
    base = f"{rkt.pod_dir(uuid)}/overlay"
    (directory,) = (
        f"{base}/{name}/upper/rkt/iottymux/a" for name in os.listdir(base)
        if os.path.exists(f"{base}/{name}/upper/rkt/iottymux")
    )  # fmt: skip
    with open(f"{directory}/endpoints") as file:
        assert json.load(file) == {"version": 1, "targets": [
            {"name": name, "domain": "unix", "address": f"/rkt/iottymux/a/sock-{name}"}
            for name in ("stdin", "stdout")
        ]}  # fmt: skip
    with open(f"{directory}/env") as file:
        assert file.read() == (
            "STAGE2_TTY=false\nSTAGE2_STDIN=true\nSTAGE2_STDOUT=true\nSTAGE2_STDERR=false\n"
        )
    assert os.stat(directory).st_mode & 0o777 == 0o700
    manifest = json.loads(rkt.rkt("cat-manifest", uuid).stdout)
    assert manifest["apps"][0]["annotations"] == [
        {"name": "coreos.com/rkt/stage2/stdin", "value": "stream"},
        {"name": "coreos.com/rkt/stage2/stdout", "value": "stream"},
    ]
    end(process)
    assert not os.path.exists(directory)


def test_streams_that_are_not_attachable(rkt: RktContext) -> None:
    process, uuid = start(rkt, "echo seen; echo unseen >&2; exec sleep 1000", "--stderr=null")
    assert process.stdout is not None
    assert process.stdout.readline() == b"seen\n"
    assert rkt.rkt("attach", "--mode=list", uuid).stdout == ""
    result = rkt.rkt("attach", "--mode=stdout", uuid, status=254)
    assert result.stderr == 'rkt: app "a" has no endpoint "stdout"\nhint: it has: none\n'
    result = rkt.rkt("attach", uuid, status=254)
    assert "attach: no endpoint is given" in result.stderr
    assert end(process) == ("", "")
    result = rkt.rkt("attach", uuid, status=254)
    assert result.stderr == f'rkt: pod "{uuid}" isn\'t currently running\n'


def test_a_pod_without_apps(rkt: RktContext) -> None:
    path = f"{rkt.files}/uuid"
    process = rkt.spawn("app", "sandbox", f"--uuid-file-save={path}")
    rkt.wait_for(lambda: os.path.exists(path))
    with open(path) as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)
    result = rkt.rkt("attach", "--app=one", uuid, status=254)
    assert result.stderr == f'rkt: pod "{uuid}": no app "one"\nhint: it has no apps\n'
    process.terminate()
    process.wait(30)


def test_an_app_with_ordinary_streams(rkt: RktContext) -> None:
    process, uuid = start(rkt, "echo ready; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    for mode in ("list", "auto", "stdin"):
        result = rkt.rkt("attach", f"--mode={mode}", uuid, status=254)
        assert result.stderr.startswith('rkt: app "a" has no streams to attach to\nhint: ')
    result = rkt.rkt("attach", "--app=other", uuid, status=254)
    assert result.stderr.startswith(f'rkt: pod "{uuid}": no app "other"')
    end(process)


def test_a_terminal(rkt: RktContext) -> None:
    process, uuid = start(rkt, "tty; exec sh", *TTY)
    assert rkt.rkt("attach", "--mode=list", uuid).stdout == "tty\n"
    terminal = rkt.terminal("attach", uuid)
    terminal.write("echo $((40+2)) $TERM\n")
    terminal.read_until("42 ")
    second = rkt.terminal("attach", "--mode=tty-out", uuid)
    terminal.write("while :; do echo to''both; sleep 0.2; done\n")
    terminal.read_until("toboth")
    second.read_until("toboth")
    second.write("echo no''where\n")  # it has no way in
    terminal.write("\x03")  # Ctrl-C is for the app
    terminal.write("echo st''ill; stty size\n")
    terminal.read_until("still")
    assert "nowhere" not in terminal.output
    # A terminal that goes away is no end of the app.
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.wait() == 0
    third = rkt.terminal("attach", uuid)
    third.write("echo ag''ain; exit 5\n")
    third.read_until("again")
    assert third.wait() == 0
    assert second.wait() == 0
    process.communicate(timeout=30)
    assert process.returncode == 5


def test_the_size_of_the_terminal(rkt: RktContext) -> None:
    script = "trap 'stty size' WINCH; touch /armed; while :; do sleep 0.1; done"
    process, uuid = start(rkt, script, *TTY)
    armed = ("enter", uuid, "/bin/test", "-e", "/armed")
    rkt.wait_for(lambda: rkt.rkt(*armed, status=None).status == 0)
    terminal = rkt.terminal("attach", uuid)
    fd = os.open(f"/proc/{terminal.process.pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    rkt.wait_for(lambda: terminal._read(0.1) and "33 99" in terminal.output)
    terminal.process.terminate()
    assert terminal.process.wait(30) == 0
    os.close(fd)
    terminal.wait()
    process.kill()
    process.wait(30)
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    rkt.rkt("gc", "--grace-period=0s")


def test_the_terminal_is_given_back_as_it_was(rkt: RktContext) -> None:
    process, uuid = start(rkt, "exec sh", *TTY)
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    client = subprocess.Popen(
        ["setsid", "--ctty", *rkt.argv("attach", uuid)], stdin=slave, stdout=slave, stderr=slave,
        env=rkt.env,
    )  # fmt: skip
    os.write(master, b"echo he''re\n")
    seen = b""
    while b"here" not in seen:
        seen += os.read(master, 4096)
    assert termios.tcgetattr(slave) != before
    client.terminate()
    assert client.wait(30) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    process.kill()
    process.wait(30)
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    rkt.rkt("gc", "--grace-period=0s")


def test_a_terminal_through_pipes(rkt: RktContext) -> None:
    process, uuid = start(rkt, 'read -r x; stty -echo; echo "<$x>"; read -r y; exit 0', *TTY)
    client = attach(rkt, uuid)
    say(client, "hello\n")
    assert client.stdout is not None
    seen = b""
    while b"<hello>" not in seen:
        seen += os.read(client.stdout.fileno(), 4096)
    say(client, "bye\n")
    _, err = client.communicate(timeout=30)
    assert (client.returncode, err) == (0, b"")
    assert process.wait(30) == 0


def test_a_terminal_whose_output_is_logged(rkt: RktContext) -> None:
    process, uuid = start(rkt, 'read -r x; echo "got $x"', "--stdin=tty")
    rkt.rkt("attach", "--mode=tty-in", uuid, input="something\n")
    out, _ = process.communicate(timeout=30)
    assert b"got something" in out
    assert process.returncode == 0


def test_a_slow_client_does_not_make_the_app_wait(rkt: RktContext) -> None:
    # What the app says on stderr tells when it is through.
    script = (
        "read -r go; yes 0123456789abcdef | head -c 40000000; echo done >&2; "
        "while :; do echo more; sleep 0.1; done"
    )
    process, uuid = start(rkt, script, "--stdin=stream", "--stdout=stream")
    slow = attach(rkt, "--mode=stdout", uuid)
    assert process.stderr is not None
    _until_attached(rkt, process, "sock-stdout", 1)
    begun = time.monotonic()
    rkt.rkt("attach", "--mode=stdin", uuid, input="go\n")
    while process.stderr.readline() != b"done\n":
        assert process.poll() is None
    assert time.monotonic() - begun < 30
    with open(f"/proc/{process.pid}/status") as file:
        peak = next(int(row.split()[1]) for row in file if row.startswith("VmHWM"))
    assert peak < 60000  # kB
    out, err = slow.communicate(timeout=30)
    assert slow.returncode == 254
    assert b"its output was not read fast enough" in err
    assert 0 < len(out) < 40000000
    late = attach(rkt, "--mode=stdout", uuid)
    assert line(late) == "more\n"
    end(process)
    late.communicate(timeout=30)
    assert late.returncode == 0


def _until_attached(rkt: RktContext, pod: subprocess.Popen[bytes], name: str, count: int) -> None:
    def connected() -> bool:
        with open(f"/proc/{pod.pid}/net/unix") as file:
            rows = [row.split() for row in file]
        return sum(row[-1].endswith(name) and row[5] == "03" for row in rows) >= count

    rkt.wait_for(connected, timeout=20)


def test_an_app_that_does_not_read(rkt: RktContext) -> None:
    script = "echo up; while [ ! -e /go ]; do sleep 0.05; done; wc -c; echo end"
    process, uuid = start(rkt, script, "--stdin=stream")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    writer = attach(rkt, "--mode=stdin", uuid)
    assert writer.stdin is not None
    os.set_blocking(writer.stdin.fileno(), False)
    written = 0
    while written < 4 << 20:
        try:
            written += os.write(writer.stdin.fileno(), b"x" * 65536)
        except BlockingIOError:
            time.sleep(0.2)
            try:
                written += os.write(writer.stdin.fileno(), b"x")
            except BlockingIOError:
                break
    assert 0 < written < 4 << 20  # somebody holds it back
    # Meanwhile the pod is not held up by it.
    rkt.rkt("enter", uuid, "/bin/touch", "/go")
    end(process)
    writer.communicate(timeout=30)


def test_attach_before_the_app_is_started(rkt: RktContext) -> None:
    script = "echo first; read -r x; echo $x; exit 0"
    aci = AciBuilder("example.com/a", exec=("/bin/sh", "-c", script)).busybox().build(rkt.files)
    rkt.rkt(OPEN, "fetch", aci.path)
    process = rkt.spawn("app", "sandbox", f"--uuid-file-save={rkt.files}/uuid")
    path = f"{rkt.files}/uuid"
    rkt.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) == 36)
    with open(path) as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready=30s", uuid)
    rkt.rkt(OPEN, "app", "add", uuid, aci.id, *STREAMS)
    for _ in range(2):
        client = attach(rkt, uuid)
        say(client, "typed before\n")
        _until_attached(rkt, process, "sock-stdin", 1)
        _until_attached(rkt, process, "sock-stderr", 1)
        rkt.rkt("app", "start", uuid, "--app=a")
        out, err = client.communicate(timeout=30)
        assert (client.returncode, out, err) == (0, b"first\ntyped before\n", b"")
        result = rkt.rkt("attach", uuid, status=254)
        assert result.stderr == 'rkt: app "a" is not running\n'
        rkt.rkt("app", "rm", uuid, "--app=a")
        rkt.rkt(OPEN, "app", "add", uuid, aci.id, *STREAMS)
    end(process, 0)


def test_a_killed_client_is_forgotten(rkt: RktContext) -> None:
    process, uuid = start(rkt, ECHO, *STREAMS)
    for _ in range(5):
        client = attach(rkt, uuid)
        say(client, "x\n")
        assert line(client) == "got x\n"
        client.kill()
        client.wait(30)
    rkt.wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) < 30)
    rkt.rkt("attach", "--mode=stdin", uuid, input="y\n")
    end(process)


def test_many_clients_and_connections_that_say_nothing(rkt: RktContext) -> None:
    process, uuid = start(rkt, ECHO, *STREAMS)
    root = f"/proc/{process.pid}/root{rkt.pod_dir(uuid)}/stage1/rootfs/rkt/iottymux/a"
    idle = []
    for _ in range(100):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{_short(root)}/sock-stdout")
        idle.append(sock)
    for sock in idle:
        sock.close()
    client = attach(rkt, uuid)
    say(client, "x\n")
    assert line(client) == "got x\n"
    end(process)


def _short(path: str) -> str:
    fd = os.open(path, os.O_PATH)
    return f"/proc/self/fd/{fd}"


@pytest.mark.parametrize("flag", ["--stdin=log", "--stdout=interactive", "--stderr=x"])
def test_modes_that_do_not_exist(rkt: RktContext, flag: str) -> None:
    aci = AciBuilder("example.com/a").busybox().build(rkt.files)
    result = rkt.rkt(OPEN, "run", aci.path, flag, status=254)
    stream, _, mode = flag[2:].partition("=")
    assert result.stderr.startswith(f'rkt: invalid {stream} mode "{mode}"\n')
    result = rkt.rkt("run", flag, aci.path, status=254)
    assert result.stderr.startswith(f"rkt: --{stream} must follow an application\n")
