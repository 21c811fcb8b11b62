"""Build the image of a flavour of stage1.

    python -m rkt.stage1.build OUT.aci [--flavor oci] [--python PATH] [--catatonit PATH] [--cc CC]

The same sources, interpreter, compiler and catatonit give the same bytes.  `OUT.aci.id` gets the
image key.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile

import rkt
from rkt import const, log
from rkt.errors import NotFound, RktError, UsageError, describe
from rkt.linux import atomic, proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# By annotation: the program, whose name its module may look at, and that module.
ENTRYPOINTS = {
    "run": ("run", "run"),
    "enter": ("enter", "enter"),
    "gc": ("gc", "gc"),
    "stop": ("stop", "stop"),
    "attach": ("attach", "attach"),
    **{f"app/{name}": (f"app-{name}", "appctl") for name in ("add", "rm", "start", "stop")},
}


class Flavor:
    """What sets the image of one flavour apart from the others."""

    def __init__(
        self, name: str, interface: int, entrypoints: dict[str, tuple[str, str]], *,
        programs: dict[str, str] | None = None, without: tuple[str, ...],
        annotations: tuple[str, ...] = (), listen: bool = True,
    ) -> None:  # fmt: skip
        self.name = name
        self.interface = interface
        self.entrypoints = entrypoints
        self.programs = programs or {}
        """Others than the entrypoints, with their modules."""
        self.without = without
        """Modules and folders of rkt.stage1 that it has no use for."""
        self.annotations = annotations
        """Further ones with the value `true`."""
        self.listen = listen
        """Whether apps are told of their sockets by a program."""


_FLY = ("flavors/fly", "flavors/flymounts")
_NSPAWN = ("flavors/nspawn", "flavors/machine", "flavors/unit", "flavors/unitproperties")
FLAVORS = {
    "oci": Flavor(const.STAGE1_OCI_NAME, 6, ENTRYPOINTS,
                  without=("build", "flavors")),
    "fly": Flavor(const.STAGE1_FLY_NAME, 5, {
        **{name: ENTRYPOINTS[name] for name in ("enter", "gc", "stop", "attach")},
        "run": ("run", "flavors.fly"),
    }, programs={"fly": "flavors.flyexec"}, without=("build", *_NSPAWN),
        annotations=(const.STAGE1_HOST_MOUNTS,), listen=False),
    "nspawn": Flavor(const.STAGE1_NSPAWN_NAME, 6, {
        **{name: ENTRYPOINTS[name] for name in ("enter", "gc", "stop", "attach")},
        "run": ("run", "flavors.nspawn"),
    }, programs={"unit": "flavors.unit"}, without=("build", *_FLY)),
}  # fmt: skip
_LIB = "usr/lib/rkt"
_PACKED = "modules"
"""Below the library: all modules in the form in which they are loaded; see `rkt.packed`."""
_FIRST = ("__init__", "packed")  # loaded before anything is from there
_MODULES = (*_FIRST, "errors", "const", "log", "quickjson")
_PACKAGES = {
    "linux": (
        "__init__",
        "atomic",
        "caps",
        "libc",
        "lock",
        "mounts",
        "proc",
        "regular",
        "selinux",
        "sig",
        "userns",
    ),
    "network": (),
    "stage1": (),
}
_DIRECTORIES = (
    "dev", "dev/shm", "etc", "opt", "opt/stage2", "proc", "rkt", "rkt/env",
    "rkt/status", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/libexec", _LIB, "var",
)  # fmt: skip
# -B: it may run from the tree store, which nobody may write to.  -X utf8: as rkt itself.
# A threshold that start-up does not reach: the collector would cost 2 ms and find nothing.
_LAUNCHER = """\
#!{python} -ISBXutf8
import gc, sys; gc.set_threshold(100_000); \
lib = __file__.rpartition("/")[0] + "/{lib}"; sys.path.insert(0, lib); \
from rkt import packed; packed.install(lib + "/{packed}", lib); \
import rkt.stage1.{module} as program; from rkt.stage1 import launch; \
launch.leave(program.main(sys.argv))
"""
_OS_RELEASE = (
    'NAME="rkt stage1-{flavor}"\nID=rkt\nVERSION="{v}"\nVERSION_ID={v}\nPRETTY_NAME="rkt {v}"\n'
)
# No path and no time of the build gets into the program.
_CFLAGS = ("-std=c11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Wl,--build-id=none")
_ARCHES = {"x86_64": "amd64", "i686": "i386", "i386": "i386"}
# Runs in the target interpreter.
_COMPILE = """\
import importlib._bootstrap_external as b, importlib.util as u, sys
for source, name in zip(sys.argv[1::2], sys.argv[2::2]):
    data = open(source, "rb").read()
    code = compile(data, name, "exec", dont_inherit=True, optimize=0)
    out = b._code_to_hash_pyc(code, u.source_hash(data), False)
    sys.stdout.buffer.write(len(out).to_bytes(8, "little") + out)
