"""Scalar values of App Container documents, checked as the reference implementation does.

Every `parse_*` function returns the checked value and raises `BadValue`, whose text is the one of
the reference implementation.  appc spec v0.8.11, types.md and schema/types.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rkt.errors import SchemaError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

_ACI_FORBIDDEN = re.compile(r"[^a-z0-9\-._~/]")
_ACI_EDGES = "-._~/"
_ACN_FORBIDDEN = re.compile(r"[^a-z0-9-]")
_ACN_EDGES = "-"
_HASH_VALUE = re.compile(r"[0-9a-fA-F]{1,128}")
_NUMERIC = r"([0-9]{1,18})"
_DOTTED = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SEMVER = re.compile(rf"{_NUMERIC}\.{_NUMERIC}\.{_NUMERIC}(-{_DOTTED})?(\+{_DOTTED})?")
_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,][0-9]+)?"
    r"(?:Z|[+-]([0-9]{2}):([0-9]{2}))"
)
_HEX32 = re.compile(r"[0-9a-fA-F]{32}")
_URL_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_QUOTE_LIMIT = 200
_MAX_SEMVER = 256


class BadValue(SchemaError, ValueError):
    """A value breaks a rule of the schema.

    It is a ValueError too, because that is what msgspec completes with the JSON path.
    """


def quote(text: str) -> str:
    """Quote foreign text for a message: printable, bounded."""
    if len(text) > _QUOTE_LIMIT:
        text = text[:_QUOTE_LIMIT] + "..."
    return f'"{one_line(text)}"'


def reject_nul(text: str, what: str) -> None:
    """Refuse text that no system call can take as path, argument or environment."""
    if "\0" in text:
        raise BadValue(f"{what} must not contain a NUL character")


def parse_ac_identifier(text: str) -> str:
    """Check an AC Identifier, such as an image name or a label name."""
    if not text:
        raise BadValue("ACIdentifier cannot be empty")
    if _ACI_FORBIDDEN.search(text):
        raise BadValue(
            'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/"'
        )
    if text[0] in _ACI_EDGES or text[-1] in _ACI_EDGES:
        raise BadValue(
            "ACIdentifier must start and end with only lower case alphanumeric characters"
        )
    return text


def parse_ac_name(text: str) -> str:
    """Check an AC Name, such as the name of an app, a volume or a port."""
    if not text:
        raise BadValue("ACName cannot be empty")
    if _ACN_FORBIDDEN.search(text):
        raise BadValue('ACName must contain only lower case alphanumeric characters plus "-"')
    if text[0] in _ACN_EDGES or text[-1] in _ACN_EDGES:
        raise BadValue("ACName must start and end with only lower case alphanumeric characters")
    return text


def sanitize_ac_identifier(text: str) -> str:
    """Make an AC Identifier of any text; raise BadValue when nothing is left."""
    return _sanitized(_ACI_FORBIDDEN.sub("_", text.lower()).strip(_ACI_EDGES))


def sanitize_ac_name(text: str) -> str:
    """Make an AC Name of any text; raise BadValue when nothing is left."""
    return _sanitized(_ACN_FORBIDDEN.sub("-", text.lower()).strip(_ACN_EDGES))


def _sanitized(text: str) -> str:
    if not text:
        raise BadValue("must contain at least one valid character")
    return text


def parse_hash(text: str) -> str:
    """Check an image ID, `sha512-` and up to 128 hexadecimal digits (short forms are valid).

    The reference accepts any text after the dash; image IDs become file names, so we do not.
    """
    kind, _, value = text.partition("-")
    if "-" not in text or "-" in value:
        raise BadValue("badly formatted hash string")
    if not kind:
        raise BadValue("unexpected empty hash type")
    if kind != "sha512":
        raise BadValue(f"unrecognized hash type: {one_line(kind[:_QUOTE_LIMIT])}")
    if not value:
        raise BadValue("unexpected empty hash value")
    if not _HASH_VALUE.fullmatch(value):
        raise BadValue("badly formatted hash string")
    return text.lower()


def parse_semver(text: str) -> str:
    """Check a semantic version other than 0.0.0."""
    # The bound keeps the expression from eating memory on megabytes of dots.
    found = _SEMVER.fullmatch(text) if len(text) <= _MAX_SEMVER else None
    if not found:
        raise BadValue("SemVer is bad")
    if not any(int(part) for part in found.groups()[:3]) and not found[4] and not found[5]:
        raise BadValue("SemVer cannot be zero")
    return text


def semver_major(text: str) -> int:
    """Give the major number of a version that `parse_semver` accepted."""
    return int(text.partition(".")[0])


def parse_ac_kind(text: str) -> str:
    """Check that a document kind is one of the two known ones."""
    if not text:
        raise BadValue("ACKind must be set")
    if text not in ("ImageManifest", "PodManifest"):
        raise BadValue(f"bad ACKind: {one_line(text[:_QUOTE_LIMIT])}")
    return text


def parse_uuid(text: str) -> str:
    """Give a pod UUID in canonical form, 8-4-4-4-12 lower case digits."""
    digits = text.replace("-", "")
    if len(digits) != 32:
        raise BadValue("bad UUID length != 32")
    if not _HEX32.fullmatch(digits):
        raise BadValue(f"bad UUID: {quote(text)} is not hexadecimal")
    if digits.strip("0") == "":
        raise BadValue("UUID cannot be empty")
    digits = digits.lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def parse_bool(text: str) -> bool:
    """Read a boolean in one of the spellings of Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValue(f"bad boolean {quote(text)} (must be true or false)")


