"""What an app meets: variables, devices, file systems, limits, users, handlers, its program."""

from __future__ import annotations

import json
import os
import re
import resource
from typing import TYPE_CHECKING, Any

import pytest

from rkt_testkit.acibuilder import APPLETS, AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNTIMES = pytest.mark.parametrize("runtime", ["crun", "runc"])


def builder(**app: Any) -> AciBuilder:
    """Begin an image whose app is a shell."""
    made = AciBuilder("example.com/app", exec=["/bin/sh", "-c"], app=app)
    return made.busybox(*APPLETS, "sort", "cut", "mknod", "dirname")


def sh(
    rkt: RktContext, script: str, *flags: str, pod: tuple[str, ...] = (), runtime: str = "",
    aci: AciBuilder | None = None, status: int | None = 0,
) -> Result:  # fmt: skip
    """Run a script in an app."""
    path = (aci or builder()).build(rkt.files).path
    env = {"RKT_OCI_RUNTIME": runtime} if runtime else {}
    return rkt.rkt(OPEN, "run", *pod, path, *flags, "--", script, status=status, env=env)


def said(result: Result) -> list[str]:
    """Give what rkt said, without the warning about the switch."""
    return [line for line in result.stderr.splitlines() if "signature verification" not in line]


@RUNTIMES
def test_variables(rkt: RktContext, runtime: str) -> None:
    result = sh(rkt, "env | sort", runtime=runtime)
    assert result.stdout.splitlines() == [
        "AC_APP_NAME=app", "HOME=/root", "LOGNAME=root", f"PATH={PATH}", "PWD=/", "SHELL=/bin/sh",
        "SHLVL=1", "USER=root", "container=rkt",
    ]  # fmt: skip


def test_what_the_image_says_of_variables_wins_but_for_rkts_own(rkt: RktContext) -> None:
    names = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "AC_APP_NAME", "AC_METADATA_URL", "A.b-c")
    own = [{"name": name, "value": "/bin" if name == "PATH" else "own"} for name in names]
    script = "tr '\\0' '\\n' </proc/$$/environ | sort"
    result = sh(rkt, script, "--name=other", aci=builder(environment=own))
    assert result.stdout.splitlines() == [
        "A.b-c=own", "AC_APP_NAME=other", "AC_METADATA_URL=own", "HOME=own", "LOGNAME=own",
        "PATH=/bin", "SHELL=own", "USER=own", "container=rkt",
    ]  # fmt: skip


@RUNTIMES
@pytest.mark.parametrize("private", [False, True])
def test_devices(rkt: RktContext, runtime: str, private: bool) -> None:
    script = (
        "for n in null zero full random urandom tty; do stat -c '%n %F %a %t %T' /dev/$n; done; "
        "for n in fd stdin stdout stderr ptmx; do readlink /dev/$n; done; "
        "stat -c '%n %F %a' /dev/shm /dev/pts /dev/mqueue; "
        "echo lost >/dev/console && echo console; "
        "head -c 5 /dev/zero | wc -c; echo full 2>/dev/null >/dev/full || echo is full; "
        "head -c 9 /dev/urandom | wc -c; exec 3<>/dev/ptmx && ls /dev/pts; "
        "grep -E ' /dev/(shm|pts|mqueue) ' /proc/mounts | cut -d' ' -f2,3 | sort; "
        "ls /dev | grep -c sd"
    )
    pod = ("--private-users",) if private else ()
    result = sh(rkt, script, runtime=runtime, pod=pod, status=1)
    kind = "character special file"
    assert result.stdout.splitlines() == [
        f"/dev/null {kind} 666 1 3", f"/dev/zero {kind} 666 1 5", f"/dev/full {kind} 666 1 7",
        f"/dev/random {kind} 666 1 8", f"/dev/urandom {kind} 666 1 9", f"/dev/tty {kind} 666 5 0",
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
        "/dev/shm directory 1777", "/dev/pts directory 755", "/dev/mqueue directory 1777",
        "console", "5", "is full", "9", "0", "ptmx",
        "/dev/mqueue mqueue", "/dev/pts devpts", "/dev/shm tmpfs", "0",
    ]  # fmt: skip