print(sys.implementation.cache_tag, end="", file=sys.stderr)
"""


def main(argv: list[str]) -> int:
    """Build the image named on the command line."""
    try:
        out, given = _arguments(argv)
        log.plain(build(
            out, python=given["python"], catatonit=given["catatonit"], cc=given["cc"],
            flavor=given["flavor"],
        ))  # fmt: skip
    except RktError as err:
        log.info(describe(err))
        return err.exit_code
    return 0


def _arguments(argv: list[str]) -> tuple[str, dict[str, str]]:
    values = {
        "--python": "/usr/bin/python3", "--catatonit": "/usr/bin/catatonit", "--cc": "musl-gcc",
        "--flavor": "oci",
    }  # fmt: skip
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, given, value = word.partition("=")
        if name in values:
            values[name] = value if given else next(words, "")
        else:
            rest.append(word)
    if len(rest) != 1 or rest[0].startswith("-") or values["--flavor"] not in FLAVORS:
        raise UsageError(
            f"usage: rkt.stage1.build OUT.aci [--flavor {'|'.join(FLAVORS)}] [--python PATH] "
            "[--catatonit PATH] [--cc CC]"
        )
    return rest[0], {name[2:]: value for name, value in values.items()}


def build(out: str, *, python: str, catatonit: str, cc: str, flavor: str = "oci") -> str:
    """Write the image and its key beside it; gives the key."""
    if not os.path.isabs(python):
        raise UsageError(f'"{python}": the interpreter must be an absolute path')
    data = archive(FLAVORS[flavor], flavor, python=python, catatonit=catatonit, cc=cc)
    key = f"sha512-{hashlib.sha512(data).hexdigest()[:64]}"
    atomic.write_file(out, data)
    atomic.write_file(f"{out}.id", f"{key}\n".encode())
    return key


def archive(flavor: Flavor, short: str, *, python: str, catatonit: str, cc: str) -> bytes:
    """Give the bytes of the image's tar."""
    entries: dict[str, tuple[int, bytes | None]] = {"rootfs": (0o755, None)}
    entries["manifest"] = (0o644, manifest(flavor))
    for name in _DIRECTORIES:
        entries[f"rootfs/{name}"] = (0o755, None)
    for program, module in (*flavor.entrypoints.values(), *flavor.programs.items()):
        text = _LAUNCHER.format(python=python, lib=_LIB, packed=_PACKED, module=module)
        entries[f"rootfs/{program}"] = (0o755, text.encode())
    entries["rootfs/etc/os-release"] = (
        0o644,
        _OS_RELEASE.format(flavor=short, v=rkt.__version__).encode(),
    )
    # Not readable for who it runs as: the kernel then lets nobody without CAP_SYS_PTRACE look into
    # the process, not even an app that takes the same user ID.
    entries["rootfs/usr/bin/catatonit"] = (0o711, _static_program(catatonit))
    if flavor.listen:
        entries["rootfs/usr/libexec/listen"] = (0o755, _compiled(cc, "listen.c"))
    for name, data in _library(python, flavor.without).items():
        for at, letter in enumerate(name):
            if letter == "/":
                entries.setdefault(f"rootfs/{_LIB}/{name[:at]}", (0o755, None))
        entries[f"rootfs/{_LIB}/{name}"] = (0o644, data)
    return _tar(entries)


