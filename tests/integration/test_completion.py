"""Completion as the shells do it: bash and zsh on a terminal, fish by its own `complete -C`."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.probes import SEARCH, needs, rkt_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs("rkt")

UUID = "01234567-89ab-4def-8123-456789abcdef"
_ESCAPES = re.compile(r"\x1b(\[[0-9;?>]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9B]?)")
CASES = [
    ("rkt statu", "rkt status"),
    ("rkt image li", "rkt image list"),
    ("rkt list --form", "rkt list --format="),
    ("rkt list --format=json-", "rkt list --format=json-pretty"),
    ("rkt --insecure-options=ond", "rkt --insecure-options=ondisk"),
    ("rkt cat-manifest 0123", f"rkt cat-manifest {UUID}"),
    ("rkt export --app=on", "rkt export --app=one"),  # of any pod: none is given yet
    ("rkt enter --app=on", "rkt enter --app=on"),  # it does not run
    (f"rkt export {UUID} --app=on", f"rkt export {UUID} --app=one"),
    ("rkt stat 0123", "rkt stat 0123"),  # stats or status?
    ("rkt im li --full --ord", "rkt im li --full --order="),
    ("rkt image list --fields=id,veri", "rkt image list --fields=id,verified"),
    ("rkt image list --sort=lastu", "rkt image list --sort=lastused"),
    (
        "rkt run x.com/a --caps-retain=CAP_KILL,CAP_SYS_TI",
        "rkt run x.com/a --caps-retain=CAP_KILL,CAP_SYS_TIME",
    ),
    ("rkt --insecure-options=image,sec", "rkt --insecure-options=image,seccomp"),
    (
        "rkt run x.com/a -- ./some- --- --set-env-file=./some-",
        "rkt run x.com/a -- ./some- --- --set-env-file=./some-key.asc",
    ),
    ("rkt run a -- b --- --interac", "rkt run a -- b --- --interactive"),
    ("rkt enter 0123 ls --deb", "rkt enter 0123 ls --deb"),  # a flag of ls
    ("rkt app rm 0123", f"rkt app rm {UUID}"),
    ("rkt attach --mode=stdin,std", "rkt attach --mode=stdin,std"),
    ("rkt run --mds-register=au", "rkt run --mds-register=auto"),
    ("rkt logs --stream=stdo", "rkt logs --stream=stdout"),
    (f"rkt status {UUID} --form", f"rkt status {UUID} --format="),
    ("rkt help image ex", "rkt help image ex"),
    ("rkt completion fi", "rkt completion fish"),
    ("rkt trust ./some-", "rkt trust ./some-key.asc"),
    ("rkt run --signature=./some-", "rkt run --signature=./some-key.asc"),
    ("rkt enter 01234", "rkt enter 01234"),  # it does not run
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home directory with an exited pod, a key file and the command on the path."""
    pod = tmp_path / "data/pods/run" / UUID
    pod.mkdir(parents=True)
    manifest = {
        "acVersion": "0.8.11", "acKind": "PodManifest",
        "apps": [{"name": "one", "image": {"id": "sha512-" + "0" * 128}}],
    }  # fmt: skip
    (pod / "pod").write_text(json.dumps(manifest))
    (tmp_path / "some-key.asc").write_text("")
    (tmp_path / "bin").mkdir()
    dirs = f"--dir={tmp_path}/data --system-config={tmp_path} --local-config={tmp_path}"
    command = tmp_path / "bin/rkt"
    command.write_text(f'#!/bin/sh\nexec {rkt_binary()} {dirs} "$@"\n')
    command.chmod(0o755)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """Give an environment that reads nobody's settings."""
    return {
        "HOME": str(home), "ZDOTDIR": str(home), "PATH": f"{home}/bin:{SEARCH}", "TERM": "dumb",
        "LANG": "C.UTF-8", "PS1": "% ", "COLUMNS": "250", "INPUTRC": "/dev/null",
    }  # fmt: skip


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, home: Path, *argv: str) -> None:
        self.master, slave = pty.openpty()
        subprocess.run(["stty", "cols", "250"], stdin=slave, check=True)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv], stdin=slave, stdout=slave, stderr=slave,
            env=environment(home), cwd=home,
        )  # fmt: skip
        os.close(slave)
        self.heard = ""

    def say(self, text: str) -> None:
        """Type something."""
        os.write(self.master, text.encode())

    def hear(self, wanted: str, timeout: float = 20) -> str:
        """Read until a pattern appears; gives its group, and forgets all up to it."""
        deadline = time.monotonic() + timeout
        while True:
            text = _ESCAPES.sub("", self.heard).replace("\r", "")
            found = re.search(wanted, text, re.MULTILINE)
            if found:
                self.heard = text[found.end() :]
                return found[1]
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"{wanted!r} did not appear in {text!r}")
            self.heard += os.read(self.master, 4096).decode(errors="replace")

    def complete(self, line: str) -> str:
        """Type a line and TAB, and let the shell print what its line then is."""
        self.say(f"{line}\t")
        # What counts is what would be executed, not what the terminal shows: echo it.
        self.say("\x01echo '<' \x05 '>'\n")
        return self.hear(r"^< (.*) >$")

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def bash(home: Path) -> Iterator[Shell]:
    """Start bash."""
    shell = Shell(home, "bash", "--norc", "--noprofile", "-i")
    shell.say("source <(rkt completion bash); echo rea''dy\n")
    shell.hear("^(ready)$")
    yield shell
    shell.end()


