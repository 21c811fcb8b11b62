"""What a command may load before it works: start-up time is decided here, without a stopwatch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SRC = os.path.join(os.path.dirname(__file__), "..", "..", "src")
HEAVY = {"argparse", "asyncio", "http", "logging", "ssl", "subprocess", "tarfile", "urllib3"}
LEAN = HEAVY | {"ctypes", "json", "msgspec", "re", "_sqlite3", "typing"}
NO_STORE = HEAVY | {"_sqlite3", "isal", "zstandard"}
# Each takes longer to load than the modules of rkt do that a run needs.
UNWANTED = {"datetime", "enum", "json", "msgspec", "re", "typing"}


def _loaded(tmp_path: object, *args: str) -> set[str]:
    """Run a command in a fresh interpreter and give the top-level modules that it loaded."""
    code = (
        "import sys; sys.path[:0] = {path!r}; from rkt.cli.main import main\n"
        "status = main({args!r})\n"
        "names = sorted({{name.partition('.')[0] for name in sys.modules}})\n"
        "print('MODULES', status, *names)"
    )
    site = [entry for entry in sys.path if entry.endswith("site-packages")]
    argv = [f"--dir={tmp_path}", f"--local-config={tmp_path}", f"--system-config={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code.format(path=[SRC, *site], args=[*args, *argv])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("args", [("version",), ("help",), ("help", "run"), ("help", "image")])
def test_what_needs_no_manifest_loads_no_library(tmp_path: object, args: tuple[str, ...]) -> None:
    code = "import sys; sys.path[:0] = {!r}; from rkt.cli.main import main; main({!r})"
    code += "; print('MODULES', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code.format([SRC], list(args))],
        capture_output=True, text=True, check=True, cwd=str(tmp_path),
    )  # fmt: skip
    assert set(done.stdout.splitlines()[-1].split()) & LEAN == set()


@pytest.mark.parametrize(
    "args",
    [("list",), ("status", "aa"), ("cat-manifest", "aa"), ("stop", "aa"), ("gc", "--mark-only")],
)
def test_what_looks_at_pods_does_not_load_the_store(
    tmp_path: object, args: tuple[str, ...]
) -> None:
    loaded = _loaded(tmp_path, *args)
    if args[0] == "gc" and os.geteuid() != 0:
        pytest.skip("gc is for root")
    assert loaded & NO_STORE == set()


def test_a_run_loads_no_network(tmp_path: object) -> None:
    if os.geteuid() != 0:
        pytest.skip("run is for root")
    loaded = _loaded(tmp_path, "run", "sha512-0123456789")
    assert "_sqlite3" in loaded
    assert loaded & (HEAVY | UNWANTED) == set()


@pytest.mark.parametrize("entrypoint", ["run", "gc", "stop", "enter"])
def test_stage1_loads_none_of_the_libraries_that_load_others(entrypoint: str) -> None:
    code = f"import sys; sys.path.insert(0, {SRC!r}); "
    code += f"from rkt.stage1 import launch, {entrypoint}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert f"rkt.stage1.{entrypoint}" in loaded
    unwanted = {"collections", "contextlib", "enum", "functools", "json", "re", "signal", "typing"}
    assert loaded & (HEAVY | unwanted) == set()
