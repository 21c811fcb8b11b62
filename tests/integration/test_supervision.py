"""Pods in the background, their names, restarts, health checks, and why apps ended."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.runtimes import HOLD, OUTLIVE, Runtime

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

OPEN = "--insecure-options=image"
SHELL = ("--exec=/bin/sh", "--", "-c")
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def image(rkt: RktContext) -> str:
    return AciBuilder("example.com/app").busybox().build(rkt.files).path


def run(rkt: RktContext, image: str, script: str, *flags: str, status: int) -> Result:
    """Run a pod called `p` to its end; gives its result, with stderr's last line alone."""
    result = rkt.rkt(OPEN, "run", "--pod-name=p", image, *flags, *SHELL, script, status=status)
    return result._replace(stderr=result.stderr.splitlines()[-1])


def start(rkt: RktContext, image: str, script: str, *flags: str) -> str:
    """Start a pod in the background; gives its UUID."""
    return rkt.rkt(OPEN, "run", "--detach", *flags, image, *SHELL, script).stdout.strip()


def end(rkt: RktContext, uuid: str) -> None:
    rkt.rkt("stop", uuid)
    rkt.rkt("status", "--wait", uuid)


def status(rkt: RktContext, name: str, *flags: str) -> dict[str, str]:
    lines = rkt.rkt("status", *flags, name).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def same_in_json(rkt: RktContext, name: str) -> dict[str, Any]:
    """Hold what every other view tells of the end of a pod's app against `rkt status`."""
    pod = json.loads(rkt.rkt("status", "--format=json", name).stdout)
    (listed,) = json.loads(rkt.rkt("list", "--format=json").stdout)
    (app,) = pod["apps"]
    assert listed == pod
    assert (pod["state"], app["state"]) == ("exited", "exited")
    lines = status(rkt, name)
    assert app["reason"] == lines["app-reason"]
    assert str(app.get("exit_code")) == lines.get("app", "None")
    assert app.get("restarts", 0) == int(lines.get("app-restarts", 0))
    shown = rkt.rkt("app", "status", "--app=app", name).stdout
    assert f"\nreason={app['reason']}\n" in shown
    return dict(app)


def supervisor(rkt: RktContext, uuid: str) -> int:
    with open(f"{rkt.pod_dir(uuid)}/oci-state") as file:
        found = re.search(r'"supervisor": (\d+)', file.read())
    assert found
    return int(found[1])


# In the background


def test_detached(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "echo hello; sleep 1000")
    assert rkt.pod_state(uuid) == "running"
    pid = supervisor(rkt, uuid)
    assert os.getsid(pid) == pid
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    rkt.wait_for(lambda: rkt.rkt("logs", uuid).stdout == "hello\n")
    end(rkt, uuid)
    assert status(rkt, uuid)["app-reason"] == ("killed by SIGTERM: the pod was stopped by SIGTERM")


def test_a_detached_pod_holds_nothing_of_its_caller(rkt: RktContext, image: str) -> None:
    """The pipe ends, as any lock that the caller holds, with the caller."""
    argv = rkt.argv(OPEN, "run", "--detach", "--pod-name=p", image, *SHELL, "sleep 1000")
    assert rkt.run(["sh", "-c", '{ "$@"; } 7>&1 >/dev/null | cat', "sh", *argv]).status == 0
    assert rkt.pod_state("p") == "running"
    end(rkt, "p")


def test_detached_from_a_closed_terminal(rkt: RktContext, image: str) -> None:
    terminal = rkt.terminal(OPEN, "run", "-d", "--pod-name=p", image, *SHELL, "sleep 1000")
    assert terminal.wait() == 0
    assert rkt.pod_state("p") == "running"
    end(rkt, "p")


def test_a_prepared_pod_detached(rkt: RktContext, image: str) -> None:
    argv = ("prepare", "--pod-name=p", "--stop-timeout=200ms", image, *SHELL, STUBBORN)
    uuid = rkt.rkt(OPEN, *argv).stdout.strip()
    assert rkt.rkt("run-prepared", "--detach", "p").stdout == f"{uuid}\n"
    rkt.wait_for(lambda: "ready" in rkt.rkt("logs", "p").stdout)
    end(rkt, "p")
    assert status(rkt, "p")["app-reason"] == (
        "killed by SIGKILL: it did not end within 0.2 s after the pod was stopped by SIGTERM"
    )