@pytest.fixture
def zsh(home: Path) -> Iterator[Shell]:
    """Start zsh."""
    shell = Shell(home, "zsh", "-f", "-i")
    shell.say("bindkey -e; unsetopt zle_bracketed_paste; source <(rkt completion zsh)\n")
    shell.say("echo rea''dy\n")
    shell.hear("^(ready)$")
    yield shell
    shell.end()


def test_bash(bash: Shell) -> None:
    for line, expected in CASES:
        assert bash.complete(line).split() == expected.split(), line


@needs("zsh")
def test_zsh(zsh: Shell) -> None:
    for line, expected in CASES:
        assert zsh.complete(line).split() == expected.split(), line


@needs("zsh")
def test_zsh_from_a_directory(home: Path) -> None:
    (home / "functions").mkdir()
    with open(home / "functions/_rkt", "w") as file:
        subprocess.run([rkt_binary(), "completion", "zsh"], stdout=file, check=True)
    shell = Shell(home, "zsh", "-f", "-i")
    shell.say("bindkey -e; unsetopt zle_bracketed_paste; fpath=(~/functions $fpath)\n")
    shell.say("autoload -Uz compinit; compinit -u; echo rea''dy\n")
    shell.hear("^(ready)$")
    assert shell.complete("rkt statu").split() == ["rkt", "status"]
    shell.end()


@needs("fish")
def test_fish(home: Path) -> None:
    script = "rkt completion fish | source\n"
    script += "".join(f"echo 'line {line}'; complete -C '{line}'\n" for line, _ in CASES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment(home), cwd=home, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    blocks = re.split(r"^line (.*)\n", done.stdout, flags=re.MULTILINE)[1:]
    offered = {
        line: [row.split("\t")[0] for row in text.splitlines()]
        for line, text in zip(blocks[::2], blocks[1::2], strict=True)
    }
    assert offered["rkt statu"] == ["status"]
    assert offered["rkt list --form"] == ["--format="]
    assert offered["rkt list --format=json-"] == ["--format=json-pretty"]
    assert offered["rkt cat-manifest 0123"] == [UUID]
    assert offered["rkt trust ./some-"] == ["./some-key.asc"]
    assert offered["rkt run --signature=./some-"] == ["--signature=./some-key.asc"]
    assert offered["rkt help image ex"] == ["export", "extract"]
    assert offered["rkt enter 01234"] == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "shell type is not specified"),
        (("bash", "zsh"), "too many arguments, only shell type is expected"),
        (("tcsh",), "'tcsh' shell is not supported"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], text: str) -> None:
    done = subprocess.run(
        [rkt_binary(), "completion", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 254
    assert done.stderr == f"rkt: {text}\n"


def test_every_flag_and_command_is_offered(home: Path) -> None:
    from rkt.cli.complete import candidates, command
    from rkt.cli.table import COMMANDS

    dirs = {"dir": f"{home}/data"}
    for name in COMMANDS:
        parts = name.split()
        offered = [text for text, _ in candidates(parts, dirs)]
        assert parts[-1] in offered
        flags = {text.rstrip("=") for text, _ in candidates([*parts, "--"], dirs)}
        declared = [flag for flag in command(name).flags if not flag.hidden and not flag.use]
        assert {f"--{flag.name}" for flag in declared} <= flags
        candidates([*parts, ""], dirs)
        candidates([*parts, UUID, "--app=", ""], dirs)
    assert ("one", "") in candidates(["export", UUID, "--app", ""], dirs)


def test_values_offered_are_those_that_are_accepted() -> None:
    from rkt.cli import context
    from rkt.cli.cmd import attach, events, image_list
    from rkt.cli.complete import candidates

    def offered(*words: str) -> set[str]:
        return {text.removeprefix(words[-1]) for text, _ in candidates(words, {})}

    assert offered("image", "list", "--fields=") == set(image_list._FIELDS)
    assert offered("image", "list", "--sort=") == set(image_list._SORT)
    assert offered("events", "--filter=") == {f"{key}=" for key in events._KEYS}
    assert offered("attach", "--mode=") == {"auto", "list", *attach._STREAMS, *attach._TERMINAL}
    (insecure,) = [flag for flag in context.GLOBAL_FLAGS if flag.name == "insecure-options"]
    assert offered("--insecure-options=") == set(re.findall(r'"([a-z-]+)"', insecure.help))