@RUNTIMES
def test_proc_and_sys(rkt: RktContext, runtime: str) -> None:
    script = (
        "ls -d /proc/[0-9]* | wc -l; tr '\\0' ' ' </proc/1/cmdline; echo; "
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/panic_on_oom; do "
        "[ -e $f ] || continue; echo x 2>/dev/null >$f && echo wrote $f; done; "
        "for d in /sys/firmware /sys/fs /sys/module /sys/power; do "
        "[ -d $d ] && ls -A $d; done; "
        "for f in /proc/kallsyms /proc/config.gz /proc/kcore; do "
        "[ -e $f ] && head -c 1 $f 2>/dev/null | wc -c; done; "
        "mkdir /sys/kernel/x /proc/x 2>/dev/null && echo made; ls /sys/class/net | grep -c lo"
    )
    lines = sh(rkt, script, runtime=runtime).stdout.splitlines()
    assert int(lines[0]) <= 6  # of the pod alone
    assert lines[1] == "rkt-init -P "
    assert set(lines[2:-1]) <= {"0"}
    assert lines[-1] == "1"


@RUNTIMES
@pytest.mark.parametrize("net", ["host", "none"])
@pytest.mark.parametrize("users", ["", "--private-users"])
def test_root_in_an_app_cannot_set_the_host(
    rkt: RktContext, users: str, net: str, runtime: str
) -> None:
    """Opening is enough of a test: what can be opened to write would be the host's."""
    script = (
        "cd /proc; find sys irq fs bus -type f 2>/dev/null | while read -r f; do "
        "(: >>$f) 2>/dev/null && echo $f; done; "
        "for f in keys timer_list acpi/* scsi/*; do [ -s $f ] && echo $f; done; head -c 1 keys; "
        "cat sys/kernel/hostname"
    )
    flags = (f"--net={net}", "--hostname=box", *((users,) if users else ()))
    assert sh(rkt, script, pod=flags, runtime=runtime).stdout == "box\n"


def test_files_in_etc(rkt: RktContext) -> None:
    script = (
        "readlink /etc/mtab; cut -d' ' -f2 /etc/mtab | grep -c '^/$'; hostname; cat /etc/hostname; "
        "grep 127.0.0.1 /etc/hosts; ls /etc/resolv.conf"
    )
    result = sh(rkt, script, pod=("--hostname=box", "--net=none"), status=1)
    assert result.stdout.splitlines() == [
        "../proc/self/mounts", "1", "box", "box",
        "127.0.0.1 localhost localhost.domain localhost4 localhost4.localdomain4 box",
    ]  # fmt: skip
    own = builder().file("etc/mtab", "mine").file("etc/hosts", "127.0.0.1 mine\n")
    result = sh(rkt, "cat /etc/mtab /etc/hosts; hostname", aci=own)
    (uuid,) = set(re.findall(r"rkt-([0-9a-f-]{36})", result.stdout))
    assert result.stdout == f"mine127.0.0.1 mine\nrkt-{uuid}\n"


@RUNTIMES
def test_nothing_of_the_caller_comes_along(rkt: RktContext, runtime: str) -> None:
    script = (
        "for fd in /proc/$$/fd/*; do [ -L $fd ] && echo ${fd##*/}; done; umask; "
        "grep -E '^(SigBlk|SigCgt|SigPnd|ShdPnd|TracerPid)' /proc/self/status; pwd; "
        "readlink /proc/$$/cwd; cat /proc/self/loginuid 2>/dev/null"
    )
    read, write = os.pipe()
    os.set_inheritable(write, True)
    old = os.umask(0o077)
    try:
        lines = sh(rkt, script, runtime=runtime, status=None).stdout.splitlines()
    finally:
        os.umask(old)
        os.close(read)
        os.close(write)
    assert lines[:4] == ["0", "1", "2", "0022"]
    pairs = dict(line.split() for line in lines[4:9])
    assert {int(value, 16) for value in pairs.values()} == {0}
    assert lines[9:11] == ["/", "/"]


