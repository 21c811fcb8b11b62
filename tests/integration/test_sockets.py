"""Sockets of a service manager that reach the apps: without systemd, each test is the manager."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from rkt_testkit import activation, foreign
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.activation import HOST_USR, ask, holders, port_of
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "overlay", "busybox", "catatonit")

OPEN = "--insecure-options=image"
RUN = (OPEN, "run", *HOST_USR)
ASSUMED = 'warning: no --port option for socket-activated port "web", assuming port {} as specified'


@pytest.fixture
def web() -> Iterator[socket.socket]:
    """Give a socket that listens."""
    with activation.tcp() as sock:
        yield sock


def server(rkt: RktContext, sock: socket.socket, **app: object) -> str:
    """Build a server whose port "web" is that of a socket."""
    ports = [{"name": "web", "protocol": "tcp", "port": port_of(sock)}]
    return activation.image(rkt.files, ports, app=app)


def lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Read what appears on standard output."""
    assert process.stdout is not None
    found = [process.stdout.readline().decode().strip() for _ in range(count)]
    if not all(line.endswith("up") for line in found):
        assert process.stderr is not None
        raise AssertionError(process.stderr.read().decode())
    return found


def end(process: subprocess.Popen[bytes], status: int | None = 143) -> str:
    """End a pod; gives what it wrote on stderr."""
    if process.poll() is None:
        process.terminate()
    _, err = process.communicate(timeout=60)
    assert status is None or process.returncode == status, err.decode()
    return err.decode()


def pod(rkt: RktContext) -> str:
    """Give the UUID of the only pod that runs."""
    (uuid,) = os.listdir(f"{rkt.data}/pods/run")
    return uuid


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_each_app_gets_its_own(rkt: RktContext, web: socket.socket, runtime: str) -> None:
    with activation.tcp() as admin, socket.socket(type=socket.SOCK_DGRAM) as names:
        names.bind(("127.0.0.1", 0))
        one = activation.image(rkt.files, [
            {"name": "web", "protocol": "tcp", "port": port_of(web)},
            {"name": "names", "protocol": "udp", "port": port_of(names)},
        ], name="example.com/one")  # fmt: skip
        two = activation.image(rkt.files, [
            {"name": "admin", "protocol": "tcp", "port": port_of(admin)},
        ], name="example.com/two")  # fmt: skip
        process = activation.spawn(
            rkt, [web, admin, names], *RUN, one, two, names="w:a:n",
            env={"RKT_OCI_RUNTIME": runtime},
        )  # fmt: skip
        lines(process, 2)
        assert ask(web)[:4] == ["one", "w", "0", "0,1,2,3,4"]
        assert ask(names)[:4] == ["one", "n", "0", "0,1,2,3,4"]
        assert ask(admin)[:4] == ["two", "a", "0", "0,1,2,3"]
        # Nobody but the supervisor and the app has one.
        for sock in (web, admin, names):
            assert process.pid in holders(sock)
            assert len(holders(sock)) == 2
        text = end(process)
    assert ASSUMED.format(port_of(web)) in text
    assert "is not used" not in text
    assert "has to listen" not in text


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_another_user_with_a_filter(rkt: RktContext, web: socket.socket, runtime: str) -> None:
    path = server(rkt, web, user="1000", group="1000")
    process = activation.spawn(rkt, [web], *RUN, path, env={"RKT_OCI_RUNTIME": runtime})
    lines(process, 1)
    assert ask(web)[:3] == ["server", "-", "1000"]
    end(process)


def test_a_pod_with_a_network_of_its_own(rkt: RktContext, web: socket.socket) -> None:
    path = activation.image(rkt.files, [{"name": "web", "protocol": "tcp", "port": 80}])
    flags = ("--net=default", f"--port=web:{port_of(web)}")
    process = activation.spawn(rkt, [web], *RUN, *flags, path)
    lines(process, 1)
    assert ask(web)[:2] == ["server", "-"]
    assert "assuming port" not in end(process)


def test_a_port_of_the_host_that_is_forwarded_beside_it(
    rkt: RktContext, web: socket.socket
) -> None:  # fmt: skip
    """Only the port of the socket is left out; the socket's own address is in use, after all."""
    path = activation.image(rkt.files, [
        {"name": "web", "protocol": "tcp", "port": 80},
        {"name": "plain", "protocol": "tcp", "port": 81, "socketActivated": False},
    ])  # fmt: skip
    flags = ("--net=default", f"--port=web:{port_of(web)}", "--port=plain:8181")
    process = activation.spawn(rkt, [web], *RUN, *flags, path)
    lines(process, 1)
    rules = rkt.run([*rkt.enter_argv(), "nft", "list", "ruleset"]).stdout
    rules += rkt.run([*rkt.enter_argv(), "iptables-save"]).stdout
    assert "8181" in rules
    assert str(port_of(web)) not in rules
    end(process)


