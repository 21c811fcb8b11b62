"""The documents of the commands, held against the parser."""

from __future__ import annotations

import os
import re
from importlib import import_module

import pytest

from rkt.cli import helptext
from rkt.cli.table import COMMANDS

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "commands")
UNDOCUMENTED = {"help"}


def _document(verb: str) -> str:
    with open(os.path.join(DOCS, f"{verb.replace(' ', '-')}.md"), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("verb", sorted(COMMANDS.keys() - UNDOCUMENTED))
def test_every_flag_is_documented_and_no_other(verb: str) -> None:
    command = import_module(f"rkt.cli.cmd.{COMMANDS[verb].module}").COMMAND
    shown = {
        flag.name: (flag.short, flag.default)
        for flag in command.flags
        if not flag.hidden and not flag.use
    }
    row = re.compile(r"^\| `--([a-z0-9-]+)`(?:, `-(.)`)? \| (?:`(.*?)`)? *\|", re.MULTILINE)
    listed = {match[1]: (match[2] or "", match[3] or "") for match in row.finditer(_document(verb))}
    assert listed == shown
    assert len(row.findall(_document(verb))) == len(listed)


def test_every_document_is_of_a_command() -> None:
    known = {f"{verb.replace(' ', '-')}.md" for verb in COMMANDS}
    families = {f"{verb.split()[0]}.md" for verb in COMMANDS if " " in verb}
    assert set(os.listdir(DOCS)) <= known | families


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_the_help_of_a_command_has_no_empty_section(verb: str) -> None:
    sections = helptext.of_command(verb).split("\n\n")
    assert sections[0].startswith(f"NAME:\n\t{verb} - ")
    assert all(len(section.splitlines()) > 1 for section in sections if section[0].isupper())
