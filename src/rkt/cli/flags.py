"""The grammar of a command line: declared flags, images, arguments of apps.

It is pflag's grammar, which the original rkt uses and which argparse cannot express: `--x=v` and
`--x v`, booleans only with `=`, `--` ends the flags; and for commands that name images
`IMAGE [APP FLAGS] [-- ARGS... [---]] IMAGE ...` (rkt-cli section 5).
"""

from __future__ import annotations

from rkt import log
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

_STREAMS = ("stdin", "stdout", "stderr")


class HelpAsked(Exception):
    """The words ask for the command's help: nothing after that is looked at."""


class Flag:
    """One flag: its name, what it takes and where its value goes.

    `kind` is `bool` (its default may be a third value), `string`, `value` (a string that help does
    not quote, such as a duration), `list` (repeatable, split at commas) or `each` (repeatable,
    whole values).  `bare` is the value of a flag that is given without one.  An `app` flag belongs
    to the image before it; `both` allows it before any image too.
    """

    __slots__ = ("app", "bare", "both", "default", "help", "hidden", "kind", "name", "short", "use")

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        kind: str = "string",
        default: str = "",
        bare: str | None = None,
        short: str = "",
        app: bool = False,
        both: bool = False,
        hidden: bool = False,
        use: str = "",
    ) -> None:
        self.name = name
        self.help = help
        self.kind = kind
        self.default = "false" if kind == "bool" and not default else default
        self.bare = "true" if kind == "bool" else bare
        self.short = short
        self.app = app or both
        self.both = both
        self.hidden = hidden
        self.use = use  # for a deprecated spelling: what to use instead


class Command:
    """What a command module declares: usage, description and flags; `run` does the work.

    `images` commands read the image grammar; `interspersed` allows flags after words; those
    without `words` take nothing but flags.
    """

    __slots__ = (
        "app_args", "description", "flags", "images", "interspersed", "name", "usage", "words",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        usage: str,
        *,
        description: str = "",
        flags: Sequence[Flag] = (),
        images: bool = False,
        app_args: bool = True,
        interspersed: bool = True,
        words: bool = True,
    ) -> None:
        self.name = name
        self.usage = usage
        self.words = words
        self.description = description
        self.flags = tuple(flags)
        self.images = images
        self.app_args = app_args
        self.interspersed = interspersed


class AppWords:
    """An image on the command line with its flags (name -> values in order) and arguments."""

    __slots__ = ("args", "flags", "image")

    def __init__(self, image: str) -> None:
        self.image = image
        self.args: list[str] = []
        self.flags: dict[str, list[str]] = {}

    def last(self, name: str) -> str | None:
        """Give the value of a flag that was given last."""
        values = self.flags.get(name)
        return values[-1] if values else None


class Parsed:
    """The words of a command line, sorted: flag values, plain words, images."""

    __slots__ = ("_flags", "apps", "values", "words")

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self.values: dict[str, list[str]] = {}
        self.words: list[str] = []
        self.apps: list[AppWords] = []

    def given(self, name: str) -> bool:
        """Say whether a flag was given (pod-wide, not for one app)."""
        return name in self.values

    def string(self, name: str) -> str:
        """Give the last value of a flag, or its default."""
        values = self.values.get(name)
        return values[-1] if values else self._flags[name].default

    def flag(self, name: str) -> bool:
        """Give the value of a boolean flag."""
        return self.string(name) in TRUE

    def all(self, name: str) -> list[str]:
        """Give every value of a repeatable flag, split at commas when its kind is `list`."""
        values = self.values.get(name, [])
        if self._flags[name].kind == "list":
            return [item for value in values for item in value.split(",")]
        return list(values)


def parse(command: Command, argv: Sequence[str], global_flags: Sequence[Flag]) -> Parsed:
    """Sort the words after the command's name.

    Raises UsageError naming the bad word, and HelpAsked.
    """
    flags = (*command.flags, *global_flags)
    parsed = Parsed(flags)
    try:
        if command.images:
            _parse_images(command, argv, flags, parsed)
        else:
            _parse_plain(command, argv, flags, parsed)
    except UsageError as err:
        err.command = command.name
        raise
    return parsed


def check(argv: Sequence[str], flags: Sequence[Flag]) -> None:
    """Raise UsageError if there is anything but these flags, as before a missing command."""
    words = iter(argv)
    for word in words:
        _read_flag(word, words, flags)