def test_what_fails_before_the_apps_run_is_said_where_it_was_asked_for(rkt: RktContext) -> None:
    handler = {"eventHandlers": [{"name": "pre-start", "exec": ["/bin/sh", "-c", "exit 3"]}]}
    failing = AciBuilder("example.com/app", app=handler).busybox().build(rkt.files).path
    result = rkt.rkt(OPEN, "run", "--detach", "--pod-name=a", failing, status=254)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == 'rkt: app "app" pre-start handler exited with status 3'
    assert result.stderr.count("pre-start") == 1
    result = rkt.rkt(
        OPEN, "run", "--detach", "--pod-name=b", failing, "--exec=/bin/none", status=254
    )
    text = 'error looking up "/bin/none": no such file or directory'
    assert result.stderr.splitlines()[-1] == f'rkt: app "app": {text}'
    found = status(rkt, "b")
    assert (found["state"], found["app-reason"]) == (
        "exited", f'was not started: app "app": {text}',
    )  # fmt: skip
    result = rkt.rkt(OPEN, "run", "--detach", "--interactive", failing, status=254)
    assert result.stderr.endswith("rkt: cannot use --detach with --interactive\n")


def test_interrupted_while_it_starts(rkt: RktContext) -> None:
    handler = {"eventHandlers": [{"name": "pre-start", "exec": ["/bin/sleep", "1000"]}]}
    slow = AciBuilder("example.com/app", app=handler).busybox().build(rkt.files).path
    process = rkt.spawn(OPEN, "run", "--detach", f"--uuid-file-save={rkt.files}/uuid", slow)
    saved = f"{rkt.files}/uuid"
    rkt.wait_for(lambda: os.path.exists(saved) and os.path.getsize(saved) == 36)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.wait_for(lambda: os.path.exists(f"{rkt.pod_dir(uuid)}/bundle/app.pre-start/pid"))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 254
    found = status(rkt, uuid)
    assert (found["state"], found["app-reason"]) == (
        "exited", "pre-start handler was killed by SIGTERM: the pod was stopped by SIGTERM",
    )  # fmt: skip


_DEAF = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_a_caller_that_hears_no_signal(rkt: RktContext, image: str) -> None:
    def deaf(*args: str) -> int:
        return rkt.run(["python3", "-I", "-c", _DEAF, *rkt.argv(*args)], timeout=20).status

    assert deaf(OPEN, "run", image, *SHELL, "exit 5") == 5
    assert deaf(OPEN, "run", "--detach", "--pod-name=p", image, *SHELL, "sleep 1000") == 0
    assert deaf("enter", "p", "/bin/sh", "-c", "exit 9") == 9
    assert deaf("stop", "p") == 0
    assert deaf("status", "--wait=10s", "p") == 0


# Names


def test_a_name_is_good_for_every_command(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "echo hello; sleep 1000", "--pod-name=web.1")
    found = status(rkt, "web.1")
    assert (found["state"], found["name"]) == ("running", "web.1")
    rows = [re.split("\t+", line) for line in rkt.rkt("list").stdout.splitlines()]
    assert rows[0][-1] == "NAME"
    assert rows[1][0] == uuid[:8]
    assert rows[1][-1] == "web.1"
    assert rkt.rkt("enter", "web.1", "/bin/echo", "inside").stdout == "inside\n"
    result = rkt.rkt(OPEN, "run", "--pod-name=web.1", image, status=254)
    assert result.stderr.endswith(
        f'rkt: pod name "web.1" is in use by pod "{uuid}"\n'
        "hint: rkt stop web.1; rkt status --wait web.1; rkt rm web.1\n"
    )
    assert '"apps"' in rkt.rkt("cat-manifest", "web.1").stdout
    assert rkt.rkt("stop", "web.1").stdout == f'"{uuid}"\n'
    rkt.rkt("status", "--wait", "web.1")
    result = rkt.rkt(OPEN, "run", "--pod-name=web.1", image, status=254)
    said = f'rkt: pod name "web.1" is in use by pod "{uuid}"\nhint: rkt rm web.1\n'
    assert result.stderr.endswith(said)
    rkt.rkt("gc")  # marked, not collected: the name is taken still
    rkt.rkt(OPEN, "run", "--pod-name=web.1", image, status=254)
    assert rkt.rkt("rm", "web.1").stdout == f'"{uuid}"\n'
    rkt.rkt(OPEN, "run", "--pod-name=web.1", image)
    assert status(rkt, "web.1")["state"] == "exited"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".a", "a b", "x" * 64,
                                  "01234567-89ab-cdef-0123-456789abcdef"])  # fmt: skip
