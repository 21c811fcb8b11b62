"""Compiled system call filters, kept for the next container with the same rules.

libseccomp needs 7 ms to compile a profile, a third of what it takes to start a container.  crun
leaves the program that it loaded in its state directory, and takes a ready one from an annotation.
The rules stay in the configuration too: a crun that does not know the annotation compiles them.
"""

from __future__ import annotations

import binascii
import os
import stat

from rkt import log, quickjson
from rkt.linux import atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.host.runtime import Runtime

DIRECTORY = "/run/rkt/filters"
_ANNOTATION = "run.oci.seccomp_bpf_data"
_LIBRARIES = "/etc/ld.so.cache"  # written anew whenever a library is installed, libseccomp too
_MOST = 64
_OWNER = 0
_LIMIT = 1 << 20
_INSTRUCTION = 8  # bytes


def insert(config: dict[str, object], runtime: Runtime, directory: str = DIRECTORY) -> bytes:
    """Put the compiled filter of a configuration into it.

    Gives what to tell `keep` if there was none to be had; b"" if nothing is to be kept.
    """
    config.pop("annotations", None)  # of an earlier start
    linux = config.get("linux")
    rules = linux.get("seccomp") if isinstance(linux, dict) else None
    if rules is None or runtime.name != "crun":
        return b""
    try:
        key = _key(rules, runtime.path)
        program = _read(key, directory)
    except OSError as err:  # also where there is no cache of libraries: nothing is kept
        log.debug(f"no compiled filters: {err}")
        return b""
    if program is None:
        return key
    config["annotations"] = {_ANNOTATION: binascii.b2a_base64(program, newline=False).decode()}
    return b""


def keep(key: bytes, runtime: Runtime, ident: str, directory: str = DIRECTORY) -> None:
    """Keep the filter of a container that crun has just started."""
    if not key:
        return
    try:
        with open(f"{runtime.state}/{ident}/seccomp.bpf", "rb") as file:
            program = file.read(_LIMIT)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        usable = program and len(program) % _INSTRUCTION == 0 and len(program) < _LIMIT
        if usable and _is_ours(directory) and len(os.listdir(directory)) < _MOST:
            atomic.write_file(_path(key, directory), key + program, mode=0o600, durable=False)
    except OSError as err:  # the next one compiles it again
        log.debug(f"cannot keep a compiled filter: {err}")


def _key(rules: object, program: str) -> bytes:
    """Give all that a filter depends on, as a line."""
    system = os.uname()
    files = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in map(os.stat, (program, _LIBRARIES))]
    return quickjson.dumps([files, system.release, system.version, rules]).encode() + b"\n"


def _path(key: bytes, directory: str) -> str:
    return f"{directory}/{binascii.crc32(key):08x}"


def _read(key: bytes, directory: str) -> bytes | None:
    """Find a filter; what was kept for another key under the same name is none."""
    try:
        with open(_path(key, directory), "rb") as file:
            data = file.read(_LIMIT + len(key))
    except FileNotFoundError:
        return None
    if not data.startswith(key) or not _is_ours(directory):
        return None
    return data[len(key) :]


def _is_ours(directory: str) -> bool:
    """Say whether nobody but root can have put a file there."""
    info = os.stat(directory, follow_symlinks=False)
    return stat.S_ISDIR(info.st_mode) and info.st_uid == _OWNER and not info.st_mode & 0o022