def test_a_user_namespace(rkt: RktContext, web: socket.socket) -> None:
    path = server(rkt, web)
    flags = ("--private-users", "--no-overlay")
    process = activation.spawn(rkt, [web], *RUN, *flags, path)
    lines(process, 1)
    assert ask(web)[:3] == ["server", "-", "0"]
    end(process)


def test_who_connects_while_the_app_starts_again_waits(
    rkt: RktContext, web: socket.socket
) -> None:  # fmt: skip
    process = activation.spawn(rkt, [web], *RUN, "--restart=on-failure", server(rkt, web))
    lines(process, 1)
    first = ask(web)
    for _ in range(3):
        assert ask(web, "7") == []
        again = ask(web)
        assert again[:4] == first[:4]
        assert again[4] != first[4]
    end(process)


def test_what_runs_beside_the_app_has_nothing_of_it(rkt: RktContext, web: socket.socket) -> None:
    os.mkdir(f"{rkt.files}/out")
    probe = "(ls /proc/self/fd; env) >/out/{0}.new; mv /out/{0}.new /out/{0}"
    handlers = [
        {"name": name, "exec": ["/bin/sh", "-c", probe.format(name)]}
        for name in ("pre-start", "post-stop")
    ]
    path = server(rkt, web, eventHandlers=handlers)
    flags = (f"--volume=out,kind=host,source={rkt.files}/out", "--mount=volume=out,target=/out")
    check = (f"--health-cmd={probe.format('health')}", "--health-interval=100ms")
    process = activation.spawn(rkt, [web], *RUN, *flags, path, *check)
    lines(process, 1)
    rkt.rkt("enter", pod(rkt), "/bin/sh", "-c", probe.format("enter"))
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/out/health"))
    ask(web, "0")
    assert process.wait(60) == 0
    for name in ("pre-start", "health", "enter", "post-stop"):
        with open(f"{rkt.files}/out/{name}", encoding="utf-8") as file:
            seen = file.read()
        assert "LISTEN_" not in seen
        assert [word for word in seen.split() if word.isdigit()] == ["0", "1", "2", "3"], name
    end(process, 0)


def test_in_the_background(rkt: RktContext, web: socket.socket) -> None:
    process = activation.spawn(rkt, [web], *RUN, "--detach", server(rkt, web))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    uuid = out.decode().strip()
    assert ask(web)[:2] == ["server", "-"]
    assert len(holders(web)) == 2
    rkt.rkt("stop", uuid)


def test_a_prepared_pod(rkt: RktContext, web: socket.socket) -> None:
    uuid = rkt.rkt(OPEN, "prepare", *HOST_USR, server(rkt, web)).stdout.strip()
    process = activation.spawn(rkt, [web], "run-prepared", uuid)
    lines(process, 1)
    assert ask(web)[:2] == ["server", "-"]
    end(process)


def test_fly(rkt: RktContext, web: socket.socket) -> None:
    rkt.use_stage1("fly")
    process = activation.spawn(rkt, [web], *RUN, "--restart=on-failure", server(rkt, web),
                               names="http")  # fmt: skip
    lines(process, 1)
    first = ask(web)
    assert first[:4] == ["server", "http", "0", "0,1,2,3"]
    assert ask(web, "3") == []
    assert ask(web)[:4] == first[:4]
    assert len(holders(web)) == 2
    end(process)


def test_an_app_that_is_added(rkt: RktContext, web: socket.socket) -> None:
    path = server(rkt, web)
    process = activation.spawn(rkt, [web], "app", "sandbox")
    rkt.wait_for(lambda: bool(os.path.isdir(f"{rkt.data}/pods/run")
                              and os.listdir(f"{rkt.data}/pods/run")))  # fmt: skip
    uuid = pod(rkt)
    rkt.rkt("status", "--wait-ready", uuid)
    usr = "--mnt-volume=name=usr,kind=host,source=/usr,target=/usr,readOnly=true"
    for name in ("first", "second"):
        rkt.rkt(OPEN, "app", "add", uuid, path, f"--name={name}", usr)
        rkt.rkt("app", "start", uuid, f"--app={name}")
        assert ask(web)[:2] == [name, "-"]
        rkt.rkt("app", "stop", uuid, f"--app={name}")
        rkt.rkt("app", "start", uuid, f"--app={name}")
        assert ask(web)[:2] == [name, "-"]
        rkt.rkt("app", "rm", uuid, f"--app={name}")
    text = end(process, None)
    assert "is not used" not in text
    assert text.count(ASSUMED.format(port_of(web))) == 2