def test_the_callers_umask_is_not_the_apps(rkt: RktContext) -> None:
    path = builder().build(rkt.files).path
    script = "id -u; cat /etc/hostname /etc/hosts >/dev/null && ls /bin >/dev/null && mkdir /tmp/d"

    def run(mask: str, *words: str) -> Result:
        return rkt.run(["sh", "-c", f'umask {mask}; exec "$@"', "sh", *rkt.argv(OPEN, *words)])

    for flags in ((), ("--no-overlay",), ("--private-users",)):
        result = run("077", "run", *flags, path, "--user=alice", "--", script)
        assert (result.stdout, result.status) == ("1000\n", 0), result.stderr
    uuid = rkt.rkt(OPEN, "prepare", path, "--user=alice", "--", script).stdout.strip()
    inside = ["sh", "-c", 'umask 077; exec "$@"', "sh", *rkt.argv("run-prepared", uuid)]
    assert rkt.run(inside).stdout == "1000\n"
    builder().script("bin/other", "id -u; ls /bin >/dev/null").build(f"{rkt.files}/other.aci")
    assert run("077", "fetch", f"{rkt.files}/other.aci").status == 0
    words = ("run", f"{rkt.files}/other.aci", "--user=alice", "--exec=/bin/other")
    assert run("022", *words).stdout == "1000\n"


@RUNTIMES
def test_limits_are_the_callers(rkt: RktContext, runtime: str) -> None:
    script = "ulimit -Hn; ulimit -Sn; ulimit -Sc"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = builder().build(rkt.files).path
    argv = rkt.argv(OPEN, "run", path, "--", script)
    result = rkt.run(
        ["sh", "-c", 'ulimit -Sn 300; ulimit -Sc 0; exec "$@"', "sh", *argv],
        env={"RKT_OCI_RUNTIME": runtime},
    )
    assert result.stdout.split() == [str(hard), "300", "0"]
    assert soft >= 300


# Users and groups


@RUNTIMES
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--user=alice",), "uid=1000(alice) gid=0(root)"),
        (("--user=alice", "--group=staff"), "uid=1000(alice) gid=1001(staff)"),
        (("--user=4321", "--group=8765"), "uid=4321 gid=8765"),
        (("--user=/hers", "--group=/hers"), "uid=77 gid=78"),
        (("--user=/link", "--group=/link"), "uid=0(root) gid=0(root)"),
        (("--group=staff", "--supplementary-gids=7,8", "--supplementary-gids=9"),
         "uid=0(root) gid=1001(staff) groups=7,8,9"),
    ],
)  # fmt: skip
def test_users(rkt: RktContext, runtime: str, flags: tuple[str, ...], expected: str) -> None:
    image = builder().file("hers", "x", owner=(77, 78)).symlink("link", "/hers")
    assert sh(rkt, "id", *flags, aci=image, runtime=runtime).stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--user=bob", 'invalid user "bob": not in /etc/passwd of the image'),
        ("--group=bobs", 'invalid group "bobs": not in /etc/group of the image'),
        ("--user=/none", 'failed to configure user "/none": no such file or directory'),
        ("--group=/none", 'failed to configure group "/none": no such file or directory'),
        ("--user=99999999999", 'invalid user "99999999999"'),
        ("--user=-1", 'invalid user "-1": not in /etc/passwd of the image'),
    ],
)
def test_users_that_are_not_there(rkt: RktContext, flag: str, text: str) -> None:
    result = sh(rkt, "id", flag, status=254)
    assert said(result)[0] == f'rkt: app "app": {text}'


# Event handlers