def parse_date(text: str) -> str:
    """Check an RFC 3339 date with a literal `T`."""
    found = _DATE.fullmatch(text)
    if found:
        year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        zone_ok = found[7] is None or (int(found[7]) < 24 and int(found[8]) < 60)
        if (
            1 <= month <= 12
            and 1 <= day <= _MONTH_DAYS[month - 1]
            and not (month == 2 and day == 29 and not leap)
            and hour < 24
            and minute < 60
            and second < 60
            and zone_ok
        ):
            return text
    raise BadValue(f"bad Date: {quote(text)} is not an RFC 3339 date")


def parse_http_url(text: str) -> str:
    """Check that a URL is http or https and fit to be printed."""
    if not _URL_SCHEME.match(text):
        raise BadValue("bad URL scheme, must be http/https")
    if not text.isprintable():
        raise BadValue(f"bad URL: {quote(text)}")
    return text


_QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
_QUANTITY_REGEX = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()}
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}
_NANO = 10**9
_MAX_DIGITS = 1000
_MAX_QUANTITY = ((1 << 63) - 1) * _NANO


class Quantity:
    """An amount of a resource, such as `500m` or `1.5Gi`; exact, in billionths.

    appc schema/types/resource: finer values are rounded away from zero, larger ones than 2^63-1
    are cut to that.
    """

    __slots__ = ("_family", "_nano")

    def __init__(self, nano: int, family: str = "decimal") -> None:
        self._nano = max(min(nano, _MAX_QUANTITY), -_MAX_QUANTITY)
        # A family of `binary` makes no sense for fractions; the reference switches as well.
        small = family == "binary" and abs(self._nano) < 1024 * _NANO
        self._family = "decimal" if small else family

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Read a quantity; raises BadValue with the text of the reference."""
        found = _QUANTITY.fullmatch(text.strip())
        if not found:
            raise BadValue(f"quantities must match the regular expression '{_QUANTITY_REGEX}'")
        number, suffix = found.groups()
        whole, _, fraction = number.lstrip("+-").partition(".")
        digits = whole + fraction
        if not digits.isdecimal() or len(digits) > _MAX_DIGITS:
            raise BadValue("unable to parse numeric part of quantity")
        family, base, power = _quantity_suffix(suffix)
        numerator = int(digits) * _NANO
        denominator = 10 ** len(fraction)
        if power >= 0:
            numerator *= base**power
        else:
            denominator *= base**-power
        nano = -(-numerator // denominator)
        return cls(-nano if number.startswith("-") else nano, family)

    @classmethod
    def of(cls, amount: int, *, binary: bool = False) -> Quantity:
        """Make a quantity of a whole number."""
        return cls(amount * _NANO, "binary" if binary else "decimal")

    def bytes(self) -> int:
        """Give the value as a whole number, rounded up."""
        return -(-self._nano // _NANO)

    def milli(self) -> int:
        """Give a thousand times the value, rounded up."""
        return -(-self._nano * 1000 // _NANO)

    def nano(self) -> int:
        """Give the exact value in billionths."""
        return self._nano

    def __str__(self) -> str:
        if self._nano == 0:
            return "0"
        if self._family == "binary":
            value, power = self.bytes(), 0
            while power < 6 and value % 1024 == 0:
                value, power = value // 1024, power + 1
            return f"{value}{_BINARY_NAMES.get(power, '')}"
        value, power = self._nano, -9
        while power < 18 and value % 1000 == 0:
            value, power = value // 1000, power + 3
        if self._family == "exponent":
            return f"{value}e{power}" if power else str(value)
        return f"{value}{_DECIMAL_NAMES[power]}"

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self._nano == other._nano

    def __lt__(self, other: Quantity) -> bool:
        return self._nano < other._nano

    def __hash__(self) -> int:
        return hash(self._nano)


def _quantity_suffix(suffix: str) -> tuple[str, int, int]:
    if suffix in _DECIMAL:
        return "decimal", 10, _DECIMAL[suffix]
    if suffix in _BINARY:
        return "binary", 1024, _BINARY[suffix]
    exponent = suffix[1:]
    digits = exponent[1:] if exponent[:1] in ("+", "-") else exponent
    if suffix[0] not in "eE" or not digits.isdecimal() or len(digits) > 18:
        raise BadValue("unable to parse quantity's suffix")
    # Beyond this every number of _MAX_DIGITS digits is either cut or rounded to one billionth.
    return "exponent", 10, max(min(int(exponent), 2 * _MAX_DIGITS), -2 * _MAX_DIGITS)


if TYPE_CHECKING:
    ACName: TypeAlias = str
    ACIdentifier: TypeAlias = str
    ACKind: TypeAlias = str
    SemVer: TypeAlias = str
    ImageID: TypeAlias = str
else:
    # msgspec sends a field of an unknown class through `dec_hook`, which gives errors the exact
    # JSON path.  The values stay plain strings: str subclasses cannot be encoded.
    class _Checked(type):
        def __instancecheck__(cls, value):
            return isinstance(value, str)

    class ACName(metaclass=_Checked): ...

    class ACIdentifier(metaclass=_Checked): ...

    class ACKind(metaclass=_Checked): ...

    class SemVer(metaclass=_Checked): ...

    class ImageID(metaclass=_Checked): ...


SCALARS: dict[object, Callable[[str], str]] = {
    ACName: parse_ac_name,
    ACIdentifier: parse_ac_identifier,
    ACKind: parse_ac_kind,
    SemVer: parse_semver,
    ImageID: parse_hash,
}
"""The check of each scalar type that documents are declared with."""
