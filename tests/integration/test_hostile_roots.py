"""Images whose files are traps: nothing hangs, nothing of the host is read or changed."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import Result, RktContext

pytestmark = needs("root", "rkt", "overlay", "oci-runtime", "busybox")

OPEN = "--insecure-options=image"
WAYS = pytest.mark.parametrize(
    "way", ["crun", "runc", "crun --no-overlay", "runc --no-overlay", "runc --private-users", "fly"]
)


class Trap:
    """A busybox image of which some files are replaced, and a directory of the host to lead to."""

    def __init__(self, rkt: RktContext, script: str = "echo ran") -> None:
        self.rkt = rkt
        self.outside = f"{rkt.files}/outside"
        os.makedirs(f"{self.outside}/dir")
        for name in ("file", "passwd", "group"):
            with open(f"{self.outside}/{name}", "w") as file:
                file.write("spy:x:4711:4711::/:/bin/sh\n")
        self.before = self._seen()
        self.builder = AciBuilder("example.com/trap", exec=["/bin/sh", "-c", script]).busybox()

    def _seen(self) -> list[tuple[str, int, int, int, bytes]]:
        found = []
        for directory, dirs, files in os.walk(self.outside):
            for path in (f"{directory}/{name}" for name in sorted(dirs + files)):
                info = os.lstat(path)
                data = b""
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        data = file.read()
                found.append((path, info.st_mode, info.st_uid, info.st_nlink, data))
        return found

    def without(self, name: str) -> None:
        """Leave a file or a directory with all below it out."""
        whole = f"rootfs/{name}"
        self.builder.members = [
            m for m in self.builder.members
            if m[0].name != whole and not m[0].name.startswith(f"{whole}/")
        ]  # fmt: skip

    def put(self, name: str, kind: str) -> None:
        """Put something else in the place of a file: a pipe, a device, a link."""
        self.without(name)
        if kind.startswith("->"):
            self.builder.symlink(name, kind[2:].replace("OUTSIDE", self.outside))
            return
        if kind == "dir":
            self.builder.directory(name)
            return
        if kind == "huge":
            self.builder.file(name, b"a:x:1:1::/:/\n" * 500_000)
            return
        types = {"fifo": tarfile.FIFOTYPE, "zero": tarfile.CHRTYPE, "loop": tarfile.BLKTYPE}
        member = self.builder._member(name, types.get(kind, tarfile.REGTYPE), 0o644, (0, 0))
        member.devmajor, member.devminor = (1, 5) if kind == "zero" else (7, 0)
        self.builder.add(member)

    def run(self, way: str, *flags: str) -> Result:
        """Run it; the host must be as it was."""
        runtime, _, flag = way.partition(" ")
        extra = [flag] if flag else []
        if runtime == "fly":
            if not os.path.exists(f"{self.rkt.local}/stage1.d"):
                self.rkt.use_stage1("fly")
            runtime = "runc"
        path = self.builder.build(self.rkt.files).path
        result = self.rkt.rkt(
            OPEN, "run", *extra, path, *flags, env={"RKT_OCI_RUNTIME": runtime}, status=None,
            timeout=30,
        )  # fmt: skip
        assert self._seen() == self.before
        assert "internal error" not in result.stderr
        assert "Traceback" not in result.stderr
        return result


PLACES = {
    "fifo": ("run", "tmp", "dev", "etc/hosts", "etc/resolv.conf", "etc/mtab"),
    "zero": ("sys", "run", "tmp", "etc/hosts", "etc/resolv.conf", "etc/hostname"),
    "->OUTSIDE/new": ("dev", "proc", "sys", "etc/hostname", "etc/mtab"),
    "->OUTSIDE/file": ("run", "etc/resolv.conf", "etc/hosts"),
    "->/proc/self/rootOUTSIDE/new": ("dev", "run", "etc/resolv.conf", "etc/mtab"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
@WAYS
def test_what_pods_need_is_something_else(rkt: RktContext, way: str, kind: str) -> None:
    trap = Trap(rkt)
    for place in PLACES[kind]:
        trap.put(place, kind)
    result = trap.run(way, "--user=alice", "--group=staff")
    assert (result.status, result.stdout) == (0, "ran\n"), result.stderr


@WAYS
def test_etc_is_a_pipe(rkt: RktContext, way: str) -> None:
    trap = Trap(rkt)
    trap.put("etc", "fifo")
    assert trap.run(way).stdout == "ran\n"
    result = trap.run(way, "--user=alice")
    assert 'app "trap": invalid user "alice": the image has no /etc/passwd' in result.stderr
    assert result.status == 254


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("fifo", 'invalid group "spy": the image has no /etc/group'),
        ("zero", 'invalid group "spy": the image has no /etc/group'),
        ("dir", 'invalid group "spy": the image has no /etc/group'),
        ("->OUTSIDE/group", 'invalid group "spy": the image has no /etc/group'),
        ("->/proc/self/rootOUTSIDE/group", 'invalid group "spy": the image has no /etc/group'),
        ("->.", 'invalid group "spy": the image has no /etc/group'),
        ("huge", 'failed to configure group "spy": "etc/group" is larger than 4194304 bytes'),
    ],
)
def test_groups_are_no_way_out(rkt: RktContext, kind: str, text: str) -> None:
    trap = Trap(rkt)
    trap.put("etc/group", kind)
    result = trap.run("runc", "--group=spy")
    assert result.status == 254
    assert result.stderr.splitlines()[-1] == f'rkt: app "trap": {text}'


@pytest.mark.parametrize("kind", ["dir", "->.", "->/bin"])
def test_a_directory_where_a_file_is_mounted(rkt: RktContext, kind: str) -> None:
    trap = Trap(rkt)
    trap.put("etc/hostname", kind)
    result = trap.run("runc")
    assert result.stderr.splitlines()[-1] == (
        'rkt: app "trap": cannot mount a file at "/etc/hostname": the app has a directory there'
    )
    assert result.status == 254


@pytest.mark.parametrize("kind", ["->.", "->/proc/1/root", "->/proc/self/fd/3"])
def test_where_fly_puts_a_tmp(rkt: RktContext, kind: str) -> None:
    trap = Trap(rkt)
    trap.put("tmp", kind)
    result = trap.run("fly")
    assert result.status == 254
    assert 'rkt: app "trap": cannot m' in result.stderr
    assert '"/tmp"' in result.stderr


# The working directory and the program

OUT = {
    "/proc/1/root": "/proc belongs to the pod", "/proc/1/cwd": "/proc belongs to the pod",
    "/proc/self/fd/7": "/proc belongs to the pod", "/link": "/proc belongs to the pod",
    "/volume/link": "/proc belongs to the pod", "/out": "no such directory",
    "/missing": "no such directory", "/bin/sh": "no such directory",
    "/volume/missing": "no such directory",
}  # fmt: skip


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("directory", OUT)
def test_working_directories_that_lead_out(rkt: RktContext, runtime: str, directory: str) -> None:
    trap = Trap(rkt, "ls; echo ran >new")
    trap.put("link", "->/proc/1/root")
    trap.put("out", "->OUTSIDE")
    os.mkdir(f"{rkt.files}/volume")
    os.symlink("/link", f"{rkt.files}/volume/link")
    result = trap.run(
        runtime, f"--volume=v,kind=host,source={rkt.files}/volume",
        "--mount=volume=v,target=/volume", f"--working-dir={directory}",
    )  # fmt: skip
    assert result.status == 254
    text = f'rkt: app "trap": working directory "{directory}": {OUT[directory]}'
    assert result.stderr.splitlines()[-1] == text
    assert os.listdir(f"{rkt.files}/volume") == ["link"]


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("users", ["", "--private-users"])
def test_nothing_is_behind_the_first_process(rkt: RktContext, runtime: str, users: str) -> None:
    """A link that comes with a new volume is seen by the runtime alone, which may follow it."""
    trap = Trap(rkt, "ls -a; ls ..; ls ../..")
    trap.put("volume/link", "->/proc/1/root")
    trap.builder.manifest["annotations"] = [
        {"name": "appc.io/docker/repository", "value": "library/trap"}
    ]
    app = trap.builder.manifest["app"]
    assert isinstance(app, dict)
    app["mountPoints"] = [{"name": "v", "path": "/volume"}]
    result = trap.run(f"{runtime} {users}".strip(), "--working-dir=/volume/link")
    if result.status == 254:
        assert f'rkt: app "trap": {runtime}: ' in result.stderr
        assert result.stdout == ""
    else:
        assert set(result.stdout.split()) == {".", "..", "catatonit"}


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nosuch", 'error looking up "nosuch": not found along PATH='),
        ("/no/such", 'error looking up "/no/such": no such file or directory'),
        ("/etc", 'error looking up "/etc": is a directory'),
        ("/etc/passwd", 'error looking up "/etc/passwd": permission denied (not executable)'),
        ("/link/usr", 'error looking up "/link/usr": no such file or directory'),
        ("/proc/self/exe", 'error looking up "/proc/self/exe": no such file or directory'),
        ("/volume/pipe", 'error looking up "/volume/pipe": not a regular file'),
        ("/volume/data", 'error looking up "/volume/data": permission denied (not executable)'),
        ("/volume/script", '"/volume/script": its interpreter "/no/such" is not in the image'),
        ("/volume/out", 'error looking up "/volume/out": no such file or directory'),
        ("/volume/loop", 'error looking up "/volume/loop": no such file or directory'),
    ],
)
def test_programs_beside_a_volume(rkt: RktContext, program: str, text: str) -> None:
    """What cannot be run is told as well as without a volume, whatever the volume holds."""
    trap = Trap(rkt)
    trap.put("link", "->/proc/1/root")
    volume = f"{rkt.files}/volume"
    os.mkdir(volume)
    os.mkfifo(f"{volume}/pipe", 0o755)
    for name, mode in (("data", 0o644), ("script", 0o755)):
        with open(f"{volume}/{name}", "w") as file:
            file.write("#!/no/such\n")
        os.chmod(f"{volume}/{name}", mode)
    os.symlink(f"{trap.outside}/file", f"{volume}/out")
    os.symlink("loop", f"{volume}/loop")
    result = trap.run(
        "runc", f"--volume=v,kind=host,source={volume}", "--mount=volume=v,target=/volume",
        f"--exec={program}",
    )  # fmt: skip
    assert result.status == 254
    assert result.stderr.splitlines()[-1].startswith(f'rkt: app "trap": {text}')


@pytest.mark.parametrize("way", ["crun", "runc", "fly"])
def test_names_in_an_image_do_not_steer_the_terminal(rkt: RktContext, way: str) -> None:
    """What rkt says of a file has no control characters; what apps write is theirs."""
    trap = Trap(rkt)
    odd = "a\x1b]0;owned\x07"
    trap.builder.file(f"bin/{odd}", b"\x7fELF of no use", mode=0o755).file(odd, "no directory")
    trap.builder.manifest["app"].update(  # type: ignore[attr-defined]
        exec=[f"/bin/{odd}"], mountPoints=[{"name": "v", "path": f"/{odd}"}]
    )
    result = trap.run(way, "--volume=v,kind=empty", "--restart=on-failure:1")
    said = [line for line in result.stderr.splitlines() if line.startswith("rkt: ")]
    assert not [line for line in said if not line.isprintable()]
    shown = r"a\x1b]0;owned\x07"
    assert f'rkt: warning: "/{shown}": a file of the image is replaced to mount there' in said
    assert f'"/bin/{shown}"' in said[-1]
    uuid = rkt.rkt("list", "--full", "--no-legend").stdout.split()[0]
    logged = rkt.rkt("logs", uuid).stderr.splitlines()
    notes = [line for line in logged if "it starts again" in line]
    assert [line for line in notes if shown in line and line.isprintable()] == notes
    assert notes or way == "fly"  # which does not try again what cannot be executed
