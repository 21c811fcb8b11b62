"""Modules in one file, as an interpreter of its own imports them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rkt import packed

if TYPE_CHECKING:
    from pathlib import Path

PACKED = packed.__file__
FILES = {
    "tool/__init__.py": "where = __file__\n",
    "tool/part.py": "from tool import where\nimport tool.sub.leaf\nanswer = 'packed'\n",
    "tool/sub/__init__.py": "",
    "tool/sub/leaf.py": "def fail():\n    raise ValueError('leaf')\n",
}


class Library:
    """A directory of modules and the file that they are packed in."""

    def __init__(self, top: str) -> None:
        self.root = f"{top}/lib"
        self.out = f"{top}/modules"
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = f"{self.root}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def pack(self, *flags: str) -> None:
        argv = [sys.executable, PACKED, self.out, self.root, "/shown", *flags, *FILES]
        subprocess.run(argv, check=True)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run a program that finds the file."""
        before = (
            f"import sys; sys.path[:0] = [{self.root!r}, {os.path.dirname(PACKED)!r}]\n"
            f"import packed; packed.install({self.out!r}, {self.root!r})\n"
        )
        argv = [sys.executable, "-BIS", "-c", before + code]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def says(self, code: str) -> str:
        done = self.python(code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(str(tmp_path))


def test_modules_come_from_the_file(library: Library) -> None:
    library.pack()
    for name in ("tool/part.py", "tool/sub/leaf.py"):
        library.write(name, "answer = 'source'\n")
    assert library.says("import tool.part; print(tool.part.answer)") == "packed"
    assert library.says("import tool; print(tool.where)") == f"{library.root}/tool/__init__.py"


def test_a_failure_names_the_source(library: Library) -> None:
    library.pack()
    done = library.python("import tool.part\ntool.sub.leaf.fail()")
    assert 'File "/shown/tool/sub/leaf.py", line 2, in fail' in done.stderr


def test_what_is_not_in_the_file_comes_from_the_directory(library: Library) -> None:
    library.pack()
    library.write("tool/other.py", "answer = 'source'\n")
    assert library.says("import tool.other; print(tool.other.answer)") == "source"


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_process_outlives_the_file(library: Library, change: str) -> None:
    """As services do while another version is installed."""
    library.pack()
    library.write("tool/part.py", "answer = 'source'\n")
    if change == "replaced":
        with open(f"{library.out}.new", "wb") as file:
            file.write(b"other" * 4096)
        code = f"import os; os.rename({library.out + '.new'!r}, {library.out!r})\n"
    else:
        code = f"import os; os.unlink({library.out!r})\n"
    code = f"import tool; {code}import tool.part; print(tool.part.answer)"
    assert library.says(code) == "source"


@pytest.mark.parametrize("edit", ["size", "time"])
def test_an_edited_source_counts(library: Library, edit: str) -> None:
    text = FILES["tool/part.py"]
    library.pack("--current")
    assert library.says("import tool.part; print(tool.part.answer)") == "packed"
    library.write("tool/part.py", text.replace("packed", "edited" if edit == "time" else "new"))
    when = os.stat(library.out).st_mtime_ns + (10**10 if edit == "time" else 0)
    os.utime(f"{library.root}/tool/part.py", ns=(when, when))
    assert library.says("import tool.part; print(tool.part.answer)") in ("edited", "new")


def test_the_file_of_another_interpreter_has_no_part(library: Library) -> None:
    library.pack()
    library.write("tool/part.py", "answer = 'source'\n")
    with open(library.out, "r+b") as file:
        file.write(b"\x00\x01")
    assert library.says("import tool.part; print(tool.part.answer)") == "source"
    os.unlink(library.out)
    assert library.says("import tool.part; print(tool.part.answer)") == "source"
