#!/usr/bin/env python3
"""Write man pages: of rkt out of its help, of each command out of its document.

    scripts/manpages.py DIRECTORY

The documents use little of Markdown: headings, paragraphs, code, tables, lists, links.  What else
they would come to use is an error.
"""

from __future__ import annotations

import os
import re
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{REPOSITORY}/src")

from rkt import __version__  # noqa: E402
from rkt.cli import helptext  # noqa: E402
from rkt.cli.context import GLOBAL_FLAGS  # noqa: E402
from rkt.cli.table import COMMANDS  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTS = f"{REPOSITORY}/docs/commands"
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[((?:`[^`]*`|[^\]`])+)\]\(([^)]+)\)")
_SIGNS = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
_CELL = re.compile(r"(?<!\\)\|")


def page_of(command: str) -> str:
    """Give the name of a command's page."""
    return f"rkt-{command.replace(' ', '-')}"


def pages() -> Iterator[tuple[str, str]]:
    """Give every page: its name and its text."""
    yield "rkt", _rkt()
    for command in COMMANDS:
        if command == "help":
            continue
        with open(f"{DOCUMENTS}/{command.replace(' ', '-')}.md", encoding="utf-8") as file:
            yield page_of(command), _command(command, file.read())


def _head(name: str, summary: str) -> list[str]:
    title = f'.TH "{name.upper()}" 1 "" "rkt {__version__}" "rkt"'
    return [title, ".nh", ".ad l", ".SH NAME", f"{name} \\- {escape(summary)}"]


def _rkt() -> str:
    lines = [*_head("rkt", helptext.SUMMARY.removeprefix("rkt, ")), ".SH SYNOPSIS"]
    lines += [r"\fBrkt\fR [GLOBAL OPTIONS] COMMAND [ARGS...]", ".SH DESCRIPTION"]
    lines += [text(" ".join(helptext.DESCRIPTION.splitlines())), ".SH COMMANDS"]
    for command, entry in COMMANDS.items():
        lines += [".TP", f"\\fBrkt {escape(command)}\\fR", escape(entry.summary)]
    lines.append(".SH GLOBAL OPTIONS")
    for flag in GLOBAL_FLAGS:
        if not flag.hidden:
            default = f" ({escape(flag.default)})" if flag.default else ""
            lines += [".TP", f"\\fB\\-\\-{escape(flag.name)}\\fR{default}", escape(flag.help)]
    lines += [".SH SEE ALSO", ", ".join(
        rf"\fB{escape(page_of(command))}\fR(1)" for command in COMMANDS if command != "help"
    )]  # fmt: skip
    return "\n".join(lines) + "\n"


def _command(command: str, document: str) -> str:
    lines = document.splitlines()
    if lines[0] != f"# rkt {command}" or lines[1]:
        raise ValueError(f"the document of {command} does not begin with its name")
    name = page_of(command)
    made = [*_head(name, lines[2].rstrip(".")), ".SH SYNOPSIS"]
    rest = [line.replace("Global flags: `rkt help`.", "Global flags: `rkt`(1).")
            for line in lines[3:]]  # fmt: skip
    made += _blocks(rest)
    made += [".SH SEE ALSO", r"\fBrkt\fR(1)"]
    return "\n".join(made) + "\n"


def _blocks(lines: list[str]) -> Iterator[str]:
    """Turn a document into roff, a block at a time."""
    is_synopsis = True
    index = 0
    while index < len(lines):
        line = lines[index]
        start = index
        index += 1
        if not line:
            continue
        if line.startswith("```"):
            index = lines.index("```", start + 1)
            yield from _literal(lines[start + 1 : index])
            index += 1
        elif line.startswith("    "):
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index]):
                index += 1
            block = [word[4:] for word in lines[start:index]]
            while not block[-1]:
                block.pop()
            yield from _literal(block)
            if is_synopsis:
                yield ".SH DESCRIPTION"
                is_synopsis = False
        elif line.startswith("#"):
            level, title = line.split(" ", 1)
            yield f".SH {escape(title).upper()}" if level == "##" else f".SS {escape(title)}"
        elif line.startswith("|"):
            while index < len(lines) and lines[index].startswith("|"):
                index += 1
            yield from _table(lines[start:index])
        else:
            while index < len(lines) and lines[index] and lines[index][0] not in "#|*`":
                index += 1
            item = re.match(r"(\*|\d+\.) +", line)
            words = [line[item.end() :] if item else line, *lines[start + 1 : index]]
            yield r".IP \(bu 2" if item else ".PP"
            yield text(" ".join(word.strip() for word in words))


def _literal(lines: list[str]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf", *map(escape, lines), ".fi", ".RE")


def _table(lines: list[str]) -> Iterator[str]:
    """Give a row after the other: what its first cell names, then what the others say."""
    rows = [[cell.strip() for cell in _CELL.split(line)[1:-1]] for line in lines]
    if any(set(cell) - set("-:") for cell in rows[1]):
        raise ValueError(f"no table: {lines[0]}")
    is_flags = rows[0][:2] == ["Flag", "Default"]
    for name, *others in rows[2:]:
        yield ".TP"
        default = f" ({text(others.pop(0))})" if is_flags and others[0] else ""
        yield f"{text(name)}{default}"
        yield text(". ".join(cell for cell in others if cell)) or r"\&"


def text(words: str) -> str:
    """Turn a paragraph of Markdown into one of roff."""
    made, end = "", 0
    for match in _INLINE.finditer(words):
        made += _plain(words[end : match.start()])
        end = match.end()
        code, bold, label, target = match.groups()
        if label:
            page = re.fullmatch(r"([a-z-]+)\.md", target)
            made += rf"\fBrkt\-{escape(page[1])}\fR(1)" if page else text(label)
        else:
            made += rf"\fB{escape(code or bold)}\fR"
    return _unmarked(made + _plain(words[end:]))


def _plain(words: str) -> str:
    return re.sub(r"\*([^*]+)\*", r"\\fI\1\\fR", escape(words))


def escape(line: str) -> str:
    """Make text that roff takes for text, and that can be copied from a page to a shell."""
    return _unmarked(line.replace("\\|", "|").translate(_SIGNS))


def _unmarked(line: str) -> str:
    return rf"\&{line}" if line.startswith(".") else line


def main(directory: str) -> None:
    """Write all pages into a directory."""
    os.makedirs(directory, exist_ok=True)
    for name, content in pages():
        with open(f"{directory}/{name}.1", "w", encoding="utf-8") as file:
            file.write(content)


if __name__ == "__main__":
    main(sys.argv[1])
