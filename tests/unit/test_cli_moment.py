"""Times as flags take them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from rkt.cli import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_800_000_000 * 10**9


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be two hours behind Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX+2")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("text", "wanted"), [
    ("10m", NOW - 600 * 10**9),
    ("1h30m", NOW - 5400 * 10**9),
    ("0", NOW),
    ("10", 10**10),
    ("-5s", NOW + 5 * 10**9),
    ("1700000000", 1_700_000_000 * 10**9),
    ("1700000000.5", 1_700_000_000_500_000_000),
    ("1700000000.123456789", 1_700_000_000_123_456_789),
    ("2026-03-01T10:14:37Z", 1_772_360_077 * 10**9),
    ("2026-03-01T10:14:37.25Z", 1_772_360_077_250_000_000),
    ("2026-03-01T10:14:37+02:00", (1_772_360_077 - 7200) * 10**9),
    ("2026-03-01T10:14:37", (1_772_360_077 + 7200) * 10**9),
    ("2026-03-01 10:14:37", (1_772_360_077 + 7200) * 10**9),
    ("2026-03-01", 1_772_330_400 * 10**9),
])  # fmt: skip
def test_times(text: str, wanted: int) -> None:
    assert moment.parse(text, NOW) == wanted


@pytest.mark.parametrize("text", [
    "now", "1x", "2026-13-01", "2026-03-01T25:00:00Z", "\u00b2", "1.\u00b2", "9" * 5000,
    "9" * 400 + "s", "9999999h", "1.2.3", "-", "",
])  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a duration nor a time"):
        moment.parse(text, NOW)