def test_a_socket_that_nobody_wants(rkt: RktContext, web: socket.socket) -> None:
    image = AciBuilder("example.com/plain", exec=["/bin/sh", "-c", "env; ls /proc/self/fd"])
    path = str(image.busybox().build(rkt.files).path)
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(f"{rkt.files}/sock")
        local.listen()
        process = activation.spawn(rkt, [web, local], OPEN, "run", path, names="http:local")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"LISTEN_" not in out
    assert out.split()[-4:] == [b"0", b"1", b"2", b"3"]  # 3 is what ls reads
    assert (f'warning: socket "http" (tcp port {port_of(web)}) is not used: no app has a '
            "socket-activated port for it") in err.decode()  # fmt: skip
    assert f"warning: socket \"local\" (address '{rkt.files}/sock') is not used" in err.decode()


def test_a_port_without_a_socket(rkt: RktContext) -> None:
    ports = [{"name": "web", "protocol": "tcp", "port": 80, "socketActivated": True}]
    exec = ("/bin/sh", "-c", "env")  # noqa: A001
    image = AciBuilder("example.com/own", exec=exec, app={"ports": ports}).busybox()
    path = str(image.build(rkt.files).path)
    alone = rkt.rkt(OPEN, "run", path)
    assert "LISTEN_" not in alone.stdout
    text = 'warning: app "own" has no socket for its socket-activated port "web" (tcp port 80 of'
    assert f"{text} the host): none was passed to rkt; it has to listen itself" in alone.stderr
    assert "assuming port" not in alone.stderr


def test_two_apps_with_one_port(rkt: RktContext, web: socket.socket) -> None:
    port = {"name": "web", "protocol": "tcp", "port": port_of(web)}
    one = activation.image(rkt.files, [port], name="example.com/one")
    other = {**port, "name": "other", "socketActivated": True}
    sleeper = AciBuilder("example.com/two", exec=["/bin/sleep", "1000"], app={"ports": [other]})
    two = str(sleeper.busybox().build(rkt.files).path)
    process = activation.spawn(rkt, [web], *RUN, one, two)
    rkt.wait_for(lambda: ask(web)[:1] == ["one"])
    text = end(process, None)
    assert f'(tcp port {port_of(web)} of the host): app "one" has it' in text


@pytest.mark.parametrize(("fds", "text"), [
    ("2", "rkt: LISTEN_FDS=2, but descriptor 4 is not open"),
    ("many", 'rkt: LISTEN_FDS="many" is not a number'),
])  # fmt: skip
def test_what_a_manager_says_must_be_true(
    rkt: RktContext, web: socket.socket, fds: str, text: str
) -> None:  # fmt: skip
    process = activation.spawn(rkt, [web], *RUN, server(rkt, web), fds=fds)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode().splitlines()) == (254, [text])
    assert not os.path.exists(f"{rkt.data}/pods/run")


def test_sockets_of_somebody_else(rkt: RktContext) -> None:
    """Variables that are meant for another process say nothing, and no app inherits them."""
    image = AciBuilder("example.com/plain", exec=["/bin/sh", "-c", "env"]).busybox()
    path = str(image.build(rkt.files).path)
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x", "OTHER": "1"}
    done = rkt.rkt(OPEN, "run", "--inherit-env", path, env=env)
    assert "LISTEN_" not in done.stdout
    assert "OTHER=1" in done.stdout
    assert "socket" not in done.stderr


def test_a_program_that_is_not_there(rkt: RktContext, web: socket.socket) -> None:
    path = server(rkt, web)
    process = activation.spawn(rkt, [web], *RUN, path, "--exec=/nowhere")
    assert process.wait(60) == 254
    text = end(process, 254)
    assert 'error looking up "/nowhere": no such file or directory' in text


