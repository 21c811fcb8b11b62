"""Pods on a host that enforces SELinux: run inside the machine of ../machine.py."""

from __future__ import annotations

import glob
import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import activation
from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
PROCESS, FILE = "system_u:system_r:container_t:", "system_u:object_r:container_file_t:"
# What every app must be able to do.
WORK = ("cat /proc/self/attr/current; echo; id -u; cat /etc/hosts >/dev/null && echo x"
        " >/dev/null && echo y >/dev/shm/y && echo z >/tmp/z && cat /dev/shm/y /tmp/z && "
        "(sleep 0 & wait) && echo worked")  # fmt: skip


@pytest.fixture
def image(rkt: RktContext) -> str:
    builder = AciBuilder("example.com/app", exec=["/bin/sh", "-c"]).busybox()
    return builder.build(rkt.files).path


def context_of(path: str) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


def label(path: str, context: str) -> None:
    os.setxattr(path, "security.selinux", context.encode() + b"\0")


def started(rkt: RktContext, image: str, *flags: str) -> str:
    """Start a pod that sleeps; gives its UUID."""
    argv = (OPEN, "run", "--detach", *flags, image, "--", "sleep 1000")
    return rkt.rkt(*argv).stdout.split()[-1]


def inside(rkt: RktContext, uuid: str, command: str) -> tuple[int, str]:
    """Run a command in a pod; gives its status, and what it wrote."""
    done = rkt.rkt("enter", uuid, "/bin/sh", "-c", command, status=None)
    return done.status, f"{done.stdout}{done.stderr}"


def level(rkt: RktContext, uuid: str) -> str:
    """Give the level of a running pod, as a process in it sees it."""
    status, said = inside(rkt, uuid, "cat /proc/self/attr/current")
    assert status == 0, f"{said}{rkt.rkt('status', uuid).stdout}{rkt.rkt('logs', uuid).stdout}"
    assert said.startswith(PROCESS), said
    return said.rstrip("\0\n")[len(PROCESS) :]


def test_the_host_enforces() -> None:
    with open("/sys/fs/selinux/enforce") as file:
        assert file.read() == "1"


@pytest.mark.parametrize(
    ("runtime", "user", "flags"),
    [
        ("crun", "0", ["--no-overlay"]),
        ("crun", "1000", []),
        ("runc", "0", []),
        ("runc", "1000", []),
    ],
)
def test_an_app_runs_confined(
    rkt: RktContext, image: str, runtime: str, user: str, flags: list[str]
) -> None:
    argv = (OPEN, "run", *flags, image, f"--user={user}", "--group=0", "--", WORK)
    done = rkt.rkt(*argv, env={"RKT_OCI_RUNTIME": runtime})
    lines = [line.split(": ", 1)[-1].rstrip("\0") for line in done.stdout.splitlines()]
    assert lines[0].startswith(f"{PROCESS}s0:c"), done.stdout
    assert lines[1:] == [user, "y", "z", "worked"]
    assert "SELinux" not in done.stderr


def test_pods_are_kept_apart_by_their_categories(rkt: RktContext, image: str) -> None:
    shared = f"{rkt.files}/shared"
    os.mkdir(shared)
    for name in ("of-a", "of-b", "of-host"):
        with open(f"{shared}/{name}", "w") as file:
            file.write(f"{name}\n")
    label(shared, f"{FILE}s0")
    before = context_of(f"{shared}/of-host")
    data = (f"--volume=data,kind=host,source={shared}", "--mount=volume=data,target=/data",
            "--volume=own,kind=empty", "--mount=volume=own,target=/own")  # fmt: skip
    pods = {name: started(rkt, image, *data) for name in ("a", "b")}
    levels = {name: level(rkt, uuid) for name, uuid in pods.items()}
    assert levels["a"] != levels["b"]
    for name, uuid in pods.items():
        label(f"{shared}/of-{name}", f"{FILE}{levels[name]}")
        own = f"{rkt.data}/pods/run/{uuid}/sharedVolumes/own"
        assert context_of(own) == f"{FILE}{levels[name]}"
        assert inside(rkt, uuid, "echo 1 >/own/f && cat /own/f") == (0, "1\n")
        assert context_of(f"{own}/f").endswith(f":container_file_t:{levels[name]}")
    for name, other in (("a", "b"), ("b", "a")):
        assert inside(rkt, pods[name], f"cat /data/of-{name}") == (0, f"of-{name}\n")
        for closed in (f"of-{other}", "of-host"):
            status, said = inside(rkt, pods[name], f"cat /data/{closed}")
            assert (status, said) == (1, f"cat: can't open '/data/{closed}': Permission denied\n")
    assert context_of(f"{shared}/of-host") == before, "what is the host's was relabelled"
    (pids,) = glob.glob(f"{rkt.data}/pods/run/{pods['a']}/overlay/*/upper/rkt/status/*.pid")
    with open(pids) as file:
        root = f"/proc/{file.read().split()[0]}/root"
    for path in ("bin/busybox", "dev/null", "dev/shm", "dev/mqueue", "tmp"):
        assert context_of(f"{root}/{path}") == f"{FILE}{levels['a']}", path
    for uuid in pods.values():
        rkt.rkt("stop", "--force", uuid)