def test_names_refused(rkt: RktContext, image: str, name: str) -> None:
    result = rkt.rkt(OPEN, "run", f"--pod-name={name}", image, status=254)
    assert f'rkt: invalid pod name "{name}"' in result.stderr
    assert not os.path.isdir(f"{rkt.data}/pods")


def test_a_name_goes_before_the_beginning_of_a_uuid(rkt: RktContext, image: str) -> None:
    other = start(rkt, image, "sleep 1000")
    rkt.rkt(OPEN, "run", f"--pod-name={other[:4]}", image)
    assert rkt.pod_state(other[:4]) == "exited"
    assert rkt.pod_state(other[:5]) == "running"
    end(rkt, other)


def test_of_many_at_once_one_gets_the_name(rkt: RktContext, image: str) -> None:
    rkt.rkt(OPEN, "fetch", image)
    running = [rkt.spawn(OPEN, "run", "--pod-name=one", image) for _ in range(8)]
    assert sorted(process.wait(60) for process in running) == [0, *[254] * 7]
    assert len(rkt.rkt("list", "--no-legend").stdout.splitlines()) == 1


# Restarts


def test_on_failure_so_many_times(rkt: RktContext, image: str) -> None:
    begun = time.monotonic()
    result = run(rkt, image, "echo run; exit 4", "--restart=on-failure:3", status=4)
    assert time.monotonic() - begun > 0.1 + 0.2 + 0.4
    assert result.stdout == "run\n" * 4
    assert result.stderr == 'rkt: app "app" exited with status 4 (after 3 restarts)'
    found = status(rkt, "p")
    assert (found["app"], found["app-restarts"]) == ("4", "3")


def test_on_failure_until_it_succeeds(rkt: RktContext, image: str) -> None:
    script = "if [ -e /second ]; then echo done; exit 0; fi; touch /second; kill -SEGV $$"
    result = run(rkt, image, script, "--restart=on-failure", status=0)
    assert result.stdout == "done\n"
    assert 'app "app" killed by SIGSEGV; it starts again in 0.1 s' in result.stderr
    assert status(rkt, "p")["app-reason"] == "exited with status 0"


def test_always_until_it_is_stopped(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "sleep 1000 & ps; echo over", "--restart=always")
    rkt.wait_for(lambda: int(status(rkt, uuid).get("app-restarts", 0)) >= 2)
    found = status(rkt, uuid)
    assert (found["state"], found["app-last-reason"]) == ("running", "exited with status 0")
    end(rkt, uuid)
    rounds = rkt.rkt("logs", uuid).stdout.split("over\n")[:-1]
    assert len(rounds) >= 3
    # What an app leaves behind does not see the next round.
    assert all(len(re.findall(r" sleep 1000$", text, re.MULTILINE)) <= 1 for text in rounds)
    assert status(rkt, uuid)["state"] == "exited"


def test_each_app_restarts_on_its_own(rkt: RktContext, image: str) -> None:
    uuid = rkt.rkt(
        OPEN, "run", "--detach", "--restart=on-failure",
        image, "--name=good", *SHELL, "sleep 1000", "---", image, "--name=bad", *SHELL, "exit 1",
    ).stdout.strip()  # fmt: skip
    rkt.wait_for(lambda: int(status(rkt, uuid).get("bad-restarts", 0)) >= 2)
    assert "good-restarts" not in status(rkt, uuid)
    end(rkt, uuid)


def test_force_ends_a_pod_that_restarts(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "sleep 1000", "--restart=always")
    rkt.rkt("stop", "--force", uuid)
    found = status(rkt, uuid, "--wait")
    assert (found["state"], found["app"]) == ("exited", "137")


