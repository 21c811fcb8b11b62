"""Mutable pods: apps come and go while the pod runs."""

from __future__ import annotations

import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.runtimes import HOLD, Runtime

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import Result, RktContext

OPEN = "--insecure-options=image"
SLEEP = "exec sleep 1000"


class Sandbox:
    """A mutable pod that runs, ready for apps."""

    def __init__(self, rkt: RktContext, *flags: str, script: str = SLEEP) -> None:
        self.rkt = rkt
        self.image = image(rkt, script)
        path = f"{rkt.files}/sandbox-uuid"
        self.process: subprocess.Popen[bytes] = rkt.spawn(
            "app", "sandbox", f"--uuid-file-save={path}", *flags
        )
        rkt.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) == 36)
        with open(path) as file:
            self.uuid = file.read()
        os.unlink(path)
        rkt.rkt("status", "--wait-ready=30s", self.uuid)

    def app(self, verb: str, name: str = "s", *args: str, status: int | None = 0) -> Result:
        return self.rkt.rkt("app", verb, self.uuid, f"--app={name}", *args, status=status)

    def add(self, name: str = "s", *args: str, status: int | None = 0) -> Result:
        return self.rkt.rkt(
            OPEN, "app", "add", self.uuid, self.image.id, f"--name={name}", *args, status=status
        )

    def sh(self, name: str, script: str, *flags: str) -> None:
        """Add and start an app that runs a script."""
        self.add(name, *flags, "--", "-c", script)
        self.app("start", name)

    def states(self) -> dict[str, str]:
        text = self.rkt.rkt("app", "list", "--no-legend", self.uuid).stdout
        return dict(re.split("\t+", line) for line in text.splitlines() if line)

    def wait_state(self, name: str, state: str) -> None:
        self.rkt.wait_for(lambda: self.states().get(name) == state)

    def end(self) -> tuple[str, str]:
        """Stop the pod; gives what it wrote."""
        self.rkt.rkt("stop", self.uuid)
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return out.decode(), err.decode()


def image(rkt: RktContext, script: str = SLEEP) -> Aci:
    aci = AciBuilder("example.com/s", exec=("/bin/sh", "-c", script)).busybox().build(rkt.files)
    rkt.rkt(OPEN, "fetch", aci.path)
    return aci


def error(result: Result) -> str:
    return result.stderr.splitlines()[0]


def test_the_life_of_a_mutable_pod(rkt: RktContext) -> None:
    pod = Sandbox(rkt, script="echo hello; exec sleep 1000")
    assert rkt.rkt("app", "list", pod.uuid).stdout == "NAME\tSTATE\n"
    pod.add()
    assert pod.states() == {"s": "created"}
    pod.app("start")
    pod.app("start")  # it runs already
    assert rkt.rkt("app", "list", pod.uuid).stdout == "NAME\tSTATE\ns\trunning\n"
    found = rkt.rkt("app", "exec", "--app=s", pod.uuid, "/bin/sh", "-c", "hostname; exit 7",
                    status=7)  # fmt: skip
    assert found.stdout == f"rkt-{pod.uuid}\n"
    pod.app("stop")
    lines = pod.app("status").stdout.splitlines()
    keys = [line.partition("=")[0] for line in lines]
    assert keys == [
        "name", "state", "image_id", "created_at", "started_at", "finished_at", "exit_code",
        "reason",
    ]  # fmt: skip
    values = dict(line.split("=", 1) for line in lines)
    assert (values["state"], values["exit_code"]) == ("exited", "143")
    assert values["image_id"] == pod.image.key
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,9} [+-]\d{4} \w+",
                        values["created_at"])  # fmt: skip
    pod.app("start")
    assert pod.states() == {"s": "running"}
    pod.app("rm")
    assert pod.states() == {}
    assert rkt.pod_state(pod.uuid) == "running"
    out, err = pod.end()
    assert re.sub(r"\[\d+\]", "", out) == "s: hello\ns: hello\n"
    assert err == ""
    assert rkt.pod_state(pod.uuid) == "exited"
    rkt.rkt("gc", "--grace-period=0s")
    assert [names for _, _, names in os.walk(f"{rkt.data}/pods") if names] == []


