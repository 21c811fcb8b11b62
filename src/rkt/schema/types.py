"""Scalar values of App Container documents, checked as the reference implementation does.

Every `parse_*` function returns the checked value and raises `BadValue`, whose text is the one of
the reference implementation.  appc spec v0.8.11, types.md and schema/types.
"""

from __future__ import annotations

from rkt.errors import SchemaError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

# `re` takes longer to load than all of this takes to run.
DIGITS = "0123456789"
HEX = DIGITS + "abcdefABCDEF"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOWER = UPPER.lower()
_ACI_EDGES = "-._~/"
_ACI = LOWER + DIGITS + _ACI_EDGES
_ACN_EDGES = "-"
_ACN = LOWER + DIGITS + _ACN_EDGES
_MAX_HASH = 128
_SEMVER_PART = LOWER + UPPER + DIGITS + "-"
_MAX_SEMVER_DIGITS = 18
_DATE_FORM = "dddd-dd-ddTdd:dd:dd"
_URL_SCHEMES = ("http", "https")
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_QUOTE_LIMIT = 200
_MAX_SEMVER = 256


class BadValue(SchemaError, ValueError):
    """A value breaks a rule of the schema.

    `codec` completes it with the JSON path.
    """


def quote(text: str) -> str:
    """Quote foreign text for a message: printable, bounded."""
    if len(text) > _QUOTE_LIMIT:
        text = text[:_QUOTE_LIMIT] + "..."
    return f'"{one_line(text)}"'


def is_made_of(text: str, letters: str) -> bool:
    """Say whether a text is not empty and has no other characters than these."""
    return text != "" and not text.strip(letters)


def reject_nul(text: str, what: str) -> None:
    """Refuse text that no system call can take as path, argument or environment."""
    if "\0" in text:
        raise BadValue(f"{what} must not contain a NUL character")


def parse_ac_identifier(text: str) -> str:
    """Check an AC Identifier, such as an image name or a label name."""
    if not text:
        raise BadValue("ACIdentifier cannot be empty")
    if not is_made_of(text, _ACI):
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
    if not is_made_of(text, _ACN):
        raise BadValue('ACName must contain only lower case alphanumeric characters plus "-"')
    if text[0] in _ACN_EDGES or text[-1] in _ACN_EDGES:
        raise BadValue("ACName must start and end with only lower case alphanumeric characters")
    return text


def sanitize_ac_identifier(text: str) -> str:
    """Make an AC Identifier of any text; raise BadValue when nothing is left."""
    return _sanitized(text, _ACI, "_", _ACI_EDGES)


def sanitize_ac_name(text: str) -> str:
    """Make an AC Name of any text; raise BadValue when nothing is left."""
    return _sanitized(text, _ACN, "-", _ACN_EDGES)


def _sanitized(text: str, allowed: str, instead: str, edges: str) -> str:
    text = "".join(letter if letter in allowed else instead for letter in text.lower())
    text = text.strip(edges)
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
    if len(value) > _MAX_HASH or not is_made_of(value, HEX):
        raise BadValue("badly formatted hash string")
    return text.lower()


def parse_semver(text: str) -> str:
    """Check a semantic version other than 0.0.0."""
    if len(text) > _MAX_SEMVER:
        raise BadValue("SemVer is bad")
    rest, plus, build = text.partition("+")
    rest, dash, release = rest.partition("-")
    numbers = rest.split(".")
    if (
        len(numbers) != 3
        or not all(len(n) <= _MAX_SEMVER_DIGITS and is_made_of(n, DIGITS) for n in numbers)
        or (dash and not _is_dotted(release))
        or (plus and not _is_dotted(build))
    ):
        raise BadValue("SemVer is bad")
    if not any(int(part) for part in numbers) and not dash and not plus:
        raise BadValue("SemVer cannot be zero")
    return text


def _is_dotted(text: str) -> bool:
    return all(is_made_of(part, _SEMVER_PART) for part in text.split("."))


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
    if not is_made_of(digits, HEX):
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
    moment, zone = _split_date(text)
    if _has_form(moment, _DATE_FORM):
        year, month, day = int(moment[:4]), int(moment[5:7]), int(moment[8:10])
        hour, minute, second = int(moment[11:13]), int(moment[14:16]), int(moment[17:19])
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        zone_ok = zone == "Z" or (
            zone[:1] in ("+", "-")
            and _has_form(zone[1:], "dd:dd")
            and int(zone[1:3]) < 24
            and int(zone[4:]) < 60
        )
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


def _split_date(text: str) -> tuple[str, str]:
    """Separate date and time from the zone; a fraction of a second is checked and left out."""
    end = len(_DATE_FORM)
    moment, zone = text[:end], text[end:]
    if zone[:1] in (".", ","):
        fraction = zone[1:]
        zone = fraction.lstrip(DIGITS)
        if len(zone) == len(fraction):
            return "", ""
    return moment, zone


def _has_form(text: str, form: str) -> bool:
    return len(text) == len(form) and all(
        letter in DIGITS if wanted == "d" else letter == wanted
        for letter, wanted in zip(text, form, strict=True)
    )


def parse_http_url(text: str) -> str:
    """Check that a URL is http or https and fit to be printed."""
    scheme, colon, _ = text.partition(":")
    if not colon or scheme.lower() not in _URL_SCHEMES:
        raise BadValue("bad URL scheme, must be http/https")
    if not text.isprintable():
        raise BadValue(f"bad URL: {quote(text)}")
    return text


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
        number, suffix = _split_quantity(text.strip())
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


def _split_quantity(text: str) -> tuple[str, str]:
    """Separate number and suffix as the expression does that the reference names in its error."""
    sign = text[:1] if text[:1] in ("+", "-") else ""
    suffix = text[len(sign) :].lstrip(DIGITS + ".")
    number = text[: len(text) - len(suffix)]
    exponent = suffix.lstrip("eEinumkKMGTP")
    if exponent[:1] in ("+", "-"):
        exponent = exponent[1:]
    if number == sign or exponent.lstrip(DIGITS):
        raise BadValue(f"quantities must match the regular expression '{_QUANTITY_REGEX}'")
    return number, suffix


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
    # What a field is declared with, so that its value is checked; it stays a plain string.
    class ACName: ...

    class ACIdentifier: ...

    class ACKind: ...

    class SemVer: ...

    class ImageID: ...


SCALARS: dict[object, Callable[[str], str]] = {
    ACName: parse_ac_name,
    ACIdentifier: parse_ac_identifier,
    ACKind: parse_ac_kind,
    SemVer: parse_semver,
    ImageID: parse_hash,
}
"""The check of each scalar type that documents are declared with."""