def manifest(flavor: Flavor) -> bytes:
    """Give the image manifest."""
    machine = os.uname().machine
    annotations = {
        f"{const.STAGE1_PREFIX}{name}": f"/{program}"
        for name, (program, _) in flavor.entrypoints.items()
    }
    annotations[const.STAGE1_INTERFACE] = str(flavor.interface)
    annotations[const.STAGE1_PRIVATE_MOUNTS] = "true"
    annotations[const.STAGE1_READY] = "true"
    annotations.update(dict.fromkeys(flavor.annotations, "true"))
    labels = {"version": rkt.__version__, "os": "linux", "arch": _ARCHES.get(machine, machine)}
    document = {
        "acKind": "ImageManifest",
        "acVersion": const.APPC_VERSION,
        "name": flavor.name,
        "labels": [{"name": name, "value": value} for name, value in labels.items()],
        "annotations": [{"name": name, "value": value} for name, value in annotations.items()],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _static_program(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as err:
        raise NotFound(
            f'"{path}": {err.strerror}', hint="install catatonit, or name it with --catatonit"
        ) from err
    if data[:4] != b"\x7fELF" or b"/ld-linux" in data[:4096] or b"/ld-musl" in data[:4096]:
        raise RktError(f'"{path}" is not a statically linked program')
    return data


def _compiled(cc: str, source: str) -> bytes:
    """Compile a static program of one file."""
    compiler = proc.find_program(cc)
    if compiler is None:
        raise NotFound(f'"{cc}": no such program', hint="install musl-tools, or name another C "
                       "compiler that links statically with --cc")  # fmt: skip
    path = f"{os.path.dirname(os.path.abspath(__file__))}/{source}"
    with tempfile.TemporaryDirectory(prefix="rkt-build-") as directory:
        out = f"{directory}/program"
        proc.run([compiler, *_CFLAGS, "-o", out, path])
        return _static_program(out)


def _library(python: str, without: tuple[str, ...]) -> dict[str, bytes]:
    """Give the Python modules with their compiled forms, by path below the library directory."""
    source_root = os.path.dirname(os.path.abspath(rkt.__file__))
    names = [f"{module}.py" for module in _MODULES]
    for package, modules in _PACKAGES.items():
        names += [f"{package}/{module}.py" for module in modules]
        if not modules:
            names += _sources(source_root, package)
    left_out = tuple(f"stage1/{name}{end}" for name in without for end in (".py", "/"))
    names = sorted(f"rkt/{name}" for name in names if not name.startswith(left_out))
    above = os.path.dirname(source_root)
    files = {}
    for name in names:
        with open(f"{above}/{name}", "rb") as file:
            files[name] = file.read()
    files |= _compiled_alone(python, above, [f"rkt/{name}.py" for name in _FIRST])
    with tempfile.TemporaryDirectory(prefix="rkt-build-") as directory:
        out = f"{directory}/{_PACKED}"
        _target(python, [f"{source_root}/packed.py", out, above, f"/{_LIB}", *names])
        with open(out, "rb") as file:
            files[_PACKED] = file.read()
    return files


def _compiled_alone(python: str, root: str, names: list[str]) -> dict[str, bytes]:
    words = [word for name in names for word in (f"{root}/{name}", f"/{_LIB}/{name}")]
    done = _target(python, ["-c", _COMPILE, *words])
    tag, stream = done.stderr.decode(), io.BytesIO(done.stdout)
    files = {}
    for name in names:
        head, _, base = name.rpartition("/")
        compiled = stream.read(int.from_bytes(stream.read(8), "little"))
        files[f"{head}/__pycache__/{base[:-3]}.{tag}.pyc"] = compiled
    return files


def _target(python: str, argv: list[str]) -> proc.Finished:
    """Run the interpreter of the image; hash seed and order are fixed so that results are too."""
    env = {**proc.BASE_ENV, "PYTHONHASHSEED": "0"}
    return proc.run([python, "-sSB", *argv], env=env, cwd="/")


def _sources(root: str, package: str) -> Iterator[str]:
    for folder, _, files in os.walk(f"{root}/{package}"):
        below = os.path.relpath(folder, root)
        yield from (f"{below}/{name}" for name in files if name.endswith(".py"))


def _tar(entries: dict[str, tuple[int, bytes | None]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(entries):
            mode, data = entries[name]
            info = tarfile.TarInfo(name)
            info.mode = mode
            info.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
            info.uname = info.gname = "root"
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
