"""Help texts, laid out as rkt-cli section 1.3 has them."""

from __future__ import annotations

from rkt import __version__
from rkt.cli.table import COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.cli.flags import Flag

SUMMARY = "rkt, the application container runner"
DESCRIPTION = """\
Finds signed application images, verifies who made them, and runs them as pods.
A pod is named by its UUID, by the beginning of one, or by its --pod-name.
'rkt help COMMAND' tells more about a command."""


def of_rkt() -> str:
    """Give the help of `rkt` itself."""
    width = max(len(name) for name in COMMANDS)
    commands = [f"{name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items()]
    return _sections(
        ("NAME:", [f"rkt - {SUMMARY}"]),
        ("USAGE:", ["rkt [GLOBAL OPTIONS] COMMAND [ARGS...]"]),
        ("VERSION:", [__version__]),
        ("COMMANDS:", commands),
        ("DESCRIPTION:", DESCRIPTION.splitlines()),
    ) + "\n" + _options("GLOBAL OPTIONS:", _global())  # fmt: skip


def of_command(name: str) -> str:
    """Give the help of one command, or of a family such as `image`."""
    if name not in COMMANDS:
        family = {key: entry for key, entry in COMMANDS.items() if key.startswith(f"{name} ")}
        width = max(len(key) for key in family)
        lines = [f"{key:<{width}}  {entry.summary}" for key, entry in family.items()]
        return _sections(
            ("NAME:", [f"rkt {name} - Operate on {name}(s)"]),
            ("USAGE:", [f"rkt {name} COMMAND"]),
            ("COMMANDS:", lines),
        )
    from importlib import import_module

    entry = COMMANDS[name]
    command = import_module(f"rkt.cli.cmd.{entry.module}").COMMAND
    text = _sections(
        ("NAME:", [f"{name} - {entry.summary}"]),
        ("USAGE:", [f"rkt {name} {command.usage}".rstrip()]),
    )
    if command.description:
        text += "\n" + _sections(("DESCRIPTION:", command.description.splitlines()))
    if any(not (flag.hidden or flag.use) for flag in command.flags):
        text += "\n" + _options("OPTIONS:", command.flags)
    return text + "\n" + _options("GLOBAL OPTIONS:", _global())


def _global() -> Sequence[Flag]:
    from rkt.cli.context import GLOBAL_FLAGS

    return GLOBAL_FLAGS


def _sections(*sections: tuple[str, list[str]]) -> str:
    blocks = []
    for title, lines in sections:
        blocks.append(title + "\n" + "".join(f"\t{line}".rstrip() + "\n" for line in lines))
    return "\n".join(blocks)


def _options(title: str, flags: Sequence[Flag]) -> str:
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if flag.hidden or flag.use:
            continue
        short = f"-{flag.short}, " if flag.short else "    "
        default = f'"{flag.default}"' if flag.kind == "string" else flag.default
        name = f"--{flag.name}[={flag.bare}]" if _optional(flag) else f"--{flag.name}={default}"
        rows.append((f"  {short}{name}", flag.help))
    width = max((len(left) for left, _ in rows), default=0)
    return title + "\n" + "".join(f"{left:<{width}}\t{right}\n" for left, right in rows)


def _optional(flag: Flag) -> bool:
    return flag.bare is not None and flag.kind != "bool"
