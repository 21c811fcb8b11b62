"""Modules in one file: found and loaded in two thirds of the time that they take one by one.

    python packed.py OUT ROOT SHOWN [--current] MODULE.py...

writes the compiled form of modules below a directory, for this interpreter.  SHOWN is what
tracebacks call the directory.  With --current a module counts only as long as its source is what
it was, as with Python's own compiled files.  A program that finds the file by `install` imports
from it what is in there, and anything else as ever.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import NamedTuple

    class Entry(NamedTuple):
        """Where a module's code is, its source below the root; time and size of that, 0: any."""

        at: int
        size: int
        path: str
        time: int
        length: int


_HEAD = 16  # bytes: the interpreter's mark, and the size of the index


class Packed:
    """Finds and loads the modules of a file (importlib.abc.MetaPathFinder, Loader)."""

    def __init__(
        self, path: str, root: str, index: dict[str, Entry], base: int, identity: tuple[int, int]
    ) -> None:
        self._path = path
        self._root = root
        self._index = index
        self._base = base
        self._identity = identity

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give what the import system wants to know about a module, None if it is not in here."""
        del path, target
        entry = self._index.get(name)
        if entry is None:
            return None
        _, _, below, time, length = entry
        source = f"{self._root}/{below}"
        if time and _stamp(source) != (time, length):
            return None
        is_package = below.endswith("/__init__.py")
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [source[: -len("/__init__.py")]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module's code."""
        exec(self._code(self._index[module.__name__]), module.__dict__)

    def _code(self, entry: Entry) -> CodeType:
        at, size, below, *_ = entry
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        else:
            try:
                if _identity(fd) == self._identity:
                    code: CodeType = marshal.loads(os.pread(fd, size, self._base + at))
                    return code
            finally:
                os.close(fd)
        # Another version was installed while this process runs: its file has another order.
        source = f"{self._root}/{below}"
        with open(source, "rb") as file:
            return compile(file.read(), source, "exec", dont_inherit=True)


def install(path: str, root: str) -> None:
    """Import from a file from now on; `root` is where the sources are.

    A file that is missing or of another interpreter has no part in it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        head = os.read(fd, _HEAD)
        if not head.startswith(_mark()):
            return
        size = int.from_bytes(head[8:], "little")
        index = marshal.loads(os.read(fd, size))
        identity = _identity(fd)
    finally:
        os.close(fd)
    sys.meta_path.insert(0, Packed(path, root, index, _HEAD + size, identity))


def pack(root: str, names: Sequence[str], *, shown: str, current: bool) -> bytes:
    """Give the file for modules below a directory, named by their relative paths."""
    index, parts, at = {}, [], 0
    for name in sorted(names):
        source = f"{root}/{name}"
        with open(source, "rb") as file:
            code = compile(file.read(), f"{shown}/{name}", "exec", dont_inherit=True, optimize=0)
        data = marshal.dumps(code)
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        stamp = _stamp(source) if current else (0, 0)
        index[module] = (at, len(data), name, *stamp)
        parts.append(data)
        at += len(data)
    head = marshal.dumps(index)
    return b"".join((_mark(), len(head).to_bytes(8, "little"), head, *parts))


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_ino, found.st_mtime_ns


def _mark() -> bytes:
    return MAGIC_NUMBER.ljust(8, b"\0")


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return int(found.st_mtime), found.st_size


def main(argv: list[str]) -> int:
    """Write a file."""
    out, root, shown, *names = argv
    current = names[:1] == ["--current"]
    data = pack(root, names[1:] if current else names, shown=shown, current=current)
    with open(f"{out}.tmp", "wb") as file:
        file.write(data)
    os.rename(f"{out}.tmp", out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
