"""Scalar types: what is accepted, and the reference's text for what is not."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import RktError, SchemaError
from rkt.schema import types
from rkt.schema.types import BadValue, Quantity


def refused(text: str) -> pytest.RaisesExc[BadValue]:
    return pytest.raises(BadValue, match=f"^{re.escape(text)}$")


ACI_CHARS = 'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/"'
ACI_EDGES = "ACIdentifier must start and end with only lower case alphanumeric characters"
ACN_CHARS = 'ACName must contain only lower case alphanumeric characters plus "-"'
ACN_EDGES = "ACName must start and end with only lower case alphanumeric characters"


@pytest.mark.parametrize("text", ["a", "example.com/reduce-worker", "a--b", "a//b", "a._~b", "0"])
def test_ac_identifier_accepts_what_the_reference_accepts(text: str) -> None:
    assert types.parse_ac_identifier(text) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ACIdentifier cannot be empty"),
        ("Foo", ACI_CHARS),
        ("a b", ACI_CHARS),
        ("a\n", ACI_CHARS),
        ("ä", ACI_CHARS),
        ("a:1", ACI_CHARS),
        ("-a", ACI_EDGES),
        ("a/", ACI_EDGES),
        ("/", ACI_EDGES),
    ],
)
def test_ac_identifier_refuses(text: str, error: str) -> None:
    with refused(error):
        types.parse_ac_identifier(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ACName cannot be empty"),
        ("a.b", ACN_CHARS),
        ("a/b", ACN_CHARS),
        ("../x", ACN_CHARS),
        ("A", ACN_CHARS),
        ("-a", ACN_EDGES),
        ("a-", ACN_EDGES),
    ],
)
def test_ac_name_refuses(text: str, error: str) -> None:
    with refused(error):
        types.parse_ac_name(text)


def test_ac_name_accepts_repeated_dashes() -> None:
    assert types.parse_ac_name("a--b0") == "a--b0"


@given(st.text())
def test_sanitized_names_are_valid_or_refused(text: str) -> None:
    for sanitize, parse in (
        (types.sanitize_ac_name, types.parse_ac_name),
        (types.sanitize_ac_identifier, types.parse_ac_identifier),
    ):
        try:
            name = sanitize(text)
        except BadValue as err:
            assert err.message == "must contain at least one valid character"
        else:
            assert parse(name) == name
            assert sanitize(name) == name


def test_sanitizers_replace_and_strip() -> None:
    assert types.sanitize_ac_identifier("Docker.IO/Foo:Bar ") == "docker.io/foo_bar"
    assert types.sanitize_ac_name("/data/DB_1/") == "data-db-1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "badly formatted hash string"),
        ("sha512", "badly formatted hash string"),
        ("sha512-aa-bb", "badly formatted hash string"),
        ("-aa", "unexpected empty hash type"),
        ("sha256-aa", "unrecognized hash type: sha256"),
        ("sha512-", "unexpected empty hash value"),
        ("sha512-../../etc/passwd", "badly formatted hash string"),
        ("sha512-" + "a" * 129, "badly formatted hash string"),
        ("sha512-aa\n", "badly formatted hash string"),
    ],
)
def test_hash_refuses(text: str, error: str) -> None:
    with refused(error):
        types.parse_hash(text)


def test_hash_accepts_short_forms() -> None:
    assert types.parse_hash("sha512-fa1c") == "sha512-fa1c"
    assert types.parse_hash("sha512-FA1C") == "sha512-fa1c"


@pytest.mark.parametrize("text", ["0.8.11", "1.0.0-rc.1+build", "0.0.0-dev", "01.2.3"])
def test_semver_accepts(text: str) -> None:
    assert types.parse_semver(text) == text


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "v1.2.3", "1.2.3.4", "1.2.x", "1.2.3\n", "\u0661.0.0"]
)
def test_semver_refuses(text: str) -> None:
    with refused("SemVer is bad"):
        types.parse_semver(text)


def test_semver_is_bounded() -> None:
    with refused("SemVer is bad"):
        types.parse_semver("1.0.0-" + "a." * 10**6 + "a")


def test_semver_zero() -> None:
    with refused("SemVer cannot be zero"):
        types.parse_semver("0.0.0")
    assert types.semver_major("12.0.1-x") == 12


UUID = "6733c088-a507-4694-aabf-eda0dfbf9d2c"


@pytest.mark.parametrize("text", [UUID, UUID.upper(), UUID.replace("-", ""), "-" + UUID])
def test_uuid_is_made_canonical(text: str) -> None:
    assert types.parse_uuid(text) == UUID


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "bad UUID length != 32"),
        (UUID[:-1], "bad UUID length != 32"),
        ("0" * 32, "UUID cannot be empty"),
        ("x" * 32, f'bad UUID: "{"x" * 32}" is not hexadecimal'),
    ],
)
def test_uuid_refuses(text: str, error: str) -> None:
    with refused(error):
        types.parse_uuid(text)


def test_bool_has_the_spellings_of_go() -> None:
    for text in ("1", "t", "T", "TRUE", "true", "True"):
        assert types.parse_bool(text) is True
    for text in ("0", "f", "F", "FALSE", "false", "False"):
        assert types.parse_bool(text) is False
    for text in ("", "yes", "tRUE", "2"):
        with refused(f'bad boolean "{text}" (must be true or false)'):
            types.parse_bool(text)


@pytest.mark.parametrize(
    "text",
    [
        "2015-09-10T12:00:00Z",
        "2016-02-29T23:59:59.123456789+02:00",
        "2000-02-29T00:00:00Z",
        "0001-01-01T00:00:00Z",
    ],
)
def test_date_accepts(text: str) -> None:
    assert types.parse_date(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2015-09-10",
        "2015-09-10 12:00:00Z",
        "2015-13-10T12:00:00Z",
        "2015-02-29T12:00:00Z",
        "1900-02-29T12:00:00Z",
        "2015-09-31T12:00:00Z",
        "2015-09-10T24:00:00Z",
        "2015-09-10T12:00:00",
        "2015-09-10T12:00:00+99:00",
    ],
)
def test_date_refuses(text: str) -> None:
    with refused(f'bad Date: "{text}" is not an RFC 3339 date'):
        types.parse_date(text)


def test_url_must_be_http() -> None:
    assert types.parse_http_url("HTTPS://example.com/") == "HTTPS://example.com/"
    for text in ("", "ftp://x", "example.com", "javascript:1"):
        with refused("bad URL scheme, must be http/https"):
            types.parse_http_url(text)
    with refused('bad URL: "http://a\\x1b[31m"'):
        types.parse_http_url("http://a\x1b[31m")


def test_messages_are_one_bounded_line() -> None:
    with pytest.raises(SchemaError) as caught:
        types.parse_uuid("\n" * 32)
    assert "\n" not in caught.value.message
    with pytest.raises(RktError) as caught_long:
        types.parse_bool("x" * 10**6)
    assert len(caught_long.value.message) < 400


@pytest.mark.parametrize(
    ("text", "canonical", "whole", "milli"),
    [
        ("0", "0", 0, 0),
        ("1.5", "1500m", 2, 1500),
        ("1.5Gi", "1536Mi", 1610612736, 1610612736000),
        ("1G", "1G", 10**9, 10**12),
        ("16M", "16M", 16000000, 16000000000),
        ("16m", "16m", 1, 16),
        ("1Ki", "1Ki", 1024, 1024000),
        ("1024Ki", "1Mi", 1048576, 1048576000),
        ("0.5Ki", "512", 512, 512000),
        ("1.3Ki", "1332", 1332, 1331200),
        ("12e6", "12e6", 12000000, 12000000000),
        ("1E3", "1e3", 1000, 1000000),
        ("1E", "1E", 10**18, 10**21),
        ("1500k", "1500k", 1500000, 1500000000),
        ("+5.", "5", 5, 5000),
        ("-.5", "-500m", 0, -500),
        (" 1u ", "1u", 1, 1),
        ("0.0000000001", "1n", 1, 1),
        ("1e999999999999", "9223372036854775807", 2**63 - 1, (2**63 - 1) * 1000),
        ("1e-999999999999", "1e-9", 1, 1),
        ("0e99", "0", 0, 0),
    ],
)
def test_quantity(text: str, canonical: str, whole: int, milli: int) -> None:
    amount = Quantity.parse(text)
    assert (str(amount), amount.bytes(), amount.milli()) == (canonical, whole, milli)


REGEX = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", REGEX),
        ("G", REGEX),
        ("1Q", REGEX),
        ("--1", REGEX),
        ("1 G", REGEX),
        ("0x10", REGEX),
        ("1.2.3", "unable to parse numeric part of quantity"),
        (".", "unable to parse numeric part of quantity"),
        ("9" * 5000, "unable to parse numeric part of quantity"),
        ("1K", "unable to parse quantity's suffix"),
        ("1e", "unable to parse quantity's suffix"),
        ("1MM", "unable to parse quantity's suffix"),
        ("1+3", "unable to parse quantity's suffix"),
        ("1e" + "9" * 5000, "unable to parse quantity's suffix"),
    ],
)
def test_quantity_refuses(text: str, error: str) -> None:
    with refused(error):
        Quantity.parse(text)


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 6),
    st.sampled_from(["", "n", "u", "m", "k", "M", "Ki", "Mi", "Gi", "e3", "E-2"]),
)
def test_quantity_is_exact_and_its_text_is_stable(number: int, places: int, suffix: str) -> None:
    digits = str(abs(number)).rjust(places + 1, "0")
    text = ("-" if number < 0 else "") + digits[: len(digits) - places]
    text += f".{digits[len(digits) - places :]}" if places else ""
    amount = Quantity.parse(text + suffix)
    unit: dict[str, int | Fraction] = {
        "Ki": 2**10,
        "Mi": 2**20,
        "Gi": 2**30,
        "e3": 1000,
        "E-2": Fraction(1, 100),
    }
    unit |= {"": 1, "k": 1000, "M": 10**6}
    unit |= {"m": Fraction(1, 10**3), "u": Fraction(1, 10**6), "n": Fraction(1, 10**9)}
    exact = Fraction(number, 10**places) * unit[suffix]
    if abs(exact) <= 2**63 - 1:
        assert 0 <= abs(Fraction(amount.nano(), 10**9)) - abs(exact) < Fraction(1, 10**9)
    again = Quantity.parse(str(amount))
    # 59.5694Ki is 61000, which loses its family with its suffix, and is 61k from then on.
    assert str(Quantity.parse(str(again))) == str(again)
    assert suffix in ("Ki", "Mi", "Gi") or str(again) == str(amount)
    assert again.bytes() == amount.bytes()


@given(st.text(alphabet="0123456789.+-eEinumkKMGTPi "))
def test_quantity_never_fails_otherwise(text: str) -> None:
    try:
        Quantity.parse(text)
    except BadValue:
        pass


def test_quantities_compare_by_value() -> None:
    assert Quantity.parse("1Ki") == Quantity.parse("1024")
    assert Quantity.parse("1k") < Quantity.parse("1Ki")
    assert len({Quantity.parse("1"), Quantity.of(1)}) == 1
    assert repr(Quantity.of(2048, binary=True)) == "Quantity('2Ki')"