@pytest.mark.parametrize("flags", [(), ("--force",)])
def test_a_suspended_pod_is_stopped_too(
    rkt: RktContext, image: str, flags: tuple[str, ...]
) -> None:
    """As after Ctrl-Z: its supervisor does nothing until it is told to go on."""
    uuid = start(rkt, image, "sleep 1000")
    os.kill(supervisor(rkt, uuid), signal.SIGSTOP)
    rkt.rkt("stop", *flags, uuid)
    assert status(rkt, uuid, "--wait=20s")["state"] == "exited"


@pytest.mark.parametrize("value", [
    "sometimes", "no:3", "on-failure:x", "on-failure:\u00b2", "always:2", "",
])  # fmt: skip
def test_policies_refused(rkt: RktContext, image: str, value: str) -> None:
    result = rkt.rkt(OPEN, "run", f"--restart={value}", image, status=254)
    text = "must be no, on-failure, on-failure:N or always"
    said = f'rkt: invalid argument "{value}" for --restart={value}: {text}\n'
    assert said in result.stderr


# Stopping


def test_an_app_that_ignores_sigterm(rkt: RktContext, image: str) -> None:
    process = rkt.spawn(OPEN, "run", "--stop-timeout=300ms", image, *SHELL, STUBBORN)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(20) == 137
    text = "it did not end within 0.3 s after the pod was stopped by SIGTERM"
    last = process.stderr.read().decode().splitlines()[-1]
    assert last == f'rkt: app "app" killed by SIGKILL: {text}'


def test_out_of_memory_at_once(rkt: RktContext, image: str) -> None:
    """What the kernel did counts also before the runtime has said that the app runs."""
    Runtime(rkt, "run", OUTLIVE)
    script = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
    result = run(rkt, image, script, "--memory=16Mi", status=137)
    text = "killed by SIGKILL: out of memory (the limit is 16 MiB)"
    assert result.stderr == f'rkt: app "app" {text}'


def test_killed_while_it_starts(rkt: RktContext, image: str) -> None:
    """The end of a pod's first process is seen late when something else of the pod hangs."""
    runtime = Runtime(rkt, "run", HOLD)
    process = rkt.spawn(OPEN, "run", "--pod-name=p", image, *SHELL, "exec sleep 1000")
    runtime.wait_until_held()
    pid = status(rkt, "p")["pid"]
    # A dead process whose parent, which is not of the pod, does not care.
    hang = "import os, sys, time; os.fork() or time.sleep(1000); print(flush=True); "
    hang += "sys.stdin.read(); os.wait()"
    command = ["nsenter", "--target", pid, "--pid", "--no-fork", "python3", "-c", hang]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        rkt.rkt("stop", "--force", "p")
        runtime.release()
        rkt.wait_for(lambda: "app-reason" in status(rkt, "p"))
    assert process.wait(60) == 137
    assert process.stderr is not None
    last = process.stderr.read().decode().splitlines()[-1]
    assert last == 'rkt: app "app" killed by SIGKILL: the pod was killed'


# Health


def test_an_app_that_is_not_well_has_failed(rkt: RktContext, image: str) -> None:
    check = ("--health-cmd=echo sick; exit 2", "--health-interval=50ms", "--health-retries=2")
    result = run(rkt, image, "exec sleep 1000", *check, status=143)
    text = "failed its health check 2 times (status 2): sick"
    assert result.stderr == f'rkt: app "app" {text}'
    assert status(rkt, "p")["app-reason"] == text


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_check_that_cannot_be_run(rkt: RktContext, image: str, runtime: str) -> None:
    if not shutil.which(runtime, path=rkt.env["PATH"]):
        pytest.skip(f"needs {runtime}")
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    check = ('--health-cmd=["/bin/nosuch"]', "--health-interval=50ms", "--health-retries=1")
    result = run(rkt, image, "exec sleep 1000", *check, status=143)
    begin = 'rkt: app "app" failed its health check once (could not be run): '
    assert result.stderr.startswith(begin)
    words = result.stderr.removeprefix(begin)
    assert words.startswith("ex")  # not with the time, as runc's lines of log begin
    assert "/bin/nosuch" in words
    assert "o such file or directory" in words