def test_a_sandbox_in_the_background_with_a_name(rkt: RktContext) -> None:
    aci = image(rkt, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    uuid = rkt.rkt(
        "app", "sandbox", "--detach", "--pod-name=box", "--stop-timeout=100ms"
    ).stdout.strip()
    rkt.rkt(OPEN, "app", "add", "box", aci.id, "--name=s")
    rkt.rkt("app", "start", "box", "--app=s")
    rkt.wait_for(lambda: rkt.rkt("logs", "box").stdout == "up\n")
    result = rkt.rkt("app", "sandbox", "--pod-name=box", status=1)
    assert f'rkt: pod name "box" is in use by pod "{uuid}"\n' in result.stderr
    assert 'invalid pod name "a/b"' in rkt.rkt("app", "sandbox", "--pod-name=a/b", status=1).stderr
    assert rkt.rkt("stop", "box").stdout == f'"{uuid}"\n'
    assert "\ns=137\n" in rkt.rkt("status", "--wait", "box").stdout
    assert len(rkt.rkt("list", "--no-legend").stdout.splitlines()) == 1


def test_who_follows_the_logs_knows_whose_they_are(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    following = rkt.spawn("logs", "--follow", pod.uuid)
    assert following.stdout is not None
    for name in ("one", "two"):
        pod.sh(name, f"echo of {name}")
        assert following.stdout.readline().decode() == f"{name}: of {name}\n"
    pod.end()
    assert following.communicate(timeout=30) == (b"", b"")


def test_the_pod_goes_on_whatever_becomes_of_its_apps(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.sh("bad", "exit 3")
    pod.sh("good", "exit 0")
    pod.sh("killed", "kill -9 $$")
    pod.sh("steady", SLEEP)
    for name, code in (("bad", 3), ("good", 0), ("killed", 137)):
        pod.wait_state(name, "exited")
        document = json.loads(pod.app("status", name, "--format=json").stdout)
        assert (document["state"], document["exit_code"]) == ("exited", code)
        assert document["created_at"] <= document["started_at"]
        assert document["finished_at"] > 10**18
    assert pod.states()["steady"] == "running"
    assert rkt.pod_state(pod.uuid) == "running"
    pod.end()
    assert pod.states() == dict.fromkeys(("bad", "good", "killed", "steady"), "exited")


@pytest.mark.parametrize("overlay", [True, False])
def test_files_stay_until_the_app_is_removed(rkt: RktContext, overlay: bool) -> None:
    pod = Sandbox(rkt, *([] if overlay else ["--no-overlay"]))
    pod.sh("s", "cat /mark; echo kept > /mark; exec sleep 1000")
    pod.rkt.wait_for(lambda: "kept" in _inside(pod, "s", "cat /mark"))
    pod.app("stop")
    pod.app("start")
    pod.rkt.wait_for(lambda: "kept" in _inside(pod, "s", "cat /mark"))
    directory = rkt.pod_dir(pod.uuid)
    assert _named(directory, "s") != []
    pod.app("rm")
    assert _named(directory, "s") == []
    assert not os.path.exists(f"{directory}/bundle/s")
    pod.add("s")
    pod.app("start")
    assert _inside(pod, "s", "ls /mark") == ""
    pod.end()


def _inside(pod: Sandbox, name: str, script: str) -> str:
    return pod.rkt.rkt(
        "app", "exec", f"--app={name}", pod.uuid, "/bin/sh", "-c", script, status=None
    ).stdout


def _named(directory: str, app: str) -> list[str]:
    """Find what there is below a pod's directory under the name of an app."""
    found = []
    for path, directories, files in os.walk(directory):
        found += [f"{path}/{name}" for name in (*directories, *files) if name == app]
    return found


def test_apps_share_the_pod(rkt: RktContext) -> None:
    pod = Sandbox(rkt, "--hostname=shared")
    pod.sh("one", "echo 192.0.2.1 one >>/etc/hosts; echo from-one >/dev/shm/x; exec sleep 1000")
    rkt.wait_for(lambda: _inside(pod, "one", "cat /dev/shm/x") == "from-one\n")
    pod.sh("two", SLEEP, "--environment=WHO=two", "--user=1000", "--working-dir=/tmp")
    shared = "cat /dev/shm/x; tail -n 1 /etc/hosts"
    rkt.wait_for(lambda: _inside(pod, "two", shared) == "from-one\n192.0.2.1 one\n")
    assert _inside(pod, "two", "hostname; echo $WHO $AC_APP_NAME") == "shared\ntwo two\n"
    assert _inside(pod, "one", "ps").count("sleep 1000") == 2
    pod.end()


def test_arguments_replace_all_but_the_first_word(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.sh("a", "echo replaced")
    pod.add("b", "--exec=/bin/echo", "--", "given", "words")
    pod.app("start", "b")
    pod.wait_state("b", "exited")
    out, _ = pod.end()
    assert re.sub(r"\[\d+\]", "", out) == "a: replaced\nb: given words\n"


def test_volumes_of_an_added_app(rkt: RktContext) -> None:
    source = f"{rkt.files}/shared"
    os.mkdir(source)
    with open(f"{source}/greeting", "w") as file:
        file.write("hello")
    pod = Sandbox(rkt)
    volume = f"name=v,kind=host,source={source},readOnly=true,target=/there"
    pod.add("s", f"--mnt-volume={volume}", "--mnt-volume=w,kind=empty,target=/own")
    pod.app("start")
    assert _inside(pod, "s", "cat /there/greeting; touch /there/x || echo ' no'; touch /own/x") == (
        "hello no\n"
    )
    document = json.loads(pod.app("status", "s", "--format=json").stdout)
    assert document["mounts"][0] == {
        "name": "v", "container_path": "/there", "host_path": source, "read_only": True,
    }  # fmt: skip
    assert f"mounts=\n{source}:/there:(read_only:true)," in pod.app("status").stdout
    for bad, text in (
        ("v,kind=host,source=/x", "missing target= parameter"),
        ("v,kind=odd,target=/x", "unrecognized volume kind"),
        ("v,kind=host,target=/x", "source for host volume cannot be empty"),
    ):
        result = pod.add("bad", f"--mnt-volume={bad}", status=254)
        assert text in error(result)
    assert list(pod.states()) == ["s"]
    pod.end()


def docker_image(rkt: RktContext) -> Aci:
    section = {"mountPoints": [{"name": "db", "path": "/db"}]}
    builder = AciBuilder("example.com/db", exec=("/bin/sh", "-c", SLEEP), app=section).busybox()
    builder.directory("db").file("db/seed", b"grain")
    builder.manifest["annotations"] = [{"name": "appc.io/docker/repository", "value": "db"}]
    aci = builder.build(rkt.files)
    rkt.rkt(OPEN, "fetch", aci.path)
    return aci


def test_an_implicit_volume_of_an_added_docker_image_has_its_content(rkt: RktContext) -> None:
    aci = docker_image(rkt)
    pod = Sandbox(rkt)
    rkt.rkt(OPEN, "app", "add", pod.uuid, aci.id, "--name=db")
    pod.app("start", "db")
    assert _inside(pod, "db", "cat /db/seed") == "grain"
    pod.end()


def test_the_next_app_of_a_name_finds_its_volume_as_it_was_left(rkt: RktContext) -> None:
    """Nothing of an image is copied into a volume that an app had: its links lead to the host."""
    aci = docker_image(rkt)
    victim = f"{rkt.files}/victim"
    with open(victim, "w") as file:
        file.write("of the host")
    pod = Sandbox(rkt)
    rkt.rkt(OPEN, "app", "add", pod.uuid, aci.id, "--name=db")
    pod.app("start", "db")
    _inside(pod, "db", f"ln -sf {victim} /db/seed; echo mine >/db/other")
    pod.app("rm", "db")
    rkt.rkt(OPEN, "app", "add", pod.uuid, aci.id, "--name=db")
    pod.app("start", "db")
    assert _inside(pod, "db", "readlink /db/seed; cat /db/other") == f"{victim}\nmine\n"
    with open(victim) as file:
        assert file.read() == "of the host"
    pod.end()


def test_the_health_of_an_added_app(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    check = ("--health-cmd=echo sick; exit 2", "--health-interval=50ms", "--health-retries=2")
    pod.sh("s", "exec sleep 1000", *check)
    pod.wait_state("s", "exited")
    found = rkt.rkt("status", pod.uuid).stdout
    assert "s-reason=failed its health check 2 times (status 2): sick\n" in found
    pod.end()


def test_what_is_refused(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.add()
    cases: Sequence[tuple[Sequence[str], int, str]] = (
        (("app", "add"), 254, "must provide the pod UUID and an IMAGEID"),
        (("app", "add", pod.uuid), 254, "must provide the pod UUID and an IMAGEID"),
        (("app", "add", pod.uuid, "a.b/c", "a.b/d"), 254, "must give only one app"),
        (("app", "add", pod.uuid, "--name=x", "a.b/c"), 254, "--name must follow an image"),
        (("app", "add", "--stdin=null", pod.uuid, "a.b/c"), 254,
         "--stdin must follow an application"),
        (("app", "add", pod.uuid, "--mnt-volume=v,kind=empty,target=/x", "a.b/c"), 254,
         "an image is required before any MountVolumes"),
        (("app", "add", pod.uuid, pod.image.id), 254,
         "error adding app to pod: error: multiple apps with name s"),
        (("app", "add", pod.uuid, pod.image.id, "--stdin=odd"), 254, 'invalid stdin mode "odd"'),
        (("app", "add", pod.uuid, pod.image.id, "--stdout=pipe"), 254,
         'invalid stdout mode "pipe"'),
        (("app", "add", pod.uuid, pod.image.id, "--stderr=pipe"), 254,
         'invalid stderr mode "pipe"'),
        (("app", "start"), 254, "must provide the pod UUID"),
        (("app", "start", pod.uuid), 254, "must provide the app to start"),
        (("app", "rm", pod.uuid), 254, "must provide the app to remove"),
        (("app", "stop", pod.uuid), 254, "must provide the app to remove"),
        (("app", "start", pod.uuid, "--app=n"), 254, 'error: nonexistent app "n"'),
        (("app", "stop", pod.uuid, "--app=n"), 254, 'error: nonexistent app "n"'),
        (("app", "rm", pod.uuid, "--app=n"), 254, 'error: nonexistent app "n"'),
        (("app", "stop", pod.uuid, "--app=s"), 254,
         'error stopping app: app "s" is not running'),
        (("app", "status", pod.uuid, "--app=n"), 1, 'cannot find app "n" in the pod'),
        (("app", "status", "ffff", "--app=n"), 1, 'no matches found for "ffff"'),
        (("app", "status", pod.uuid, "--app=s", "--format=xml"), 254,
         "Invalid format option: xml"),
        (("app", "list", "ffff"), 1, 'no matches found for "ffff"'),
        (("app", "sandbox", "--port=a:b"), 1, "--port invalid format"),
        (("app", "sandbox", "image"), 1, 'app sandbox takes no image: "image"'),
        (("attach", "--mode=odd", pod.uuid), 254, 'unknown endpoint "odd"'),
        (("attach", "--mode=tty,stdin", pod.uuid), 254,
         'incompatible endpoints "tty,stdin", cannot simultaneously attach TTY and streams'),
    )  # fmt: skip
    for argv, status, text in cases:
        flags = ["--net=default"] if "--port=a:b" in argv else []
        result = rkt.rkt(OPEN, *argv, *flags, status=status)
        assert text in error(result), argv
    # Nothing of all that is left.
    assert pod.states() == {"s": "created"}
    pod.end()
    assert pod.app("stop").stdout == f'pod "{pod.uuid}" is already stopped\n'
    for verb in ("start",):
        assert f'pod "{pod.uuid}" isn\'t currently running' in error(pod.app(verb, status=254))
    assert f'pod "{pod.uuid}" isn\'t currently running' in error(pod.add("x", status=254))
    pod.app("rm")
    assert pod.states() == {}


def test_an_unverified_image_is_not_added(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    result = rkt.rkt("app", "add", pod.uuid, pod.image.id, status=254)
    assert "error adding app to pod: " in error(result)
    result = rkt.rkt(OPEN, "app", "add", pod.uuid, "example.com/none", status=254)
    assert "error adding app to pod: " in error(result)
    assert pod.states() == {}
    pod.end()


def test_an_ordinary_pod_is_immutable(rkt: RktContext) -> None:
    aci = image(rkt)
    process = rkt.spawn(OPEN, "run", f"--uuid-file-save={rkt.files}/uuid", aci.id)
    rkt.wait_for(lambda: "running" in rkt.rkt("list").stdout)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready=20s", uuid)
    for argv in (
        ("app", "add", uuid, aci.id, "--name=x"),
        ("app", "start", uuid, "--app=s"),
        ("app", "stop", uuid, "--app=s"),
        ("app", "rm", uuid, "--app=s"),
    ):
        assert "immutable pod" in error(rkt.rkt(OPEN, *argv, status=254)), argv
    assert not os.path.exists(f"{rkt.pod_dir(uuid)}/control")
    manifest = json.loads(rkt.rkt("cat-manifest", uuid).stdout)
    assert {"name": "coreos.com/rkt/stage1/mutable", "value": "false"} in manifest["annotations"]
    process.terminate()
    assert process.wait(30) == 143


def test_waiting_for_readiness(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.end()
    assert rkt.rkt("status", "--wait-ready", pod.uuid).status == 0  # it was ready once
    result = rkt.rkt("status", "--wait-ready=soon", pod.uuid, status=254)
    assert 'invalid value "soon" for --wait-ready' in error(result)
    os.unlink(_ready_link(rkt, pod.uuid))
    result = rkt.rkt("status", "--wait-ready=30s", pod.uuid, status=254)
    assert result.stderr == (f'rkt: error waiting for pod readiness: pod "{pod.uuid}" is exited\n')


def test_operations_before_the_supervisor_is_ready(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.add()
    os.unlink(_ready_link(rkt, pod.uuid))
    text = f'supervisor for pod "{pod.uuid}" is not yet ready'
    assert text in error(pod.app("start", status=254))
    assert text in error(pod.add("t", status=254))
    text = f'pod "{pod.uuid}" is running but its supervisor is not ready yet'
    assert text in error(pod.app("rm", status=254))
    result = rkt.rkt("status", "--wait-ready=100ms", pod.uuid, status=254)
    assert error(result) == "rkt: error waiting for pod readiness: context deadline exceeded"
    pod.end()


def _ready_link(rkt: RktContext, uuid: str) -> str:
    base = f"{rkt.pod_dir(uuid)}/overlay"
    paths = [f"{base}/{name}/upper/rkt/supervisor-status" for name in os.listdir(base)]
    (path,) = (path for path in paths if os.path.islink(path))
    assert os.readlink(path) == "ready"
    return path


def test_what_an_app_left_running_ends_with_it(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.sh("watch", SLEEP)
    pod.sh("s", "sleep 2000 & sleep 3000 & exec sleep 1000")
    pod.app("stop")
    assert "sleep 2000" not in _inside(pod, "watch", "ps")
    pod.sh("t", "sleep 2000 & exit 0")
    pod.wait_state("t", "exited")
    rkt.wait_for(lambda: "sleep 2000" not in _inside(pod, "watch", "ps"))
    pod.end()


def test_an_app_that_ignores_sigterm_is_killed(rkt: RktContext) -> None:
    flags = ["--annotation=coreos.com/rkt/pod/stop-timeout=0.3"]
    pod = Sandbox(rkt, *flags)
    pod.sh("s", "trap '' TERM; echo up > /up; while :; do sleep 0.1; done")
    rkt.wait_for(lambda: _inside(pod, "s", "cat /up") == "up\n")
    pod.app("stop")
    assert "exit_code=137" in pod.app("status").stdout
    pod.app("start")
    pod.app("rm")
    assert pod.states() == {}
    pod.end()


@pytest.mark.parametrize("verb", ["stop", "rm"])
def test_an_app_that_is_being_stopped_cannot_be_started(rkt: RktContext, verb: str) -> None:
    pod = Sandbox(rkt)
    go_on = "while ! [ -e /go ]; do sleep 0.05; done"
    pod.sh(
        "s",
        f"trap 'touch /asked; {go_on}; exit 3' TERM; touch /ready; while :; do sleep 0.05; done",
    )
    pod.rkt.wait_for(lambda: _inside(pod, "s", "ls /ready || true") != "")
    ending = rkt.spawn("app", verb, pod.uuid, "--app=s")
    pod.rkt.wait_for(lambda: _inside(pod, "s", "ls /asked || true") != "")
    text = 'rkt: error starting app: app "s" is still being stopped'
    assert error(pod.app("start", status=254)) == text
    _inside(pod, "s", "touch /go")
    _succeed([ending])
    assert pod.states() == ({"s": "exited"} if verb == "stop" else {})
    if verb == "stop":
        pod.app("start")
    pod.end()


def test_a_start_that_was_stopped_leaves_nothing(rkt: RktContext) -> None:
    """It is stopped while the runtime still forgets the container of the round before."""
    real = next(path for name in ("crun", "runc") if (path := shutil.which(name)))
    wrapper, held = f"{rkt.files}/{os.path.basename(real)}", f"{rkt.files}/held"
    with open(wrapper, "w") as file:
        file.write(
            f'#!/bin/sh\ncase "$*" in *" delete "*) touch {held}; while [ -e {held} ]; do\n'
            f'sleep 0.05; done ;; esac\nexec {real} "$@"\n'
        )
    os.chmod(wrapper, 0o755)
    rkt.env["RKT_OCI_RUNTIME"] = wrapper
    pod = Sandbox(rkt)
    pod.sh("s", "exit 7")
    pod.wait_state("s", "exited")
    directory = rkt.pod_dir(pod.uuid)
    start = rkt.spawn("app", "start", pod.uuid, "--app=s")
    rkt.wait_for(lambda: os.path.exists(held))
    stop = rkt.spawn("app", "stop", pod.uuid, "--app=s")
    rkt.wait_for(lambda: glob.glob(f"{directory}/overlay/*/upper/rkt/status/s") != [])
    os.unlink(held)
    assert (start.wait(60), stop.wait(60)) == (254, 0)
    pod.app("rm")
    assert os.listdir(f"{directory}/bundle") == []
    pod.end()


def test_a_stop_does_not_reach_a_later_start(rkt: RktContext) -> None:
    """Its patience begins while the runtime forgets the round before, and is over long after."""
    runtime = Runtime(rkt, "delete", HOLD)
    pod = Sandbox(rkt, "--stop-timeout=2s")
    pod.add("t", "--", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    pod.sh("s", f"test -e /again && {SLEEP}; touch /again; exit 7")
    pod.wait_state("s", "exited")
    start = rkt.spawn("app", "start", pod.uuid, "--app=s")
    runtime.wait_until_held()
    ended = glob.glob(f"{rkt.pod_dir(pod.uuid)}/overlay/*/upper/rkt/status")[0] + "/s"
    stop = rkt.spawn("app", "stop", pod.uuid, "--app=s")
    rkt.wait_for(lambda: os.path.exists(ended))
    runtime.release()
    assert (start.wait(60), stop.wait(60)) == (254, 0)
    again = rkt.spawn("app", "start", pod.uuid, "--app=s")
    runtime.wait_until_held()
    runtime.release()
    assert again.wait(60) == 0
    pod.app("start", "t")
    pod.app("stop", "t")  # by now all that is as patient, and began before, has lost patience
    assert pod.states() == {"s": "running", "t": "exited"}
    pod.end()


def test_an_app_that_cannot_start_harms_nobody(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    result = rkt.rkt(OPEN, "app", "add", pod.uuid, pod.image.id, "--name=n", "--exec=/none",
                     status=254)  # fmt: skip
    assert 'app "n"' in error(result)
    assert pod.states() == {}
    # In a volume the program may be gone when it is started.
    os.mkdir(f"{rkt.files}/programs")
    with open(f"{rkt.files}/programs/none", "w") as file:
        file.write("#!/bin/sh\n")
        os.fchmod(file.fileno(), 0o755)
    volume = f"--mnt-volume=name=v,kind=host,source={rkt.files}/programs,target=/v"
    pod.add("n", volume, "--exec=/v/none")
    os.unlink(f"{rkt.files}/programs/none")
    result = pod.app("start", "n", status=254)
    assert error(result).startswith('rkt: error starting app: app "n" could not be started: ')
    assert pod.states() == {"n": "exited"}
    pod.app("start", "n", status=254)
    pod.app("rm", "n")
    pod.sh("s", SLEEP)
    pod.end()


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_an_app_that_gets_no_terminal_harms_nobody(rkt: RktContext, runtime: str) -> None:
    """runc connects to hand the terminal over, and then fails before it can."""
    if not shutil.which(runtime, path=rkt.env["PATH"]):
        pytest.skip(f"needs {runtime}")
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    pod = Sandbox(rkt)
    os.mkdir(f"{rkt.files}/v")
    volume = f"--mnt-volume=name=v,kind=host,source={rkt.files}/v,target=/v"
    pod.add("n", volume, "--stdin=tty", "--stdout=tty", "--stderr=tty")
    os.rmdir(f"{rkt.files}/v")
    for _ in range(2):
        text = error(pod.app("start", "n", status=254))
        assert text.startswith('rkt: error starting app: app "n" could not be started: ')
        assert "o such file or directory" in text
    assert pod.states() == {"n": "exited"}
    os.mkdir(f"{rkt.files}/v")
    pod.app("start", "n")
    pod.app("rm", "n")
    assert not [name for name in os.listdir(rkt.pod_dir(pod.uuid)) if name.startswith("console")]
    pod.end()


def test_handlers_run_at_each_start(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/h", exec=("/bin/sh", "-c", SLEEP), app={"eventHandlers": [
        {"name": "pre-start", "exec": ["/bin/echo", "before"]},
        {"name": "post-stop", "exec": ["/bin/echo", "after"]},
    ]}).busybox().build(rkt.files)  # fmt: skip
    pod = Sandbox(rkt)
    rkt.rkt(OPEN, "fetch", aci.path)
    rkt.rkt(OPEN, "app", "add", pod.uuid, aci.id)
    for _ in range(2):
        pod.app("start", "h")
        pod.app("stop", "h")
    out, _ = pod.end()
    assert re.sub(r"\[\d+\]", "", out) == "h: before\nh: after\n" * 2


def test_ten_at_once(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    names = [f"app{number}" for number in range(10)]
    running = [
        rkt.spawn(OPEN, "app", "add", pod.uuid, pod.image.id, f"--name={name}") for name in names
    ]
    _succeed(running)
    assert pod.states() == dict.fromkeys(names, "created")
    _succeed([rkt.spawn("app", "start", pod.uuid, f"--app={name}") for name in names])
    assert pod.states() == dict.fromkeys(names, "running")
    half = names[:5]
    commands = [rkt.spawn("app", "rm", pod.uuid, f"--app={name}") for name in half]
    commands += [rkt.spawn("app", "stop", pod.uuid, f"--app={name}") for name in names[5:]]
    commands += [
        rkt.spawn(OPEN, "app", "add", pod.uuid, pod.image.id, f"--name=more{number}")
        for number in range(3)
    ]
    _succeed(commands)
    assert pod.states() == {
        **dict.fromkeys(names[5:], "exited"), "more0": "created", "more1": "created",
        "more2": "created",
    }  # fmt: skip
    # Of one name there is one.
    rivals = [rkt.spawn(OPEN, "app", "add", pod.uuid, pod.image.id, "--name=one") for _ in range(4)]
    statuses = sorted(process.wait(60) for process in rivals)
    assert statuses == [0, 254, 254, 254]
    pod.end()


def _succeed(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err.decode()


def test_a_killed_client_leaves_a_pod_that_can_be_used(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.sh("steady", SLEEP)
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    commands = (
        lambda: rkt.spawn(OPEN, "app", "add", pod.uuid, pod.image.id, "--name=x"),
        lambda: rkt.spawn("app", "start", pod.uuid, "--app=x"),
        lambda: rkt.spawn("app", "stop", pod.uuid, "--app=x"),
        lambda: rkt.spawn("app", "rm", pod.uuid, "--app=x"),
    )
    for attempt in range(24):
        process = commands[attempt % 4]()
        time.sleep(moments.uniform(0, 0.25))
        process.kill()
        process.wait(30)
        note = f"seed {seed}, attempt {attempt}"
        if attempt % 4 == 3:
            if "x" in pod.states():
                pod.app("rm", "x")
            result = pod.add("x", status=None)
            assert result.status == 0, f"{note}: {result.stderr}"
            pod.app("start", "x")
            assert pod.states() == {"steady": "running", "x": "running"}, note
            pod.app("rm", "x")
    assert pod.states() == {"steady": "running"}
    pod.end()


@pytest.mark.parametrize("step", ["empty", "added", "started", "stopped", "adding", "attached"])
def test_a_killed_supervisor_leaves_nothing(rkt: RktContext, step: str) -> None:
    pod = Sandbox(rkt)
    clients: list[subprocess.Popen[bytes]] = []
    if step != "empty":
        pod.add("s", "--stdout=stream", "--", "-c", "sleep 2000 & while :; do echo x; done")
    if step in ("started", "stopped", "attached", "adding"):
        pod.app("start")
    if step == "stopped":
        pod.app("stop")
    if step == "attached":
        clients = [rkt.spawn("attach", "--app=s", pod.uuid)]
        assert clients[0].stdout is not None
        assert clients[0].stdout.readline() == b"x\n"
    if step == "adding":
        clients = [
            rkt.spawn(OPEN, "app", "add", pod.uuid, pod.image.id, f"--name=n{number}")
            for number in range(3)
        ]
        time.sleep(0.15)
    pod.process.kill()
    pod.process.wait(30)
    for client in clients:
        client.communicate(timeout=30)
    assert rkt.pod_state(pod.uuid) == "exited"
    assert set(pod.states().values()) <= {"exited"}
    rkt.wait_for(lambda: not [leak for leak in rkt.leaked() if leak.startswith("process")])
    assert [leak for leak in rkt.leaked() if leak.startswith("mounts")] == []
    if step != "empty":
        pod.app("rm")
    rkt.rkt("gc", "--grace-period=0s")
    assert [names for _, _, names in os.walk(f"{rkt.data}/pods") if names] == []
    assert rkt.leaked() == []


def test_the_end_of_the_first_process_is_the_end_of_the_pod(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    pod.sh("s", SLEEP)
    lines = rkt.rkt("status", pod.uuid).stdout.splitlines()
    pid = int(dict(line.split("=", 1) for line in lines)["pid"])
    os.kill(pid, signal.SIGKILL)
    pod.process.wait(30)
    assert rkt.pod_state(pod.uuid) == "exited"
    assert pod.states() == {"s": "exited"}


def test_nobody_can_hang_or_break_the_supervisor(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    path = f"{rkt.pod_dir(pod.uuid)}/control"
    assert os.stat(path).st_mode & 0o777 == 0o600
    idle = [_raw(path, b"") for _ in range(40)]
    answers = {
        b"\0\0\0\0": "malformed request",
        _framed(b"{"): "malformed request",
        _framed(b"[]"): "malformed request",
        _framed(b"[" * 5000): "malformed request",
        _framed(b'{"op":"add"}'): "malformed request",
        _framed(b'{"op":"add","app":"../x"}'): "malformed request",
        _framed(b'{"op":"none","app":"x"}'): "malformed request",
        _framed(b'{"op":5,"app":"x"}'): "request: op: expected a string",
        _framed(b'{"op":"add","app":"x"}'): 'no app "x" in the pod',
        _framed(b'{"op":"start","app":"x"}'): 'app "x" is not complete',
        _framed(b'{"op":"resize","app":"x","rows":-1}'): 'app "x" is not complete',
        b"\xff\xff\xff\x7f": "",
        _framed(b" " * 70000): "",
    }
    for request, text in answers.items():
        with _raw(path, request) as sock:
            sock.settimeout(20)
            try:
                answer = sock.recv(65536)
            except ConnectionResetError:
                answer = b""
            assert json.loads(answer[4:])["error"] == text if text else answer == b"", request
    pod.sh("s", SLEEP)
    for sock in idle:
        sock.close()
    pod.end()


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _raw(path: str, data: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    fd = os.open(os.path.dirname(path), os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{fd}/control")
    finally:
        os.close(fd)
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sock


def test_a_name_as_long_as_can_be(rkt: RktContext) -> None:
    pod = Sandbox(rkt)
    name = "n" * 200
    pod.sh(name, SLEEP, "--stdout=stream")
    assert pod.states() == {name: "running"}
    assert rkt.rkt("attach", "--mode=list", f"--app={name}", pod.uuid).stdout == "stdout\n"
    pod.app("rm", name)
    pod.end()


def test_the_lines_of_an_apps_status(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/app", exec=["/bin/sh", "-c", "exit 3"]).busybox()
    words = (
        "--name=web", "--mount=volume=data,target=/data", "--mount=volume=own,target=/own",
        "--user-annotation=first=one", "--user-annotation=odd=\x1b[1mx\nexit_code=0",
        "--user-label=tier=front",
    )  # fmt: skip
    volumes = (
        f"--volume=data,kind=host,source={rkt.files},readOnly=true",
        "--volume=own,kind=empty",
    )
    save = f"--uuid-file-save={rkt.files}/uuid"
    rkt.rkt(OPEN, "run", save, *volumes, aci.build(rkt.files).path, *words, status=3)
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    lines = rkt.rkt("app", "status", "--app=web", uuid).stdout.splitlines()
    assert [line.partition("=")[0] for line in lines[:7]] == [
        "name", "state", "image_id", "created_at", "started_at", "finished_at", "exit_code",
    ]  # fmt: skip
    assert (lines[0], lines[1], lines[6]) == ("name=web", "state=exited", "exit_code=3")
    assert lines[7:] == [
        "mounts=",
        (
            f"{rkt.files}:/data:(read_only:true),"
            f"{rkt.pod_dir(uuid)}/sharedVolumes/own:/own:(read_only:false)"
        ),
        "",
        "user_annotations=",
        r"first:one,odd:\x1b[1mx\x0aexit_code=0",  # one line, whatever an image says
        "",
        "user_labels=",
        "tier:front",
        "",
        "reason=exited with status 3",
    ]
