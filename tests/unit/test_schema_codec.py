"""Decoding of untrusted bytes: bounds, positions, Go's reading of keys and null."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.image import decode_image_manifest
from rkt.schema.isolators import Isolator
from rkt.schema.pod import PodManifest, decode_pod_manifest
from rkt.schema.struct import Struct
from rkt.schema.types import ACName  # noqa: TC001 - codec resolves it


class Inner(Struct):
    name: ACName
    count: int = 0


class Outer(Struct):
    items: tuple[Inner, ...] = ()
    value: codec.JSON = None


KEYS = codec.key_table(Outer, Inner)


def refused(text: str) -> pytest.RaisesExc[SchemaError]:
    return pytest.raises(SchemaError, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "error at line 1, column 1: unexpected end of JSON input"),
        (b"{", "error at line 1, column 2: unexpected end of JSON input"),
        (b'{\n "items": x}', "error at line 2, column 11: invalid character"),
        (b'{"items":[]}\n\n}', "error at line 3, column 1: trailing characters"),
        (b"\xef\xbb\xbf{}", "error at line 1, column 1: invalid character"),
        (b'{"value":\n"a\xff"}', "error at line 2, column 3: text is not UTF-8"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"items":[{"name":""}]}', "ACName cannot be empty - at $.items[0].name"),
        (b'{"items":[{"name":1}]}', "expected `str`, got `int` - at $.items[0].name"),
        (b'{"items":[{"name":"a","count":"x"}]}', None),
        (b'{"items":[{}]}', "object missing required field `name` - at $.items[0]"),
        (b'{"value":' + b"[" * 50000, "document is nested too deeply"),
        (b'{"other":' + b'{"a":' * 50000, "document is nested too deeply"),
    ],
)
def test_errors_say_where(data: bytes, error: str | None, keys: dict[str, str] | None) -> None:
    error = error or "expected `int`, got `str` - at $.items[0].count"
    with refused(f"doc: {error}"):
        codec.decode(data, Outer, "doc", keys=keys)


def test_size_is_bounded() -> None:
    with refused("doc: document of 11 bytes is larger than 10 bytes"):
        codec.decode(b'{"x": "yy"}', Outer, "doc", limit=10)
    with refused("image manifest: document of 16777217 bytes is larger than 16777216 bytes"):
        decode_image_manifest(b" " * (16 << 20) + b"x")


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    data = b'{"ITEMS":[{"Name":"a","count":null,"other":{"Name":1}}],"extra":[null]}'
    assert codec.decode(data, Outer, "doc", keys=KEYS) == Outer((Inner("a"),))
    assert codec.decode(data, Outer, "doc") == Outer()


def test_opaque_values_keep_their_keys_and_numbers() -> None:
    data = b'{"value":{"NAME":1.50,"x":1e400,"y":123456789012345678901234567890}}'
    outer = codec.decode(data, Outer, "doc", keys=KEYS)
    assert list(outer.value) == ["NAME", "x", "y"]
    assert b"1.50" in codec.encode(outer)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (b"9" * 5000, "integer value out of range - at $[...][0][...]"),
        (b"1e9999999999999999999", "number out of range"),
        (b"1e-9999999999999999999", "number out of range"),
        (b"1.5", "expected `int`, got `float` - at $.items[0].count"),
        (b"80.0", "expected `int`, got `float` - at $.items[0].count"),
        (b"true", "expected `int`, got `bool` - at $.items[0].count"),
    ],
)
def test_numbers_that_fit_no_field_are_refused(number: bytes, error: str) -> None:
    data = b'{"items":[{"name":"a","count":' + number + b"}]}"
    with refused(f"doc: {error}"):
        codec.decode(data, Outer, "doc", keys=KEYS)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"^doc: error at line 1, column "):
        codec.decode(b'{"value":"\\ud800"}', Outer, "doc", keys=KEYS)


def test_convert_checks_python_objects() -> None:
    assert codec.convert({"items": [{"name": "a"}]}, Outer, "doc") == Outer((Inner("a"),))
    with refused('doc: ACName must contain only lower case alphanumeric characters plus "-"'
                 " - at $.items[0].name"):  # fmt: skip
        codec.convert({"items": [{"name": "A"}]}, Outer, "doc")


def test_pretty_form_is_that_of_go() -> None:
    value = {"a": [], "b": {}, "c": [1, {"x": "  y\tz"}]}
    assert codec.encode_pretty(value) == (
        b'{\n\t"a": [],\n\t"b": {},\n\t"c": [\n\t\t1,\n\t\t{\n\t\t\t"x": "  y\\tz"\n\t\t}\n\t]\n}'
    )


def test_what_json_cannot_hold_is_not_written() -> None:
    with refused('cannot write JSON: text is not UTF-8: "/srv/\\xff"'):
        codec.encode(Outer(value="/srv/\udcff"))
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in (Outer(value=deep), PodManifest.create((), isolators=(Isolator("x", deep),))):
        with refused("cannot write JSON: value is nested too deeply"):
            codec.encode(value)


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["acKind", "acVersion", "name", "APP", "apps", "labels", "image", "x"])
            | st.text(),
            inner,
        )
    ),
)


@given(ANY_JSON)
def test_any_document_is_a_manifest_or_a_schema_error(value: object) -> None:
    data = json.dumps(value).encode()
    for decode in (decode_image_manifest, decode_pod_manifest):
        with pytest.raises(SchemaError) as caught:
            decode(data)
        assert "\n" not in caught.value.message
        assert " manifest: " in caught.value.message


@given(st.binary())
def test_any_bytes_are_a_schema_error(data: bytes) -> None:
    with pytest.raises(SchemaError):
        decode_image_manifest(data)


PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN_JSON)
def test_the_bytes_are_those_of_msgspec(value: object) -> None:
    # Manifests of converted images are hashed: another way of writing would give other image IDs.
    assert codec.encode(value) == msgspec.json.encode(value)
    text = "".join(map(chr, range(0xD800))) + "\ue000\uffff\U0001f600"
    assert codec.encode(text) == msgspec.json.encode(text)
    assert codec.parse(codec.encode(value), "value") == value


@given(ANY_JSON)
def test_pretty_form_is_the_same_document(value: object) -> None:
    assert json.loads(codec.encode_pretty(value)) == json.loads(json.dumps(value))


def test_manifests_are_read_and_written_without_a_library() -> None:
    script = (
        "import sys, os; before = set(sys.modules)\n"
        "from rkt.schema import codec, pod, textual\n"
        'text = b\'{"acVersion":"0.8.11","acKind":"PodManifest","apps":[]}\'\n'
        "codec.encode(pod.decode_pod_manifest(text))\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] != 'rkt'))"
    )
    script = f"import sys; sys.path[:] = {sys.path!r}\n{script}"
    argv = [sys.executable, "-S", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__future__", "_json", "_socket"]
