"""Configuration files: JSON objects with a kind and a version, in directories for their purpose.

Three layers (vendor, operator, user), each with the same sub-directories; what a later layer says
of a thing replaces what an earlier one said.  rkt v1.30.0, rkt/config/config.go.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import ConfigError, SchemaError, one_line
from rkt.schema import codec
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS: dict[str, tuple[str, ...]] = {
    "auth.d": ("auth", "dockerAuth"),
    "paths.d": ("paths",),
    "stage1.d": ("stage1",),
}
"""The kinds of file that each sub-directory may hold."""
VERSIONS = ("v1",)
_SECRET = ("auth.d",)
_MAX_SIZE = 1 << 20


class ConfigFile(Struct):
    """A file whose header was checked."""

    path: str
    kind: str
    version: str
    data: bytes


class _Header(Struct, rename={"kind": "rktKind", "version": "rktVersion"}):
    kind: str = ""
    version: str = ""


def load(layer: str, name: str) -> list[ConfigFile]:
    """Read the files of one sub-directory of a layer, in the order of their names.

    Only regular files whose name ends in `.json` count.  Raises ConfigError.
    """
    directory = os.path.join(layer, name)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise _failure(f'expected "{directory}" to be a directory') from None
    except OSError as err:
        raise _failure(f'cannot read "{directory}": {err.strerror}') from err
    found = []
    for entry in names:
        if entry.endswith(".json"):
            data = _read(f"{directory}/{entry}", is_secret=name in _SECRET)
            if data is not None:
                found.append(_check(f"{directory}/{entry}", directory, KINDS[name], data))
    return found


def parse_failure(file: ConfigFile, cause: str) -> ConfigError:
    """Make the error for a file whose content is wrong."""
    return _failure(f'failed to parse "{file.path}": {cause}')


def decode(file: ConfigFile, kind: type[codec.T]) -> codec.T:
    """Read the content of a file; raises ConfigError."""
    try:
        return codec.decode(file.data, kind, file.kind)
    except SchemaError as err:
        raise parse_failure(file, err.message.removeprefix(f"{file.kind}: ")) from None


def unique(layers: Sequence[str]) -> tuple[str, ...]:
    """Give the layers that are set, each once."""
    return tuple(dict.fromkeys(layer for layer in layers if layer))


def _failure(text: str) -> ConfigError:
    return ConfigError(f"cannot get configuration: {one_line(text)}")


def _read(path: str, *, is_secret: bool) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        log.warning(f'cannot read "{one_line(path)}": what it configures is not used')
        return None
    except OSError as err:
        if err.errno in (2, 40):  # ENOENT: gone meanwhile; ELOOP: a link
            return None
        raise _failure(f'cannot read "{path}": {err.strerror}') from err
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        if is_secret:
            warn_if_open(path, info)
        data = file.read(_MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise _failure(f'"{path}" is larger than {_MAX_SIZE} bytes')
    return data


def warn_if_open(path: str, info: os.stat_result) -> None:
    """Tell the user of a file with secrets that everybody can read."""
    if info.st_mode & 0o007:
        log.warning(
            f'"{one_line(path)}" holds credentials and others can read it; '
            f"run: chmod o= {one_line(path)}"
        )


def _check(path: str, directory: str, kinds: tuple[str, ...], data: bytes) -> ConfigFile:
    try:
        header = codec.decode(data, _Header, "header")
    except SchemaError as err:
        raise _failure(
            f'failed to parse "{path}": {err.message.removeprefix("header: ")}'
        ) from None
    if not header.kind:
        raise _failure(f'no rktKind specified in "{path}"')
    if not header.version:
        raise _failure(f'no rktVersion specified in "{path}"')
    if header.kind not in kinds:
        listed = ", ".join(f'"{kind}"' for kind in kinds)
        if all(header.kind not in known for known in KINDS.values()):
            raise _failure(
                f'no parser available for configuration of kind "{header.kind}" in "{path}"'
            )
        raise _failure(
            f'the configuration directory "{directory}" expects to have configuration files of '
            f'kinds {listed}, but "{path}" has kind of "{header.kind}"'
        )
    if header.version not in VERSIONS:
        raise _failure(
            f'no parser available for configuration of kind "{header.kind}" and version '
            f'"{header.version}" in "{path}"'
        )
    return ConfigFile(path, header.kind, header.version, data)