@RUNTIMES
def test_handlers(rkt: RktContext, runtime: str) -> None:
    def handler(name: str) -> dict[str, Any]:
        script = f'umask 0; echo "{name} $(id -u) $(pwd) $AC_APP_NAME $FOO $(hostname)" >>/v/order'
        return {"name": name, "exec": ["/bin/sh", "-c", script]}

    image = builder(
        eventHandlers=[handler("post-stop"), handler("pre-start")], workingDirectory="/usr",
        environment=[{"name": "FOO", "value": "bar baz"}],
    )  # fmt: skip
    os.mkdir(f"{rkt.files}/v", 0o777)
    os.chmod(f"{rkt.files}/v", 0o777)
    result = sh(
        rkt, 'cat /v/order; echo "main $(id -u)" >>/v/order; exit 5', "--user=alice",
        "--mount=volume=v,target=/v", aci=image, runtime=runtime, status=5,
        pod=(f"--volume=v,kind=host,source={rkt.files}/v", "--hostname=box"),
    )  # fmt: skip
    assert result.stdout == "pre-start 0 /usr app bar baz box\n"
    with open(f"{rkt.files}/v/order") as file:
        assert file.read().splitlines() == [
            "pre-start 0 /usr app bar baz box", "main 1000", "post-stop 0 /usr app bar baz box",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "command", "status", "text"),
    [
        ("pre-start", ["/nosuch"], 254, ('app "app": pre-start handler: error looking up '
         '"/nosuch": no such file or directory')),
        ("post-stop", ["/etc/orphan"], 254, ('app "app": post-stop handler: "/etc/orphan": its '
         'interpreter "/bin/nosuch" is not in the image')),
        ("pre-start", ["/bin/sh", "-c", "exit 9"], 9, ('app "app" pre-start handler exited with '
         "status 9")),
        ("pre-start", ["/bin/sh", "-c", "kill -9 $$"], 137, ('app "app" pre-start handler was '
         "killed by SIGKILL")),
        ("post-stop", ["/bin/sh", "-c", "exit 9"], 0, ('app "app": post-stop handler exited with '
         "status 9")),
        ("pre-start", ["/etc/script"], 1, ('app "app" pre-start handler could not be started: '
         'cannot execute "/etc/script": exec format error')),
    ],
)  # fmt: skip
def test_handlers_that_fail(
    rkt: RktContext, name: str, command: list[str], status: int, text: str
) -> None:
    image = builder(eventHandlers=[{"name": name, "exec": command}])
    image.file("etc/script", "no interpreter\n", mode=0o755)
    image.file("etc/orphan", "#!/bin/nosuch\n", mode=0o755)
    result = sh(rkt, "echo ran", aci=image, status=status)
    assert said(result)[-1] == f"rkt: {text}"
    assert result.stdout == ("ran\n" if status == 0 else "")


# The locale of the caller


def test_what_python_adds_to_the_environment_is_not_inherited(rkt: RktContext) -> None:
    path = builder().build(rkt.files).path
    for env, wanted in (({}, ""), ({"LC_CTYPE": "C.UTF-8"}, "LC_CTYPE=C.UTF-8\n")):
        words = ("--inherit-env", path, "--", "env | grep ^LC_; true")
        assert rkt.rkt(OPEN, "run", *words, env={"LANG": "C", **env}).stdout == wanted


def test_text_is_utf8_whatever_the_locale(rkt: RktContext) -> None:
    name = "de_DE.ISO-8859-1"
    made = rkt.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", f"{rkt.files}/{name}"])
    if made.status != 0:
        pytest.skip(f"no such locale can be made: {made.stderr}")
    rkt.env.update(LOCPATH=rkt.files, LC_ALL=name, TEXT="für 3 €")
    path = builder().build(rkt.files).path
    flags = ("--environment=A=für 3 €", "--user-annotation=a=für 3 €")
    rkt.rkt(OPEN, "fetch", path)
    result = rkt.rkt(
        OPEN, "run", "--inherit-env", path, *flags, "--", 'echo "$TEXT, $A, $1"', "sh", "für 3 €"
    )
    assert result.stdout == "für 3 €, für 3 €, für 3 €\n"
    (pod,) = json.loads(rkt.rkt("list", "--format=json").stdout)
    assert pod["apps"][0]["user_annotations"] == {"a": "für 3 €"}
    assert '"für 3 €"' in rkt.rkt("cat-manifest", pod["name"]).stdout
    assert rkt.rkt("status", "für 3 €", status=254).stderr == (
        'rkt: problem retrieving pod: no matches found for "für 3 €"\n'
    )


