"""What may come next on a command line: commands, flags, values, UUIDs, names of images.

The scripts of `rkt completion` ask for it with the words so far; see `candidates`.
"""

from __future__ import annotations

import os

from rkt.cli.context import GLOBAL_FLAGS
from rkt.cli.table import COMMANDS
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rkt.cli.flags import Command, Flag

FILES, DIRS = ":files", ":dirs"
"""Instead of a candidate: the shell knows files better."""

SHELLS = ("bash", "fish", "zsh")

_LAYERS = ("system-config", "local-config", "user-config")
_PULL = ("never", "new", "update")
_INSECURE = (
    "none", "image", "tls", "ondisk", "http", "pubkey", "capabilities", "paths", "seccomp",
    "all-fetch", "all-run", "all",
)  # fmt: skip
_FIELDS = (
    "id", "name", "key", "appname", "importtime", "latest", "size", "lastused", "verified",
)  # fmt: skip
_NETWORKS = ("default", "default-restricted", "host", "none", "all")
_STREAMS = ("null", "log", "stream", "tty")
_VALUES: dict[str, tuple[str, ...]] = {
    "compression": ("gzip", "zstd", "xz", "bzip2", "none"),
    "fields": _FIELDS,
    "filter": ("type=", "event=", "pod=", "app=", "image="),
    "format": ("json", "json-pretty"),
    "insecure-options": _INSECURE,
    "ipc": ("auto", "private", "parent"),
    "mds-register": ("true", "false", "auto"),
    "mode": ("auto", "list", "stdin", "stdout", "stderr", "tty", "tty-in", "tty-out"),
    "net": _NETWORKS,
    "order": ("asc", "desc"),
    "private-net": _NETWORKS,
    "pull-policy": _PULL,
    "readonly-rootfs": ("true", "false"),
    "restart": ("no", "on-failure", "always"),
    "stderr": _STREAMS,
    "sort": ("importtime", "name", "appname", "lastused", "size"),
    "stdin": ("null", "stream", "tty"),
    "stdout": _STREAMS,
    "stream": ("stdout", "stderr"),
    "tail": ("all",),
    "wait": ("true", "false"),
    "wait-ready": ("true", "false"),
    "dir": (DIRS,),
    "local-config": (DIRS,),
    "system-config": (DIRS,),
    "user-config": (DIRS,),
    "state-dir": (DIRS,),
    "pod-manifest": (FILES,),
    "set-env-file": (FILES,),
    "signature": (FILES,),
    "stage1-path": (FILES,),
    "uuid-file": (FILES,),
    "uuid-file-save": (FILES,),
}
_LISTS = ("caps-remove", "caps-retain", "insecure-options", "mode", "net", "private-net")
"""Flags that take several values in one word, though they are not declared as lists."""

# Which pods a command is for, by their state; empty: any.
_PODS: dict[str, tuple[str, ...]] = {
    "app add": ("running",),
    "app exec": ("running",),
    "app list": (),
    "app rm": ("running", "exited", "exited garbage"),
    "app start": ("running",),
    "app status": (),
    "app stop": ("running",),
    "attach": ("running",),
    "cat-manifest": (),
    "enter": ("running",),
    "export": ("exited", "exited garbage"),
    "logs": (),
    "rm": ("exited", "exited garbage", "prepared", "aborted prepare"),
    "run-prepared": ("prepared",),
    "stats": ("running",),
    "status": (),
    "stop": ("running",),
}
_MANY = ("rm", "stats", "stop")
_IMAGES = (
    "app add", "fetch", "image cat-manifest", "image export", "image extract", "image inspect",
    "image render", "image rm", "image verify", "prepare", "run",
)  # fmt: skip
_ALSO_FILES = ("fetch", "prepare", "run", "trust")

Candidate = tuple[str, str]


def candidates(words: Sequence[str], base: Mapping[str, str]) -> list[Candidate]:
    """Give what may replace the last word, each with a description (maybe empty).

    `words` are those after `rkt`; the last one is what has been typed of the word at the cursor.
    `base` are the global flags that hold where the words do not say otherwise.
    """
    if not words:
        return []
    line = _Line(words[:-1], base)
    word = words[-1]
    found = list(_next(line, word))
    # Directives do not look like the word; everything else must begin like it.
    return [pair for pair in found if pair[0] in (FILES, DIRS) or pair[0].startswith(word)]


class _Line:
    """The words before the cursor, sorted: the command, its flags, its other words."""

    def __init__(self, words: Sequence[str], base: Mapping[str, str]) -> None:
        self.base = base
        self.name = ""
        self.command: Command | None = None
        self.words: list[str] = []
        self.values: dict[str, str] = {}
        self.waiting: Flag | None = None
        self.is_over = False  # after `--`: words of an app
        for word in words:
            self._take(word)

    def flags(self) -> tuple[Flag, ...]:
        """Give the flags that are known at the cursor."""
        return (*(self.command.flags if self.command else ()), *GLOBAL_FLAGS)

    def _take(self, word: str) -> None:
        if self.waiting is not None:
            self.values[self.waiting.name] = word
            self.waiting = None
        elif self.is_over and word == "---" and self.command and self.command.images:
            self.is_over = False  # another image may follow
        elif self.is_over:
            self.words.append(word)
        elif word == "--":
            self.is_over = True
        elif word.startswith("-") and len(word) > 1:
            name, equals, value = word.lstrip("-").partition("=")
            flag = next((flag for flag in self.flags() if flag.name == name), None)
            if flag is not None and not equals and flag.bare is None:
                self.waiting = flag
            else:
                self.values[name] = value
        elif self.command is None:
            self._name(word)
        else:
            self.words.append(word)
            # What follows the UUID is the command line of another program.
            self.is_over = not (self.command.interspersed or self.command.images)

    def _name(self, word: str) -> None:
        known = [name for name, _ in _commands(self.name)]
        if word not in known:  # an abbreviation, if it is one
            meant = [name for name in known if name.startswith(word)]
            word = meant[0] if len(meant) == 1 else word
        self.name = f"{self.name} {word}".strip()
        if self.name in COMMANDS:
            self.command = command(self.name)


