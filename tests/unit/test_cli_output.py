from __future__ import annotations

import json
import time

import pytest

from rkt.cli import duration, formats, output


def test_table_is_laid_out_as_tabwriter_does() -> None:
    rows = [("UUID", "APP", "ACI", "STATE"), ("5bc080ca", "redis", "redis", "running"),
            ("", "etcd", "coreos.com/etcd", "")]  # fmt: skip
    assert output.table(rows) == (
        "UUID\t\tAPP\tACI\t\tSTATE\n"
        "5bc080ca\tredis\tredis\t\trunning\n"
        "\t\tetcd\tcoreos.com/etcd\t\n"
    )


def test_a_table_without_rows_is_one_blank_line() -> None:
    assert output.table([]) == "\n"


def test_columns_are_computed_over_consecutive_rows() -> None:
    assert output.table([("a", "b"), ("alone",), ("longer-cell", "b")]) == (
        "a\tb\nalone\nlonger-cell\tb\n"
    )


NOW = 10**18


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (1, "1 second ago"), (59, "59 seconds ago"), (60, "1 minute ago"),
     (119, "1 minute ago"), (120, "2 minutes ago"), (3600, "1 hour ago"), (7200, "2 hours ago"),
     (86400, "1 day ago"), (2 * 86400, "2 days ago"), (7 * 86400, "1 week ago"),
     (14 * 86400, "2 weeks ago"), (30 * 86400, "1 month ago"), (60 * 86400, "2 months ago"),
     (400 * 86400, "1 year ago"), (600 * 86400, "2 years ago"), (-120, "2 minutes from now")],
)  # fmt: skip
def test_humanised_times(seconds: int, text: str) -> None:
    assert output.ago(NOW - seconds * 10**9, NOW) == text


def test_time_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert output.time_text(1436515577_320_000_000) == "2015-07-10 08:06:17.32 +0000 UTC"
    assert output.time_text(1436515577_000_999_999) == "2015-07-10 08:06:17 +0000 UTC"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (5, "5B"), (1023, "1023B"), (1024, "1.0KiB"), (1258291, "1.2MiB"),
     (15 << 20, "15MiB"), (3 << 30, "3.0GiB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert output.size_text(size) == text


@pytest.mark.parametrize(
    ("text", "seconds", "back"),
    [("30m0s", 1800, "30m0s"), ("1h30m", 5400, "1h30m0s"), ("24h", 86400, "24h0m0s"),
     ("90s", 90, "1m30s"), ("0", 0, "0s"), ("500ms", 0.5, "500ms"), ("1.5s", 1.5, "1.5s")],
)  # fmt: skip
def test_durations(text: str, seconds: float, back: str) -> None:
    assert duration.parse(text) == seconds
    assert duration.format(seconds) == back


@pytest.mark.parametrize("text", ["", "x", "10", "1.2.3s", "s", "-", "5 m", "3d", "2562048h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        duration.parse(text)


@pytest.mark.parametrize("form", [formats.JSON, formats.PRETTY])
def test_json_does_not_steer_a_terminal(form: str) -> None:
    value = {"a": "".join(map(chr, range(0x100)))}
    text = formats.text(value, form)
    assert all(c.isprintable() or c in "\n\t\u00a0\u00ad" for c in text)
    assert json.loads(text) == value