def _parse_plain(
    command: Command, argv: Sequence[str], flags: Sequence[Flag], parsed: Parsed
) -> None:
    words = iter(argv)
    for word in words:
        if word == "--":
            parsed.words.extend(words)
        elif _is_flag(word):
            for one in _taken_apart(word, flags):
                flag, value = _read_flag(one, words, flags)
                parsed.values.setdefault(flag.name, []).append(value)
        else:
            parsed.words.append(word)
            if not command.interspersed:
                parsed.words.extend(words)
    if parsed.words and not command.words:
        raise UsageError("no arguments are expected")


def _parse_images(
    command: Command, argv: Sequence[str], flags: Sequence[Flag], parsed: Parsed
) -> None:
    words = iter(argv)
    for word in words:
        if word in ("", "---"):
            continue
        if word == "--":
            _take_args(command, words, parsed)
        elif _is_flag(word):
            for one in _taken_apart(word, flags):
                flag, value = _read_flag(one, words, flags)
                _put(flag, value, parsed)
        else:
            parsed.apps.append(AppWords(word))


def _put(flag: Flag, value: str, parsed: Parsed) -> None:
    """Give a value to the image before it, or to the pod."""
    if not flag.app or (flag.both and not parsed.apps):
        parsed.values.setdefault(flag.name, []).append(value)
        return
    if not parsed.apps:
        noun = "application" if flag.name in _STREAMS else "image"
        raise UsageError(f"--{flag.name} must follow an {noun}")
    parsed.apps[-1].flags.setdefault(flag.name, []).append(value)


def _take_args(command: Command, words: Iterator[str], parsed: Parsed) -> None:
    args: list[str] = []
    for word in words:
        if word == "---":
            break
        if word:
            args.append(word)
    if not parsed.apps:
        raise UsageError(
            "error parsing app image arguments: an image is required before any app arguments"
        )
    if not command.app_args:
        raise UsageError("unable to parse arguments: app arguments unsupported")
    if parsed.apps[-1].args:
        raise UsageError(
            "error parsing app image arguments: only one set of app arguments allowed per image"
        )
    parsed.apps[-1].args = args


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _taken_apart(word: str, flags: Sequence[Flag]) -> list[str]:
    """Take `-ft` for `-f -t` where both are flags without a value."""
    shorts = {flag.short for flag in flags if flag.short and flag.kind == "bool"}
    if len(word) > 2 and set(word[1:]) <= shorts:  # which "-" is not among
        return [f"-{letter}" for letter in word[1:]]
    return [word]


def _read_flag(word: str, words: Iterator[str], flags: Sequence[Flag]) -> tuple[Flag, str]:
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        found = [flag for flag in flags if flag.name == name[2:]]
        if not found:
            raise UsageError(f"unknown flag: {name}")
    else:
        found = [flag for flag in flags if flag.short and flag.short == name[1:]]
        if not found:
            known = {flag.short for flag in flags}
            letter = next((letter for letter in name[1:] if letter not in known), name[1])
            raise UsageError(f"unknown shorthand flag: {letter!r} in {name}")
    flag = found[0]
    if flag.use:
        log.plain(f"Flag --{flag.name} has been deprecated, please use {flag.use}")
    if not equals and flag.bare is not None:
        value = flag.bare
    elif not equals:
        following = next(words, None)
        if following is None:
            raise UsageError(f"flag needs an argument: {name}")
        value = following
    if flag.kind == "bool" and value not in (*TRUE, *FALSE, flag.default):
        others = "" if flag.default in FALSE or flag.default in TRUE else f", or {flag.default}"
        raise invalid(flag.name, value, f"must be true or false{others}")
    if flag.name == "help" and value in TRUE:
        raise HelpAsked
    return flag, value


def invalid(name: str, value: str, cause: str) -> UsageError:
    """Make the error of a flag whose value cannot be used."""
    return UsageError(f'invalid argument "{value}" for --{name}={value}: {cause}')


def check_text(name: str, value: str) -> None:
    """Raise UsageError for a flag's value that no manifest can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(name, value, "text is not UTF-8") from None


def whole_number(text: str) -> int | None:
    """Read a number of ASCII digits, None if it is none or one that nobody can mean."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def converted(name: str, value: str, convert: Callable[[str], object]) -> object:
    """Convert a flag's value; a ValueError becomes the flag's usage error."""
    try:
        return convert(value)
    except ValueError as err:
        raise invalid(name, value, str(err)) from err
