"""The man pages that `make install` makes out of the documents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rkt.cli.table import COMMANDS
from rkt_testkit.probes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man1")
    script = f"{REPOSITORY}/scripts/manpages.py"
    subprocess.run([sys.executable, script, str(directory)], check=True)
    return directory


def test_every_command_has_a_page(pages: Path) -> None:
    commands = [name for name in COMMANDS if name != "help"]
    wanted = {f"rkt-{name.replace(' ', '-')}.1" for name in commands} | {"rkt.1"}
    assert set(os.listdir(pages)) == wanted
    for name in commands:
        page = (pages / f"rkt-{name.replace(' ', '-')}.1").read_text()
        # whatis(1) finds it by this line
        assert re.search(rf"^\.SH NAME\nrkt-{name.replace(' ', '-')} \\- \S", page, re.MULTILINE)
        document = f"{REPOSITORY}/docs/commands/{name.replace(' ', '-')}.md"
        with open(document, encoding="utf-8") as file:
            flags = re.findall(r"^\| `--([a-z0-9-]+)`", file.read(), re.MULTILINE)
        for flag in flags:
            assert rf".TP{chr(10)}\fB\-\-{flag.replace('-', chr(92) + '-')}\fR" in page, flag
        assert "](" not in page  # a link that was not understood
        assert "```" not in page


def test_the_formatter_finds_nothing_wrong(pages: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    for page in sorted(pages.iterdir()):
        done = subprocess.run(
            [groff, "-K", "utf8", "-T", "utf8", "-man", "-ww", "-rLL=200n", str(page)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.startswith(f"{page.stem.upper()}(1)")


def test_what_is_copied_from_a_page_is_what_the_document_has(pages: Path) -> None:
    page = (pages / "rkt-run.1").read_text()
    assert r"(example: \(aq\-\-mount volume=NAME,target=PATH\(aq)" in page
    assert r"# rkt run \-\-inherit\-env \-\-set\-env=FOO=bar example.com/env\-printer" in page
