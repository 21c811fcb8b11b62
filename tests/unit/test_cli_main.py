"""A command line from end to end: what is asked of it before any command works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from subprocess import PIPE
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from rkt.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


class Rkt:
    """Runs rkt in this process with directories of its own."""

    def __init__(self, top: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._globals = [f"--{name}={top}" for name in ("dir", "local-config", "system-config")]
        self._capsys = capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        status = main([*self._globals, *args])
        out, err = self._capsys.readouterr()
        return status, out, err


@pytest.fixture
def rkt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rkt:
    return Rkt(tmp_path, capsys)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--dir"], "flag needs an argument: --dir"),
        (["--nosuch"], "unknown flag: --nosuch"),
        (["--debug=maybe"], 'invalid argument "maybe" for --debug=maybe: must be true or false'),
        (["nosuch"], 'unknown command "nosuch" for "rkt"'),
        (["st"], 'ambiguous command "st" for "rkt": stats, status, stop'),
        (["image", "--nosuch"], "unknown flag: --nosuch"),
        (["help", "--nosuch"], "unknown flag: --nosuch"),
        (["help", "list", "--nosuch"], "unknown flag: --nosuch"),
    ],
)
def test_an_error_before_there_is_a_command(
    args: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 254
    assert capsys.readouterr() == ("", f"rkt: {text}\nRun 'rkt --help' for usage.\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["list", "--nosuch"], "unknown flag: --nosuch"),
        (["list", "x"], "no arguments are expected"),
        (["gc", "x"], "no arguments are expected"),
        (["version", "x"], "no arguments are expected"),
        (["--insecure-options=x", "list"],
         'invalid argument "x" for --insecure-options=x: unknown option "x"'),
        (["--insecure-options=tls,tls", "list"],
         'invalid argument "tls,tls" for --insecure-options=tls,tls: duplicated option "tls"'),
        # Found only after the words were sorted:
        (["stats", "--interval=x"], 'invalid argument "x" for --interval=x: invalid duration "x"'),
        (["status", "--wait=x", "ff"], 'invalid value "x" for --wait: invalid duration "x"'),
    ],
)  # fmt: skip
def test_a_usage_error_shows_the_help_of_the_command(args: list[str], text: str, rkt: Rkt) -> None:
    status, out, err = rkt(*args)
    assert (status, err) == (254, f"rkt: {text}\n")
    name = next(word for word in args if not word.startswith("-"))
    assert out.startswith(f"NAME:\n\t{name} - ")


@pytest.mark.parametrize(
    "args",
    [
        ["list", "--help"], ["--help", "list"], ["list", "-h", "--nosuch"], ["help", "list"],
        ["help", "list", "--help"], ["help", "--dir", "/x", "list"],
    ],
)  # fmt: skip
def test_help_of_a_command(args: list[str], rkt: Rkt) -> None:
    status, out, err = rkt(*args)
    assert (status, err) == (0, "")
    assert out.startswith("NAME:\n\tlist - List pods\n")


@pytest.mark.parametrize("args", [["--dir=data", "list"], ["fetch", "./x.aci"]])
def test_a_current_directory_that_is_gone(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rkt: Rkt
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    text = "rkt: the current directory does not exist any more: No such file or directory\n"
    assert rkt(*args) == (254, "", text)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["status", "zz"], 'problem retrieving pod: no matches found for "zz"'),
        (["cat-manifest", "zz"], 'problem retrieving pod: no matches found for "zz"'),
        (["status", ""], "problem retrieving pod: UUID cannot be empty"),
    ],
)
def test_no_pod_of_that_uuid(args: list[str], text: str, rkt: Rkt) -> None:
    assert rkt(*args) == (254, "", f"rkt: {text}\n")


@pytest.mark.parametrize(
    ("command", "expected"), [("status", 1), ("stop", 1), ("cat-manifest", 254)]
)
def test_a_file_of_uuids_that_cannot_be_read(
    command: str, expected: int, tmp_path: Path, rkt: Rkt
) -> None:
    path = tmp_path / "none"
    text = f'rkt: unable to resolve UUID from file: "{path}": No such file or directory\n'
    assert rkt(command, f"--uuid-file={path}") == (expected, "", text)
    for content in (b"\0\0", b"\xff" * 20, b"a" * 5000, b"aa\nbb"):
        path.write_bytes(content)
        text = f'rkt: unable to resolve UUID from file: "{path}": this is no UUID\n'
        assert rkt(command, f"--uuid-file={path}") == (expected, "", text)
    path.write_bytes(b" \tff\n\n")
    assert (
        rkt(command, f"--uuid-file={path}")[2]
        .splitlines()[0]
        .endswith('pod: no matches found for "ff"')
    )


def on_full_stream(number: int, *args: str) -> tuple[int, str]:
    """Run a rkt of its own with stdout (1) or stderr (2) on a full disk; gives the other one."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from rkt.cli.main import leave, main; "
    code += "leave(main(sys.argv[1:]))"
    with open("/dev/full", "w", encoding="ascii") as full:
        streams = {1: full if number == 1 else PIPE, 2: full if number == 2 else PIPE}
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, *args], stdout=streams[1], stderr=streams[2],
            text=True, check=False,
        )  # fmt: skip
    return done.returncode, done.stderr if number == 1 else done.stdout


@pytest.mark.parametrize("args", [["version"], ["help"], ["list"], ["list", "--help"]])
def test_an_answer_that_cannot_be_written_is_a_failure(args: list[str], tmp_path: Path) -> None:
    text = "rkt: cannot write the output: No space left on device\n"
    assert on_full_stream(1, f"--dir={tmp_path}", *args) == (254, text)


def test_a_message_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    assert on_full_stream(2, "nosuch") == (254, "")
    (tmp_path / "pods/run" / str(uuid4())).mkdir(parents=True)
    assert on_full_stream(2, f"--dir={tmp_path}", "gc") == (0, "")
    assert len(os.listdir(tmp_path / "pods/exited-garbage")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_a_command_reads_what_it_did(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        f"import os, sys; sys.path[:0] = {sys.path!r}\n"
        "from rkt.cli import output\n"
        "from rkt.cli.cmd import list as command\n"
        "from rkt.cli.main import leave, main\n"
        "def run(context, args):\n"
        "    output.line('done so far')\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "command.run = run\n"
        f"leave(main(['--dir={tmp_path}', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-number, "done so far\n", "")
