from __future__ import annotations

import os
import re

import pytest

from rkt import errors


def test_the_docstring_lists_the_tree() -> None:
    doc = errors.__doc__ or ""
    listed = re.findall(r"^ +([A-Z]\w+)  ", doc, re.MULTILINE)
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.RktError)
    ]
    assert sorted(listed) == sorted(defined)
    for name in defined:
        assert vars(errors)[name].exit_code == 254


def _chained() -> errors.RktError:
    try:
        try:
            raise FileNotFoundError(2, "No such file or directory", "/a")
        except OSError as err:
            raise errors.ConfigError("cannot read it") from err
    except errors.ConfigError as err:
        outer = errors.RktError("cannot start")
        outer.__cause__ = err
        return outer


def test_text_is_outermost_and_root_cause() -> None:
    assert errors.describe(_chained()) == 'cannot start: "/a": No such file or directory'


def test_debug_shows_the_whole_chain() -> None:
    assert errors.describe(_chained(), debug=True) == (
        'cannot start\n  └─cannot read it\n    └─"/a": No such file or directory'
    )


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\nb", "a\x9bb"])
def test_foreign_text_cannot_move_the_cursor(text: str) -> None:
    shown = errors.describe(errors.RktError(text))
    assert shown.isprintable()
    assert "\\x" in shown


def test_http_status_names_the_url() -> None:
    err = errors.HTTPStatusError(404, "https://example.com/a.aci")
    assert errors.describe(err) == '"https://example.com/a.aci": bad HTTP status code: 404'


def test_a_cause_is_said_once_though_it_has_a_path() -> None:
    try:
        try:
            raise FileNotFoundError(2, "No such file or directory", "/store/tmp/1")
        except OSError as err:
            raise errors.KernelError("cannot write to the store", err, "/store/tmp") from err
    except errors.RktError as err:
        shown = errors.describe(err)
    assert shown == 'cannot write to the store "/store/tmp": No such file or directory'


def test_what_others_wrote_is_one_line_and_bytes_are_bytes() -> None:
    text = os.fsdecode(b"a\n\x1b\xff\xc3\xa9")
    assert errors.one_line(text) == "a\\x0a\\x1b\\xff\u00e9"
