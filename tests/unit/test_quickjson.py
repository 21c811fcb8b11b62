"""JSON without its package: the values, the texts and the errors are those of `json`."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt import quickjson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def outcome(function: object, *args: object, **options: object) -> tuple[str, str]:
    assert callable(function)
    try:
        return "value", repr(function(*args, **options))
    except (ValueError, TypeError, RecursionError) as err:
        return type(err).__name__, str(err)


@given(values)
def test_values_are_written_and_read_alike(value: object) -> None:
    text = json.dumps(value)
    assert quickjson.dumps(value) == text
    assert quickjson.dumps(value, compact=True) == json.dumps(value, separators=(",", ":"))
    assert quickjson.loads(text) == quickjson.loads(text.encode()) == value
    assert quickjson.loads(json.dumps(value, ensure_ascii=False, indent=1)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"{", b"[1,]", b'{"a" 1}', b'"\x01"', b'"\\x"', b"1 2", b"[1] x", b"nul",
        b"NaN", b"[Infinity, -Infinity]", b"1e999", b"-0", b"0.10", b"1" * 5000,
        b"\xff", b'"\xed\xa0\x80"', b'"\\ud800"', b"\xef\xbb\xbf[1]", b"\x0b1", "1\u00a0".encode(),
        '{"a": 1}'.encode("utf-16"), '["a"]'.encode("utf-16-le"), "[1]".encode("utf-32-be"),
        b'{"a": 1, "a": 2}', b" \t\r\n[1]\n ",
    ],
)  # fmt: skip
def test_odd_documents_are_taken_and_refused_alike(data: bytes) -> None:
    assert outcome(quickjson.loads, data) == outcome(json.loads, data)
    text = data.decode("utf-8", "replace")
    assert outcome(quickjson.loads, text) == outcome(json.loads, text)


def test_a_document_too_deep_is_refused_like_any_other() -> None:
    for data in (b"[" * 100_000, b'{"a":' * 100_000, "[" * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            quickjson.loads(data)


def test_a_broken_document_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"Expecting ',' delimiter: line 2 column 4 \(char 7\)"):
        quickjson.loads(b"\n[1,\n 2 3]".strip())


def test_odd_values_are_written_and_refused_alike() -> None:
    ring: list[object] = []
    ring.append(ring)
    for value in (
        {1: 2, None: 3, False: 4, 1.5: 5}, (1, 2), "\udc80\u20ac", math.inf, [math.nan], 1 << 70,
        {1, 2}, b"bytes", {(1, 2): 3}, ring, object,
    ):  # fmt: skip
        assert outcome(quickjson.dumps, value) == outcome(json.dumps, value)


@pytest.mark.parametrize("data", ["", "{", '{"a"', "[1,", '"\\x"', '"a', "nul", "1 2"])
def test_what_is_broken_is_refused_while_the_package_is_not_loaded(data: str) -> None:
    code = "import sys; from rkt import quickjson as q\nassert 'json' not in sys.modules\n"
    code += f"try: q.scan({data!r})\nexcept ValueError: pass\nelse: print('taken')\n"
    code += f"try: q.loads({data!r})\nexcept ValueError: print('refused')"
    argv = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_what_is_plain_loads_no_package() -> None:
    code = "import sys; from rkt import quickjson as q\n"
    code += "q.loads(q.dumps({'a': [1, 2.5, None, True, 'e']})); print('json' in sys.modules)"
    argv = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
