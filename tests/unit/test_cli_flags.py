from __future__ import annotations

import pytest

from rkt.cli.flags import Command, Flag, HelpAsked, parse
from rkt.errors import UsageError

GLOBAL = (
    Flag("debug", "", kind="bool"),
    Flag("dir", "", default="/x"),
    Flag("help", "", kind="bool", short="h"),
)
RUN = Command(
    "run",
    "IMAGE",
    flags=(
        Flag("name", "", app=True),
        Flag("mount", "", both=True),
        Flag("set-env", "", kind="each"),
        Flag("dns", "", kind="list"),
        Flag("interactive", "", kind="bool"),
        Flag("register", "", kind="bool", default="auto"),
        Flag("net", "", default="host", bare="default"),
    ),
    images=True,
)
FETCH = Command("fetch", "", flags=(Flag("signature", "", app=True),), images=True, app_args=False)
NO_IMAGE = "error parsing app image arguments: an image is required before any app arguments"
TWO_SETS = "error parsing app image arguments: only one set of app arguments allowed per image"
TAIL = ["--debug", "img2", "--", "b"]
LIST = Command("list", "", flags=(Flag("full", "", kind="bool"),))
ENTER = Command("enter", "", flags=(Flag("app", ""),), interspersed=False)
LOGS = Command(
    "logs", "", flags=(Flag("follow", "", kind="bool", short="f"),
                       Flag("timestamps", "", kind="bool", short="t")),
)  # fmt: skip


def test_images_their_flags_and_arguments() -> None:
    parsed = parse(
        RUN,
        ["--set-env=A=1", "img1", "--name=a", "--", "-x", "--name", "---", *TAIL],
        GLOBAL,
    )
    assert [(app.image, app.args) for app in parsed.apps] == [
        ("img1", ["-x", "--name"]),
        ("img2", ["b"]),
    ]
    assert parsed.apps[0].last("name") == "a"
    assert parsed.flag("debug")
    assert parsed.all("set-env") == ["A=1"]


def test_empty_words_and_lone_separators_are_dropped() -> None:
    parsed = parse(RUN, ["", "---", "img", "--", "", "x", "---", "---"], GLOBAL)
    assert [(app.image, app.args) for app in parsed.apps] == [("img", ["x"])]


def test_mount_belongs_to_the_image_before_it_or_to_all() -> None:
    parsed = parse(RUN, ["--mount=all", "img", "--mount", "one"], GLOBAL)
    assert parsed.all("mount") == ["all"]
    assert parsed.apps[0].flags["mount"] == ["one"]


@pytest.mark.parametrize(
    ("command", "argv", "text"),
    [
        (RUN, ["--name=x"], "--name must follow an image"),
        (RUN, ["--", "x"], NO_IMAGE),
        (RUN, ["i", "--", "x", "---", "--", "y"], TWO_SETS),
        (FETCH, ["i", "--", "x"], "unable to parse arguments: app arguments unsupported"),
        (LIST, ["--nope"], "unknown flag: --nope"),
        (LIST, ["-q"], "unknown shorthand flag: 'q' in -q"),
        (LOGS, ["-fq"], "unknown shorthand flag: 'q' in -fq"),
        (LIST, ["--dir"], "flag needs an argument: --dir"),
        (LIST, ["--full=maybe"],
         'invalid argument "maybe" for --full=maybe: must be true or false'),
    ],
)  # fmt: skip
def test_what_is_refused(command: Command, argv: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(command, argv, GLOBAL)
    assert caught.value.message == text
    assert caught.value.command == command.name


def test_values_defaults_and_bare_flags() -> None:
    parsed = parse(RUN, ["--net", "img", "--dns=1,2", "--dns", "3"], GLOBAL)
    assert parsed.string("net") == "default"
    assert parsed.all("dns") == ["1", "2", "3"]
    assert parsed.string("dir") == "/x"
    assert parse(RUN, ["i"], GLOBAL).string("net") == "host"
    assert not parse(RUN, ["i", "--interactive=false"], GLOBAL).flag("interactive")
    for words, value in (([], "auto"), (["--register"], "true"), (["--register=auto"], "auto")):
        assert parse(RUN, ["i", *words], GLOBAL).string("register") == value


def test_words_after_the_first_one_are_left_alone_when_asked() -> None:
    parsed = parse(ENTER, ["--app=a", "uuid", "ls", "--full", "-l"], GLOBAL)
    assert parsed.words == ["uuid", "ls", "--full", "-l"]
    assert parse(LIST, ["a", "--full", "--", "--b"], GLOBAL).words == ["a", "--b"]
    # Not rkt's help is asked for, but that of a program in the app.
    assert parse(ENTER, ["uuid", "ls", "--help", "-h"], GLOBAL).words == [
        "uuid", "ls", "--help", "-h",
    ]  # fmt: skip


@pytest.mark.parametrize("command", [LIST, ENTER, RUN, LOGS])
@pytest.mark.parametrize("word", ["--help", "-h", "--help=true"])
def test_help_ends_the_sorting(command: Command, word: str) -> None:
    with pytest.raises(HelpAsked):
        parse(command, [word, "--nosuch"], GLOBAL)


def test_short_flags_in_one_word() -> None:
    parsed = parse(LOGS, ["-ft", "uuid", "-h=false"], GLOBAL)
    assert parsed.flag("follow")
    assert parsed.flag("timestamps")
    assert parsed.words == ["uuid"]