def command(name: str) -> Command:
    """Load a command's declaration."""
    from importlib import import_module

    found: Command = import_module(f"rkt.cli.cmd.{COMMANDS[name].module}").COMMAND
    return found


def _next(line: _Line, word: str) -> Iterator[Candidate]:
    if line.waiting is not None:
        yield from _values(line, line.waiting, "", word)
    elif line.is_over:
        yield FILES, ""
    elif word.startswith("-"):
        name, equals, _ = word.partition("=")
        if equals:
            known = [flag for flag in line.flags() if f"--{flag.name}" == name]
            for flag in known:
                yield from _values(line, flag, f"{name}=", word)
        else:
            yield from _flags(line)
    elif line.command is None:
        yield from _commands(line.name)
    else:
        yield from _arguments(line)


def _commands(family: str) -> Iterator[Candidate]:
    depth = len(family.split())
    seen = set()
    for name, entry in COMMANDS.items():
        parts = name.split()
        if parts[:depth] != family.split() or len(parts) <= depth or parts[depth] in seen:
            continue
        seen.add(parts[depth])
        is_family = len(parts) > depth + 1
        yield parts[depth], f"Operate on {parts[depth]}(s)" if is_family else entry.summary


def _flags(line: _Line) -> Iterator[Candidate]:
    for flag in line.flags():
        if not flag.hidden and not flag.use:
            yield f"--{flag.name}" + ("=" if flag.bare is None else ""), flag.help


def _values(line: _Line, flag: Flag, before: str, word: str) -> Iterator[Candidate]:
    """Give values of a flag; `before` is what of the word belongs to the flag itself."""
    values: Sequence[str]
    if flag.kind == "bool":
        values = _VALUES.get(flag.name, ("true", "false"))
    elif flag.name == "app":
        values = tuple(_apps(line))
    elif flag.name == "stage1-hash":
        values = tuple(key for key, _ in _images(line) if key.startswith("sha512-"))
    elif flag.name in ("caps-retain", "caps-remove"):
        from rkt.linux.caps import NAMES as values
    else:
        values = _VALUES.get(flag.name, ())
    if (flag.kind == "list" or flag.name in _LISTS) and "," in word:  # the next one of several
        before = word.rpartition(",")[0] + ","
    for value in values:
        yield (value if value in (FILES, DIRS) else before + value), ""


def _arguments(line: _Line) -> Iterator[Candidate]:
    name = line.name
    if name == "help":
        yield from _commands(" ".join(line.words))
    elif name == "completion" and not line.words:
        yield from ((shell, "") for shell in SHELLS)
    elif name in _PODS and (not line.words or name in _MANY):
        yield from _pods(line)
    elif name in ("enter", "app exec"):
        yield FILES, ""
    elif name in _IMAGES:
        yield from _images(line)
    if name in _ALSO_FILES or (name in ("export", "image export") and line.words):
        yield FILES, ""
    if name == "image build" or (name in ("image extract", "image render") and line.words):
        yield (FILES if name == "image build" and line.words else DIRS), ""


def _data_dir(line: _Line) -> str:
    from rkt.cli.context import Context
    from rkt.cli.flags import Command, parse

    known = {flag.name for flag in GLOBAL_FLAGS} & {"dir", *_LAYERS}
    values = {**line.base, **line.values}
    words = [f"--{name}={value}" for name, value in values.items() if name in known]
    return Context(parse(Command("", ""), words, GLOBAL_FLAGS), os.environ, lib_dir="").data_dir


def _pods(line: _Line) -> Iterator[Candidate]:
    from rkt.pod import lifecycle, view

    try:
        for pod in lifecycle.every(_data_dir(line)):
            try:
                state = pod.state()
                if _PODS[line.name] and state not in _PODS[line.name]:
                    continue
                apps = ", ".join(view.app_names(pod)) if pod.exists("pod") else ""
                name = pod.name()
            except (RktError, OSError):
                continue
            about = f"{state}: {apps}"
            if pod.uuid not in line.words:
                yield pod.uuid, about
            if name and name not in line.words:
                yield name, about
    except (RktError, OSError):
        return  # not allowed to look


def _apps(line: _Line) -> list[str]:
    """Give the names of a pod's apps; before a pod is named those of all that are meant."""
    from rkt.pod import lifecycle, view

    if not line.words:
        return sorted(set(_apps_of_all(line)))
    try:
        with lifecycle.find(_data_dir(line), line.words[0]) as pod:
            return view.app_names(pod)
    except (RktError, OSError):
        return []


def _apps_of_all(line: _Line) -> Iterator[str]:
    from rkt.pod import lifecycle, view

    wanted = _PODS.get(line.name, ())
    try:
        for pod in lifecycle.every(_data_dir(line)):
            try:
                if not wanted or pod.state() in wanted:
                    yield from view.app_names(pod)
            except (RktError, OSError):
                continue
    except (RktError, OSError):
        return


def _images(line: _Line) -> Iterator[Candidate]:
    from rkt.store.images import Store

    try:
        records = Store(_data_dir(line)).list()
    except (RktError, OSError):
        return
    for record in records:
        version = record.label("version")
        name = f"{record.name}:{version}" if version else record.name
        yield name, record.key[:19]
        yield record.key, name