@pytest.mark.parametrize(("program", "why"), [
    ("/e/nowhere", "No such file or directory"),
    ("/e/odd", "its interpreter is not in the app"),
    ("/e/plain", "Permission denied"),
])  # fmt: skip
def test_a_program_that_only_the_running_pod_could_have(
    rkt: RktContext, web: socket.socket, program: str, why: str
) -> None:  # fmt: skip
    made = "echo '#!/nowhere' >/e/odd; chmod +x /e/odd; touch /e/plain"
    path = server(rkt, web, eventHandlers=[{"name": "pre-start", "exec": ["/bin/sh", "-c", made]}])
    flags = ("--volume=e,kind=empty", "--mount=volume=e,target=/e")
    process = activation.spawn(rkt, [web], *RUN, *flags, path, f"--exec={program}")
    assert process.wait(60) == 126
    text = end(process, 126)
    reason = f'could not be started: cannot execute "{program}": {why}'
    assert f'app "server" {reason}' in text
    assert reason in rkt.rkt("status", pod(rkt)).stdout


def test_a_volume_at_run(rkt: RktContext, web: socket.socket) -> None:
    """Nothing is made in a directory of the host: the place for the program has to be there."""
    os.mkdir(f"{rkt.files}/run")
    flags = (f"--volume=run,kind=host,source={rkt.files}/run", "--mount=volume=run,target=/run")
    path = server(rkt, web)
    process = activation.spawn(rkt, [web], *RUN, *flags, path)
    assert process.wait(60) == 254
    text = end(process, 254)
    assert 'cannot mount at "/run/rkt/listen": the volume at "/run" has no such file' in text
    os.mkdir(f"{rkt.files}/run/rkt")
    with open(f"{rkt.files}/run/rkt/listen", "w", encoding="ascii"):
        pass
    process = activation.spawn(rkt, [web], *RUN, *flags, path)
    lines(process, 1)
    assert ask(web)[:2] == ["server", "-"]
    end(process)


def test_a_service_for_each_connection(rkt: RktContext, web: socket.socket) -> None:
    script = 'test $LISTEN_PID = $$ && read word <&3 && echo "got $word" >&3'
    ports = [{"name": "web", "protocol": "tcp", "port": port_of(web), "socketActivated": True}]
    exec = ("/bin/sh", "-c", script)  # noqa: A001
    image = AciBuilder("example.com/once", exec=exec, app={"ports": ports}).busybox()
    path = str(image.build(rkt.files).path)
    with socket.create_connection(web.getsockname()) as client:
        accepted, _ = web.accept()
        with accepted:
            process = activation.spawn(rkt, [accepted], OPEN, "run", path)
        client.sendall(b"hello\n")
        assert client.makefile().read() == "got hello\n"
    assert process.wait(60) == 0
    end(process, 0)


def test_a_stage1_of_somebody_else_is_told_as_well(rkt: RktContext, web: socket.socket) -> None:
    script = "echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && readlink /proc/self/fd/3"
    odd = foreign.stage1(rkt, {"run": script}).path
    process = activation.spawn(rkt, [web], *RUN, f"--stage1-path={odd}", server(rkt, web),
                               names="http")  # fmt: skip
    out, err = process.communicate(timeout=60)
    inode = os.readlink(f"/proc/self/fd/{web.fileno()}")
    assert out.decode().split() == ["1", "http", inode], err
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")


def test_a_filter_that_is_too_narrow(rkt: RktContext, web: socket.socket) -> None:
    path = server(rkt, web)
    process = activation.spawn(rkt, [web], *RUN, path, "--seccomp=mode=remove,getpid")
    assert process.wait(60) == 254
    assert end(process, 254).splitlines()[-1] == (
        'rkt: app "server": its seccomp filter forbids "getpid", without which it cannot be given '
        "its sockets"
    )


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_places_of_the_image_where_the_program_is_put(
    rkt: RktContext, web: socket.socket, runtime: str
) -> None:  # fmt: skip
    """Links of the image count inside of it, and a root that nobody may write to is no obstacle."""
    script = "ls /elsewhere; echo $LISTEN_FDS"
    ports = [{"name": "web", "protocol": "tcp", "port": port_of(web), "socketActivated": True}]
    exec = ("/bin/sh", "-c", script)  # noqa: A001
    builder = AciBuilder("example.com/links", exec=exec, app={"ports": ports}).busybox()
    builder.symlink("run", "../../elsewhere").file("elsewhere/rkt", b"a file")
    path = str(builder.build(rkt.files).path)
    process = activation.spawn(rkt, [web], OPEN, "run", path, "--readonly-rootfs=true",
                               env={"RKT_OCI_RUNTIME": runtime})  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"rkt\n1\n"), err