def test_an_added_app_has_the_pods_context(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/late", exec=["/bin/sleep", "1000"]).busybox()
    image = builder.build(rkt.files).path
    key = rkt.rkt(OPEN, "fetch", image).stdout.splitlines()[-1]
    sandbox = rkt.spawn("app", "sandbox", f"--uuid-file-save={rkt.files}/uuid")
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/uuid") and os.path.getsize(
        f"{rkt.files}/uuid") > 30)  # fmt: skip
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read().strip()
    rkt.wait_for(lambda: os.path.lexists(
        f"{rkt.data}/pods/run/{uuid}/stage1/rootfs/rkt/supervisor-status"
    ) or rkt.rkt("status", uuid).stdout.count("state=running") > 0)  # fmt: skip
    rkt.rkt(OPEN, "app", "add", uuid, key, "--name=late")
    rkt.rkt("app", "start", uuid, "--app=late")
    with open(f"{rkt.data}/pods/run/{uuid}/selinux-level") as file:
        wanted = file.read().strip()
    assert level(rkt, uuid) == wanted, rkt.rkt("status", uuid).stdout
    rkt.rkt("stop", "--force", uuid)
    sandbox.wait(60)


def test_enter_writes_to_what_is_the_hosts(rkt: RktContext, image: str) -> None:
    uuid = started(rkt, image)
    argv = [*rkt.enter_argv(), *rkt.argv("enter", uuid, "/bin/echo", "seen")]
    with open(f"{rkt.files}/out", "w+") as file:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=file, check=True)
        file.seek(0)
        assert file.read() == "seen\n"
    ours, theirs = os.openpty()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=theirs, check=True)
    assert os.read(ours, 100) == b"seen\r\n"
    os.close(ours)
    os.close(theirs)
    rkt.rkt("stop", "--force", uuid)


def _asking(rkt: RktContext, image: str, **context: str) -> str:
    """Prepare a pod whose app asks for a context; gives its UUID."""
    key = rkt.rkt(OPEN, "fetch", image).stdout.splitlines()[-1]
    value = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
    app = {
        "exec": ["/bin/cat", "/proc/self/attr/current"], "user": "0", "group": "0",
        "isolators": [{"name": "os/linux/selinux-context", "value": value | context}],
    }  # fmt: skip
    manifest = {"acKind": "PodManifest", "acVersion": "0.8.11",
                "apps": [{"name": "a", "image": {"id": key}, "app": app}]}  # fmt: skip
    with open(f"{rkt.files}/pod.json", "w") as file:
        json.dump(manifest, file)
    return rkt.rkt(OPEN, "prepare", f"--pod-manifest={rkt.files}/pod.json").stdout.strip()


def test_an_app_gets_the_context_that_it_asks_for(rkt: RktContext, image: str) -> None:
    for wanted in ("s0:c0.c1023", "s0:c0.c500,c501.c1023"):  # which is the same
        done = rkt.rkt("run-prepared", _asking(rkt, image, level=wanted))
        assert f"{PROCESS}s0:c0.c1023" in done.stdout
    done = rkt.rkt("run-prepared", _asking(rkt, image, type="no_such_t"), status=None)
    assert done.status == 254
    assert ('app "a": os/linux/selinux-context "system_u:system_r:no_such_t:s0": the SELinux '
            "policy of this host does not know this context") in done.stderr  # fmt: skip


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_socket_of_the_service_manager(rkt: RktContext, runtime: str) -> None:
    # As those of the service manager: an administrator's have all categories, which no pod may use.
    with open("/proc/self/attr/sockcreate", "w") as file:
        file.write("unconfined_u:unconfined_r:unconfined_t:s0")
    with activation.tcp() as sock, socket.create_connection(sock.getsockname()) as client:
        port = {"name": "web", "protocol": "tcp", "port": activation.port_of(sock)}
        script = "read word <&3 && echo $word $(cat /proc/self/attr/current) >&3"
        builder = AciBuilder(
            "example.com/once", exec=["/bin/sh", "-c", script],
            app={"ports": [{**port, "socketActivated": True}]},
        )  # fmt: skip
        path = str(builder.busybox().build(rkt.files).path)
        accepted, _ = sock.accept()
        with accepted:
            process = activation.spawn(rkt, [accepted], OPEN, "run", path,
                                       env={"RKT_OCI_RUNTIME": runtime})  # fmt: skip
        client.sendall(b"hello\n")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert client.makefile().read().startswith(f"hello {PROCESS}s0:c")