def test_a_check_that_does_not_answer(rkt: RktContext, image: str) -> None:
    check = ('--health-cmd=["/bin/sleep","999"]', "--health-interval=50ms",
             "--health-timeout=200ms", "--health-retries=1")  # fmt: skip
    # It exits with 0 when it is asked to end: that is a failure all the same.
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    result = run(rkt, image, script, *check, status=1)
    assert result.stderr == 'rkt: app "app" failed its health check once (no answer in 0.2 s)'


def test_an_app_that_was_asked_to_end_need_not_be_well(rkt: RktContext, image: str) -> None:
    """It may have closed its sockets while it finishes what it has begun."""
    script = "trap 'touch /sick' TERM; echo ready; while :; do sleep 0.05; done"
    rkt.rkt(
        OPEN, "run", "-d", "--pod-name=p", "--stop-timeout=2s", image,
        "--health-cmd=test ! -e /sick", "--health-interval=1ms", "--health-retries=1",
        *SHELL, script,
    )  # fmt: skip
    rkt.wait_for(lambda: "ready" in rkt.rkt("logs", "p").stdout)
    rkt.wait_for(lambda: status(rkt, "p")["app-health"] == "healthy")
    end(rkt, "p")
    assert status(rkt, "p")["app-reason"] == (
        "killed by SIGKILL: it did not end within 2 s after the pod was stopped by SIGTERM"
    )


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_check_as_a_user_leaves_the_host_alone(rkt: RktContext, image: str, runtime: str) -> None:
    rkt.rkt(
        OPEN, "run", "-d", "--pod-name=p", image, "--user=1000", "--group=1000",
        '--health-cmd=test -z "$(cat)"', "--health-interval=50ms", *SHELL, "sleep 1000",
        env={"RKT_OCI_RUNTIME": runtime},
    )  # fmt: skip
    rkt.wait_for(lambda: status(rkt, "p").get("app-health") == "healthy")
    null = os.stat("/dev/null")  # crun gives its stdin to the user
    assert (null.st_uid, null.st_gid) == (0, 0)
    rkt.rkt("stop", "--force", "p")


def test_health_is_seen_and_may_come_late(rkt: RktContext, image: str) -> None:
    rkt.rkt(
        OPEN, "run", "-d", "--pod-name=p", "--restart=always", image, "--user=1000", "--group=1000",
        "--health-cmd=echo $(id -u) > /tmp/who; test -e /tmp/well", "--health-interval=50ms",
        "--health-start-period=60s", *SHELL, "sleep 1000",
    )  # fmt: skip
    assert status(rkt, "p")["app-health"] == "starting"

    def who() -> str:
        """Tell what the check wrote; every check empties the file before it writes it anew."""
        return rkt.rkt("enter", "p", "/bin/cat", "/tmp/who", status=None).stdout

    rkt.wait_for(lambda: who() == "1000\n")
    rkt.rkt("enter", "p", "/bin/touch", "/tmp/well")
    rkt.wait_for(lambda: status(rkt, "p")["app-health"] == "healthy")
    end(rkt, "p")


def test_health_flags_refused(rkt: RktContext, image: str) -> None:
    result = rkt.rkt(OPEN, "run", image, "--health-interval=1s", status=254)
    assert "rkt: --health-interval is of no use without --health-cmd\n" in result.stderr
    result = rkt.rkt(OPEN, "run", image, "--health-cmd=[1]", status=254)
    assert "for --health-cmd=[1]: must be an array of words\n" in result.stderr
    result = rkt.rkt(OPEN, "run", image, f"--health-cmd={'[' * 100_000}", status=254)
    text = ": begins like a JSON array but is none: document is nested too deeply\n"
    assert result.stderr.endswith(text)


# Why did it die?