# The program


@RUNTIMES
def test_a_program_along_the_path_of_the_app(rkt: RktContext, runtime: str) -> None:
    image = builder(environment=[{"name": "PATH", "value": "/own:relative:/bin"}])
    image.directory("own").directory("usr/relative")
    image.script("own/first", "echo own $0").script("usr/relative/second", "echo relative $0")
    path = image.build(rkt.files).path
    for program, directory, expected in (
        ("first", "/", "own /own/first\n"),
        ("second", "/usr", "relative /usr/relative/second\n"),
        ("../own/first", "/usr", "own /usr/../own/first\n"),
    ):
        flags = (f"--exec={program}", f"--working-dir={directory}")
        env = {"RKT_OCI_RUNTIME": runtime}
        assert rkt.rkt(OPEN, "run", path, *flags, env=env).stdout == expected


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nosuch", f'error looking up "nosuch": not found along PATH={PATH}'),
        ("/no/such", 'error looking up "/no/such": no such file or directory'),
        ("/etc", 'error looking up "/etc": is a directory'),
        ("/etc/passwd", 'error looking up "/etc/passwd": permission denied (not executable)'),
        ("/pipe", 'error looking up "/pipe": not a regular file'),
        ("/dangling", 'error looking up "/dangling": no such file or directory'),
        ("/script", '"/script": its interpreter "/usr/bin/python9" is not in the image'),
        ("/dynamic", '"/dynamic": its interpreter "/lib/ld-nosuch.so.1" is not in the image'),
        ("/nested", '"/nested": its interpreter "/lib/ld-nosuch.so.1" is not in the image'),
        ("/dos", r'"/dos": its interpreter "/bin/sh\r" is not in the image'),
    ],
)
def test_a_program_that_cannot_be_run(rkt: RktContext, program: str, text: str) -> None:
    image = builder().file("script", "#!/usr/bin/python9 -x\n", mode=0o755)
    image.file("dynamic", dynamic(), mode=0o755).symlink("dangling", "/no/such")
    image.file("nested", "#!\t/dynamic -x\n", mode=0o755)
    image.file("dos", "#!/bin/sh\r\nexit\r\n", mode=0o755)
    pipe = image._member("pipe", b"6", 0o755, (0, 0))
    path = image.add(pipe).build(rkt.files).path
    result = rkt.rkt(OPEN, "run", path, f"--exec={program}", status=254)
    assert said(result)[0] == f'rkt: app "app": {text}'


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_program_that_the_kernel_refuses(rkt: RktContext, runtime: str) -> None:
    path = builder().file("script", "echo no interpreter\n", mode=0o755).build(rkt.files).path
    rkt.env["RKT_OCI_RUNTIME"] = runtime
    result = rkt.rkt(OPEN, "run", path, "--exec=/script", status=1)
    assert said(result)[-1] == (
        'rkt: app "app" could not be started: cannot execute "/script": exec format error'
    )


def dynamic() -> bytes:
    """Make the head of a program that wants an interpreter."""
    name = b"/lib/ld-nosuch.so.1\0"
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += (2).to_bytes(2, "little") + (62).to_bytes(2, "little") + (1).to_bytes(4, "little")
    head += bytes(8) + (64).to_bytes(8, "little") + bytes(8) + bytes(4)
    head += b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 64, 0, 0))
    table = (3).to_bytes(4, "little") + (4).to_bytes(4, "little") + (120).to_bytes(8, "little")
    table += bytes(16) + len(name).to_bytes(8, "little") * 2 + (1).to_bytes(8, "little")
    return head + table + name
