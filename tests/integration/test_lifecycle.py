"""What is seen of a pod from outside, how it ends, and what gc makes of the rest."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import leaks
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.network import PLUGINS
from rkt_testkit.probes import needs
from rkt_testkit.runtimes import HOLD

if TYPE_CHECKING:
    import subprocess

    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
READY = "echo ready; exec sleep 1000"


def sleeper(rkt: RktContext, script: str = READY) -> tuple[subprocess.Popen[bytes], str]:
    """Start a pod that says `ready` and sleeps; gives its process and its UUID."""
    aci = AciBuilder("example.com/sleeper", exec=("/bin/sh", "-c", script)).busybox()
    path = aci.build(rkt.files).path
    process = rkt.spawn(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with open(f"{rkt.files}/uuid") as file:
        return process, file.read()


def test_list_in_the_seeds_form(rkt: RktContext) -> None:
    redis = AciBuilder("redis", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    etcd = AciBuilder("coreos.com/etcd", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    assert rkt.rkt("list").stdout.split() == [
        "UUID", "APP", "ACI", "STATE", "NETWORKS", "CREATED", "STARTED", "NAME",
    ]  # fmt: skip
    process = rkt.spawn(OPEN, "run", redis.path, etcd.path)
    rkt.wait_for(lambda: "running" in rkt.rkt("list").stdout)
    rows = [re.split("\t+", line) for line in rkt.rkt("list").stdout.splitlines()]
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    assert rows[1][:4] == [uuid[:8], "redis", "redis", "running"]
    assert rows[2][:3] == ["", "etcd", "coreos.com/etcd"]
    full = rkt.rkt("list", "--full").stdout.splitlines()
    assert full[0].endswith("\tNAME\tIMAGE ID")
    assert full[1].startswith(f"{uuid}\tredis\tredis\t")
    assert [row.rpartition("\t")[2] for row in full[1:]] == [redis.id[:19], etcd.id[:19]]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_status_and_waiting(rkt: RktContext) -> None:
    process, uuid = sleeper(rkt)
    lines = rkt.rkt("status", uuid[:8]).stdout.splitlines()
    pid = int(dict(line.split("=", 1) for line in lines)["pid"])
    assert lines[:3] == ["state=running", f"pid={pid}", "exited=false"]
    again = rkt.rkt("run-prepared", uuid, status=254)
    assert again.stderr == f'rkt: pod "{uuid}" is not prepared\n'
    with open(f"/proc/{pid}/status") as file:
        assert re.search(r"^NSpid:\t\d+\t1$", file.read(), re.MULTILINE)
    result = rkt.rkt("status", "--wait=300ms", uuid, status=254)
    assert result.stderr == "rkt: error waiting for pod to finish: context deadline exceeded\n"
    waiting = rkt.spawn("status", "--wait", uuid)
    rkt.rkt("stop", uuid)
    assert waiting.wait(30) == 0
    assert waiting.stdout is not None
    assert waiting.stdout.read().decode().splitlines()[:4] == [
        "state=exited", "pid=-1", "exited=true", "sleeper=143",
    ]  # fmt: skip
    assert process.wait(30) == 143
    assert rkt.rkt("stop", uuid).stdout == f'pod "{uuid}" is already stopped\n'


@pytest.mark.parametrize("flags", [(), ("--force",)])
@needs("cni", "iptables")
def test_stopped_while_it_is_started(rkt: RktContext, flags: tuple[str, ...]) -> None:
    """Its network takes time: it runs for everybody, and its supervisor is not known yet."""
    own, held = f"{rkt.files}/plugins", f"{rkt.files}/held"
    os.mkdir(own)
    with open(f"{own}/ptp", "w") as file:
        file.write(f"#!/bin/sh\nheld={held}\n[ $CNI_COMMAND != ADD ] || {{ {HOLD}; }}\n"
                   f'exec {PLUGINS}/ptp "$@"\n')  # fmt: skip
    os.chmod(f"{own}/ptp", 0o755)
    rkt.env["CNI_PATH"] = own
    aci = AciBuilder("example.com/a", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    process = rkt.spawn(OPEN, "run", "--pod-name=p", "--net=default", aci.path)
    rkt.wait_for(lambda: os.path.exists(held))
    assert rkt.pod_state("p") == "running"
    stop = rkt.spawn("stop", *flags, "p")
    rkt.wait_for(lambda: stop.poll() is not None or leaks.descendants(stop.pid) != set())
    os.unlink(held)
    assert stop.wait(60) == 0
    assert process.wait(60) == (137 if flags else 143)
    assert rkt.pod_state("p") == "exited"
    rkt.rkt("gc", "--grace-period=0s")


def test_waiting_for_a_pod_that_was_only_prepared(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/five", exec=("/bin/sh", "-c", "exit 5")).busybox()
    uuid = rkt.rkt(OPEN, "prepare", aci.build(rkt.files).path).stdout.strip()
    result = rkt.rkt("status", "--wait=100ms", uuid, status=254)
    assert result.stderr == ("rkt: error waiting for pod to finish: context deadline exceeded\n")
    waiting = rkt.spawn("status", "--wait", uuid)
    rkt.rkt("run-prepared", uuid, status=5)
    out, err = waiting.communicate(timeout=30)
    assert err == b""
    assert out.decode().splitlines()[:4] == ["state=exited", "pid=-1", "exited=true", "five=5"]
    assert "app-five=5" in out.decode().splitlines()  # as rkt 1.x says it


def test_enter(rkt: RktContext) -> None:
    process, uuid = sleeper(rkt)
    result = rkt.rkt("enter", uuid, "/bin/sh", "-c", "echo $AC_APP_NAME; pwd; hostname; exit 4",
                     status=4)  # fmt: skip
    assert result.stdout.splitlines() == ["sleeper", "/", f"rkt-{uuid}"]
    assert rkt.rkt("enter", "--app=sleeper", uuid, "cat", input="piped").stdout == "piped"
    result = rkt.rkt("enter", uuid, "--", "ls", "--help")
    assert "BusyBox" in result.stdout + result.stderr
    result = rkt.rkt("enter", uuid, status=None)
    assert 'No command specified, assuming "/bin/bash"\n' in result.stderr
    assert result.status != 0
    result = rkt.rkt("enter", "--app=other", uuid, "true", status=254)
    assert result.stderr == f'rkt: pod "{uuid}": no app "other"\nhint: its apps are: sleeper\n'
    terminal = rkt.terminal("enter", uuid, "/bin/sh")
    terminal.write("tty; exit 6\n")
    assert terminal.wait() == 6
    assert "/dev/" in terminal.output
    process.terminate()
    assert process.wait(30) == 143
    result = rkt.rkt("enter", uuid, "true", status=254)
    assert result.stderr == f'rkt: pod "{uuid}" isn\'t currently running\n'


def test_enter_asks_which_app(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/a", exec=("/bin/sleep", "1000")).busybox().build(rkt.files)
    process = rkt.spawn(OPEN, "run", aci.path, "--name=redis", aci.path, "--name=etcd")
    rkt.wait_for(lambda: "running" in rkt.rkt("list").stdout)
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    rkt.wait_for(lambda: os.path.exists(f"{rkt.pod_dir(uuid)}/pid"))
    result = rkt.rkt("enter", uuid, status=254)
    assert result.stderr == (
        "Pod contains multiple apps:\n\tredis\n\tetcd\n"
        'rkt: Unable to determine app name: specify app using "rkt enter --app= ..."\n'
    )
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_app(rkt: RktContext, number: signal.Signals) -> None:
    names = {"INT": 11, "TERM": 12, "HUP": 13}
    traps = "; ".join(f"trap 'echo got {name}; exit {code}' {name}" for name, code in names.items())
    process, _ = sleeper(rkt, f"{traps}; echo ready; while :; do sleep 0.1; done")
    process.send_signal(number)
    assert process.wait(30) == names[number.name[3:]]
    assert process.stdout is not None
    assert process.stdout.read().decode() == f"got {number.name[3:]}\n"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_signals_that_end_nothing_reach_the_app(rkt: RktContext, number: signal.Signals) -> None:
    name = number.name[3:]
    script = f"trap 'echo got {name}' {name}; echo ready; while :; do sleep 0.1; done"
    process, uuid = sleeper(rkt, script)
    assert process.stdout is not None
    for _ in range(2):
        process.send_signal(number)
        assert process.stdout.readline().decode() == f"got {name}\n"
    assert rkt.pod_state(uuid) == "running"
    process.terminate()
    assert process.wait(30) == 143


def test_an_app_that_ignores_sigterm_dies_of_the_second_one(rkt: RktContext) -> None:
    process, _ = sleeper(rkt, "trap '' TERM INT; echo ready; while :; do sleep 0.1; done")
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 137


def test_gc_in_two_steps(rkt: RktContext) -> None:
    process, uuid = sleeper(rkt)
    assert rkt.rkt("gc").stdout == ""
    process.terminate()
    process.wait(30)
    result = rkt.rkt("gc", "--grace-period=30m0s")
    assert result.stderr.splitlines()[0] == f'Moving pod "{uuid}" to garbage'
    assert rkt.pod_state(uuid) == "exited garbage"
    result = rkt.rkt("gc", "--grace-period=30m0s")
    assert "still within grace period (30m0s)" in result.stderr
    result = rkt.rkt("gc", "--grace-period=0s")
    assert result.stdout == f'Garbage collecting pod "{uuid}"\n'
    gone = f'rkt: problem retrieving pod: no matches found for "{uuid}"\n'
    assert rkt.rkt("status", uuid, status=254).stderr == gone
    assert [names for _, _, names in os.walk(f"{rkt.data}/pods") if names] == []


def test_rm(rkt: RktContext) -> None:
    process, uuid = sleeper(rkt)
    result = rkt.rkt("rm", uuid, status=254)
    assert result.stderr == (
        f'rkt: pod "{uuid}" is currently running\nrkt: failed to remove one or more pods\n'
    )
    process.terminate()
    process.wait(30)
    assert rkt.rkt("rm", uuid).stdout == f'"{uuid}"\n'
    assert rkt.rkt("list", "--no-legend").stdout == "\n"


def test_a_killed_supervisor_leaves_no_process_and_no_mount(rkt: RktContext) -> None:
    process, uuid = sleeper(rkt, "sleep 1000 & sleep 1000 & " + READY)
    process.kill()
    process.wait(30)
    assert rkt.pod_state(uuid) == "exited"
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    assert [leak for leak in rkt.leaked() if leak.startswith("mounts")] == []
    rkt.rkt("gc", "--grace-period=0s")
    assert rkt.leaked() == []


def test_killed_at_any_moment_gc_repairs_the_rest(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/short", exec=("/bin/sleep", "0.05")).busybox().build(rkt.files)
    rkt.rkt(OPEN, "run", aci.path)
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    for attempt in range(25):
        process = rkt.spawn(OPEN, "run", aci.id, aci.id, "--name=second")
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait(30)
        rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
        rkt.rkt("gc", "--grace-period=0s")
        rkt.rkt("gc", "--grace-period=0s")
        left = [names for _, _, names in os.walk(f"{rkt.data}/pods") if names]
        assert (left, rkt.leaked()) == ([], []), f"seed {seed}, attempt {attempt}"
    assert rkt.rkt(OPEN, "run", aci.id).status == 0


def test_many_commands_at_once(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/many", exec=("/bin/true",)).busybox().build(rkt.files)
    # Also the first import of both images happens in all of them at once.
    running = [rkt.spawn(OPEN, "run", aci.path) for _ in range(12)]
    collectors = [rkt.spawn("gc", "--grace-period=0s") for _ in range(4)]
    lists = [rkt.spawn("list") for _ in range(4)]
    for process in (*running, *collectors, *lists):
        assert process.stderr is not None
        _, text = process.communicate(timeout=100)
        assert process.returncode == 0, text.decode()
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")
    assert rkt.rkt("list", "--no-legend").stdout == "\n"


def test_a_failed_run_leaves_no_pod(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/x").busybox().build(rkt.files)
    rkt.rkt(OPEN, "run", aci.path, "--mount=volume=none,target=/x", status=254)
    rkt.rkt(OPEN, "run", f"--set-env-file={rkt.files}/none", aci.path, status=254)
    path = f"{rkt.files}/none/uuid"
    for words, expected in ((["run", aci.path], 254), (["app", "sandbox"], 1)):
        result = rkt.rkt(OPEN, *words, f"--uuid-file-save={path}", status=expected)
        assert result.stderr.splitlines()[-1] == (
            f'rkt: cannot save the UUID of the pod: "{path}": No such file or directory'
        )
    assert [names for _, _, names in os.walk(f"{rkt.data}/pods") if names] == []


def test_pods_with_damaged_files_are_reported(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/x").busybox().build(rkt.files)
    rkt.rkt(OPEN, "run", aci.path)
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    with open(f"{rkt.pod_dir(uuid)}/pod", "w") as file:
        file.write("{")
    result = rkt.rkt("list")
    assert f"rkt: Unable to read pod {uuid} manifest:" in result.stderr
    assert "unexpected end of JSON input" in result.stderr
    rkt.rkt("gc", "--grace-period=0s")
    assert os.listdir(f"{rkt.data}/pods/exited-garbage") == []


@needs("other-users")
def test_commands_for_root_refuse_others(rkt: RktContext) -> None:
    for words in (("run", "x"), ("gc",), ("enter", "x")):
        argv = [*rkt.enter_argv(), "setpriv", "--reuid=65534", "--clear-groups", *rkt.argv()[6:]]
        result = rkt.run([*argv, *words])
        assert (result.status, result.stderr) == (254, "rkt: cannot run as unprivileged user\n")