@pytest.mark.parametrize(("script", "flags", "code", "text"), [
    ("exit 9", (), 9, "exited with status 9"),
    ("kill -BUS $$", (), 135, "killed by SIGBUS"),
    ("exec mkdir /x", ("--seccomp=mode=remove,mkdir",), 159,
     "killed by SIGSYS: it made a system call that its seccomp filter forbids"),
    ("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", ("--memory=16Mi",), 137,
     "killed by SIGKILL: out of memory (the limit is 16 MiB)"),
    ("(x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done); exit 7", ("--memory=16Mi",), 7,
     "exited with status 7: a process of it was killed, out of memory (the limit is 16 MiB)"),
])  # fmt: skip
def test_why(
    rkt: RktContext, image: str, script: str, flags: tuple[str, ...], code: int, text: str
) -> None:
    assert run(rkt, image, script, *flags, status=code).stderr == f'rkt: app "app" {text}'
    found = status(rkt, "p")
    assert (found["app"], found["app-reason"]) == (str(code), text)
    assert same_in_json(rkt, "p")["exit_code"] == code


@pytest.mark.parametrize(("script", "together", "wanted"), [
    ("printf x >&2; exit 3", False, 'x\nrkt: app "app" exited with status 3\n'),
    ("echo x >&2; exit 3", False, 'x\nrkt: app "app" exited with status 3\n'),
    ("printf x; exit 3", True, 'x\nrkt: app "app" exited with status 3\n'),
    ("printf x; exit 3", False, 'rkt: app "app" exited with status 3\n'),
])  # fmt: skip
def test_the_last_word_has_a_line_of_its_own(
    rkt: RktContext, image: str, script: str, together: bool, wanted: str
) -> None:
    argv = rkt.argv("run", image, *SHELL, script)
    rkt.rkt(OPEN, "fetch", image)
    argv.insert(-len(argv) + argv.index("run"), OPEN)
    done = subprocess.run(
        argv, env=rkt.env, check=False, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if together else subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    said = done.stdout if together else done.stderr
    assert said.endswith(wanted)
    assert said.removesuffix(wanted) in (
        "",
        "rkt: warning: signature verification has been disabled\n",
    )


def test_a_missing_library(rkt: RktContext) -> None:
    program = "/bin/true"
    with open(program, "rb") as file:
        head = file.read(65536)
    loader = re.search(rb"/lib[^\0]*/ld-linux[^\0]*", head)
    if not loader:
        pytest.skip(f"{program} is not linked with glibc")
    path = loader[0].decode()
    builder = AciBuilder("example.com/app", exec=("/prog",)).busybox()
    builder.directory(os.path.dirname(path).strip("/"))
    for source, target in ((program, "prog"), (path, path)):
        with open(source, "rb") as file:
            builder.file(target, file.read(), mode=0o755)
    aci = builder.build(rkt.files)
    result = rkt.rkt(OPEN, "run", aci.path, status=127)
    assert result.stderr.splitlines()[-1] == (
        'rkt: app "app" exited with status 127: library "libc.so.6" is missing'
    )


def test_other_apps_end_because_of_the_first(rkt: RktContext, image: str) -> None:
    result = rkt.rkt(
        OPEN, "run", "--pod-name=p", image, "--name=one", *SHELL, "sleep 0.3; exit 6", "---",
        image, "--name=two", *SHELL, "sleep 1000", status=6,
    )  # fmt: skip
    assert result.stderr.splitlines()[-1] == 'rkt: app "one" exited with status 6'
    assert status(rkt, "p")["two-reason"] == (
        'killed by SIGTERM: the pod was stopped because app "one" failed'
    )


@pytest.mark.parametrize(("flags", "text"), [
    (("--exec=/nosuch",), 'error looking up "/nosuch": no such file or directory'),
    (("--exec=/etc/passwd",), 'error looking up "/etc/passwd": permission denied (not executable)'),
    (("--exec=/perl",), '"/perl": its interpreter "/usr/bin/perl" is not in the image'),
    (("--user=bob",), 'invalid user "bob": not in /etc/passwd of the image'),
])  # fmt: skip
def test_an_app_that_cannot_be_started(rkt: RktContext, flags: tuple[str, ...], text: str) -> None:
    builder = AciBuilder("example.com/app").busybox()
    aci = builder.file("perl", "#!/usr/bin/perl\n1\n", mode=0o755).build(rkt.files)
    result = rkt.rkt(OPEN, "run", "--pod-name=p", aci.path, *flags, status=254)
    assert result.stderr.splitlines()[-1] == f'rkt: app "app": {text}'
    assert status(rkt, "p")["app-reason"] == f'was not started: app "app": {text}'
    assert "exit_code" not in same_in_json(rkt, "p")


def test_a_pre_start_handler_that_fails(rkt: RktContext) -> None:
    handler = {"eventHandlers": [{"name": "pre-start", "exec": ["/bin/sh", "-c", "exit 3"]}]}
    aci = AciBuilder("example.com/app", app=handler).busybox().build(rkt.files)
    result = rkt.rkt(OPEN, "run", "--pod-name=p", aci.path, status=3)
    text = "pre-start handler exited with status 3"
    assert result.stderr.splitlines()[-1] == f'rkt: app "app" {text}'
    assert (same_in_json(rkt, "p")["reason"], status(rkt, "p")["app"]) == (text, "3")


def test_a_post_stop_handler_that_fails(rkt: RktContext) -> None:
    handler = {"eventHandlers": [{"name": "post-stop", "exec": ["/bin/sh", "-c", "exit 3"]}]}
    aci = AciBuilder("example.com/app", app=handler).busybox().build(rkt.files)
    rkt.rkt(OPEN, "run", "--pod-name=p", aci.path)
    assert status(rkt, "p")["app-reason"] == (
        "exited with status 0; post-stop handler exited with status 3"
    )


def test_nobody_was_there_to_say_why(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "sleep 1000")
    os.kill(supervisor(rkt, uuid), signal.SIGKILL)
    found = status(rkt, uuid, "--wait")
    assert (found["state"], found["app-reason"]) == (
        "exited", "its supervisor was killed while it ran",
    )  # fmt: skip
    same_in_json(rkt, uuid)
    with open(f"{rkt.pod_dir(uuid)}/boot-id", "w") as file:
        file.write("00000000-0000-0000-0000-000000000000\n")
    found = status(rkt, uuid)
    assert found["app-reason"] == "the host was rebooted, or crashed, while it ran"
    same_in_json(rkt, uuid)
    rkt.rkt("rm", uuid)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind":1}', "\0\xff"])
def test_a_damaged_reason_hides_nothing_else(rkt: RktContext, image: str, content: str) -> None:
    run(rkt, image, "exit 5", status=5)
    directory = rkt.pod_dir(rkt.rkt("list", "--full", "--no-legend").stdout.split()[0])
    (path,) = subprocess.run(
        ["find", directory, "-name", "app.reason"], check=True, capture_output=True, text=True
    ).stdout.split()
    with open(path, "w", encoding="latin-1") as file:
        file.write(content)
    found = status(rkt, "p")
    assert (found["app"], found["app-reason"]) == ("5", "exited with status 5")
    for name in ("boot-id", "name", "logs"):
        where = f"{directory}/{name}"
        shutil.rmtree(where) if os.path.isdir(where) else os.unlink(where)
    uuid = os.path.basename(directory)
    assert status(rkt, uuid)["app"] == "5"
    assert (
        rkt.rkt("logs", uuid, status=254).stderr == f'rkt: pod "{uuid}": no logs were kept of it\n'
    )
    rkt.rkt("rm", uuid)


# Killed at any moment


def test_the_supervisor_killed_at_any_moment(rkt: RktContext, image: str) -> None:
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    for attempt in range(12):
        process = rkt.spawn(
            OPEN, "run", "--pod-name=p", "--restart=always", image, "--health-cmd=true",
            "--health-interval=1ms", *SHELL, "sleep 1000 & sleep 0.02", "---",
            image, "--name=other", *SHELL, "while :; do echo x; done",
        )  # fmt: skip
        time.sleep(moments.uniform(0.05, 0.8))
        process.kill()
        process.wait(30)
        rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
        if os.path.exists(f"{rkt.data}/podnames/p"):
            rkt.rkt("status", "p", status=None)
        rkt.rkt("gc", "--grace-period=0s")
        rkt.rkt("gc", "--grace-period=0s")
        left = [names for _, _, names in os.walk(f"{rkt.data}/pods") if names]
        names = os.listdir(f"{rkt.data}/podnames") if os.path.isdir(f"{rkt.data}/podnames") else []
        assert (left, names, rkt.leaked()) == ([], [], []), f"seed {seed}, attempt {attempt}"
