"""Meta discovery: pages, templates, the walk to the parents."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.config.insecure import InsecureOptions
from rkt.errors import DiscoveryError, FetchError, HTTPStatusError
from rkt.fetch.discovery import find_endpoint, find_keys, parse_tags, render
from rkt.fetch.http import Client, Unreachable

LABELS = {"os": "linux", "arch": "amd64"}


class Pages(Client):
    """A client whose answers are in a table; a number is a status, None is no answer at all."""

    def __init__(self, pages: dict[str, str | int | None], *, http: bool = False) -> None:
        super().__init__(InsecureOptions(http=http))
        self.pages = pages
        self.asked: list[str] = []

    def read(self, url: str, *, limit: int) -> bytes:
        """Give the page."""
        self.asked.append(url)
        page = self.pages.get(url.removesuffix("?ac-discovery=1"), 404)
        if page is None:
            raise Unreachable(f'"{url}": connection refused')
        if isinstance(page, int):
            raise HTTPStatusError(page, url)
        assert len(page) <= limit
        return page.encode()


def meta(name: str, content: str) -> str:
    """Write a tag."""
    return f'<meta name="{name}" content="{content}">'


APP = meta("ac-discovery", "example.com/app https://dl.example.com/{name}-{version}-{os}.{ext}")
KEYS = meta("ac-discovery-pubkeys", "example.com/app https://example.com/keys.gpg")


def test_endpoint_and_keys() -> None:
    pages = Pages({"https://example.com/app": APP + KEYS})
    found = find_endpoint(pages, "example.com/app", {**LABELS, "version": "1.0"})
    assert found.image == "https://dl.example.com/example.com/app-1.0-linux.aci"
    assert found.signature == "https://dl.example.com/example.com/app-1.0-linux.aci.asc"
    assert find_keys(pages, "example.com/app") == ["https://example.com/keys.gpg"]


def test_version_is_latest_unless_asked_for() -> None:
    found = find_endpoint(Pages({"https://example.com/app": APP}), "example.com/app", LABELS)
    assert "-latest-" in found.image


def test_walk_to_the_parents_for_each_kind_on_its_own() -> None:
    pages = Pages({
        "https://example.com/app/sub": KEYS,
        "https://example.com/app": 500,
        "https://example.com": APP + meta("ac-discovery-pubkeys", "example.com https://x/no.gpg"),
    })  # fmt: skip
    assert "dl.example.com" in find_endpoint(pages, "example.com/app/sub", LABELS).image
    assert find_keys(pages, "example.com/app/sub") == ["https://example.com/keys.gpg"]
    assert pages.asked[:3] == [
        "https://example.com/app/sub?ac-discovery=1", "https://example.com/app?ac-discovery=1",
        "https://example.com?ac-discovery=1",
    ]  # fmt: skip


def test_prefix_is_one_of_the_string() -> None:
    page = meta("ac-discovery", "example.com/pro https://example.com/{name}.{ext}")
    pages = Pages({"https://example.com/project": page})
    assert find_endpoint(pages, "example.com/project", {}).image.endswith("example.com/project.aci")
    pages = Pages({"https://example.com/other": page})
    with pytest.raises(FetchError):
        find_endpoint(pages, "example.com/other", {})


def test_template_with_a_variable_left_over_is_skipped() -> None:
    page = meta("ac-discovery", "example.com https://example.com/{flavour}.{ext}") + APP
    pages = Pages({"https://example.com/app": page})
    assert "dl.example.com" in find_endpoint(pages, "example.com/app", LABELS).image
    assert render("https://x/{a}{b}", "n", {"a": "1"}, "aci") is None
    assert render("https://x/{name}/{a}.{ext}", "n", {"a": "{b}"}, "aci") is None


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html></html>", "found no ACI meta tags"),
        ("", "found no ACI meta tags"),
        (KEYS, "no endpoints discovered"),
        (meta("ac-discovery", "example.org https://x/{name}.{ext}"), "no endpoints discovered"),
        (404, '"https://example.com?ac-discovery=1": bad HTTP status code: 404'),
    ],
)
def test_nothing_found(page: str | int, text: str) -> None:
    pages = Pages({"https://example.com": page})
    with pytest.raises(FetchError) as caught:
        find_endpoint(pages, "example.com", LABELS)
    assert caught.value.message == text


def test_no_keys_found() -> None:
    with pytest.raises(DiscoveryError, match=r"meta discovery on example.com/app resulted in no"):
        find_keys(Pages({"https://example.com": APP}), "example.com/app")
    with pytest.raises(DiscoveryError, match="found no ACI meta tags"):
        find_keys(Pages({"https://example.com": ""}), "example.com/app")


def test_host_that_does_not_answer_is_asked_once() -> None:
    pages = Pages({"https://example.com/a/b": None})
    with pytest.raises(Unreachable):
        find_endpoint(pages, "example.com/a/b", LABELS)
    assert len(pages.asked) == 1


def test_plain_http_only_when_allowed() -> None:
    page = meta("ac-discovery", "example.com http://example.com/{name}.{ext}")
    table: dict[str, str | int | None] = {"http://example.com": page, "https://example.com": None}
    with pytest.raises(Unreachable):
        find_endpoint(Pages(table), "example.com", LABELS)
    found = find_endpoint(Pages(table, http=True), "example.com", LABELS)
    assert found.image == "http://example.com/example.com.aci"
    with pytest.raises(DiscoveryError, match="is not an https URL") as caught:
        find_endpoint(Pages({"https://example.com": page}), "example.com", LABELS)
    assert caught.value.hint == "allow plain http with --insecure-options=http"


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://x/y.aci", "/x.aci", "javascript:1"])
def test_endpoint_of_another_kind_is_refused(uri: str) -> None:
    pages = Pages({"https://example.com": meta("ac-discovery", f"example.com {uri}")}, http=True)
    with pytest.raises(DiscoveryError, match="is not an https URL"):
        find_endpoint(pages, "example.com", LABELS)
    tag = meta("ac-discovery-pubkeys", f"example.com {uri}")
    with pytest.raises(DiscoveryError, match="is not an https URL"):
        find_keys(Pages({"https://example.com": tag}, http=True), "example.com")


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("<META NAME='ac-discovery' CONTENT='a b'/>", 1),
        ('<meta content="a b" name=ac-discovery>', 1),
        ('<meta name="ac-discovery" content="a&#32;b&amp;c">', 1),
        ('<meta\n  name = "ac-discovery"\n  content = "a   b"\n>', 1),
        ('<!-- <meta name="ac-discovery" content="a b"> -->', 0),
        ("<script>\"<meta name='ac-discovery' content='a b'>\"</script>", 0),
        ('<metadata name="ac-discovery" content="a b">', 0),
        ('<meta name="ac-discovery" content="a">', 0),
        ('<meta name="description" content="a b">', 0),
        ('<meta name="ac-discovery" content="a b"', 0),
        ('<meta name="ac-discovery" content="a b>', 0),
        ('<p>\u0130<meta name="ac-discovery" content="a b"></p>', 1),
        ('<meta name="x" name="ac-discovery" content="a b">', 0),
    ],
)
def test_tags(page: str, count: int) -> None:
    assert len(parse_tags(page)) == count


def test_tag_is_split_at_the_first_blank() -> None:
    (tag,) = parse_tags(meta("ac-discovery", "  example.com   https://example.com/a "))
    assert (tag.prefix, tag.uri) == ("example.com", "https://example.com/a")


@pytest.mark.parametrize(
    "piece",
    ["<", "<!--", "<meta ", "<meta a='", '<meta a="', "<script>", "<script></scrip", "<meta a=b ",
     "<a", "<meta/", "<!-->", "<meta a = ", "<title>", "&amp;", "<meta " + " " * 50],
)  # fmt: skip
def test_hostile_page_takes_no_time(piece: str) -> None:
    started = time.process_time()
    parse_tags(piece * ((1 << 20) // len(piece)))
    assert time.process_time() - started < 5


@given(st.text(alphabet="<>!-/=\"' metascriptnamecontentac-discovery\n", max_size=200))
def test_any_page_gives_an_answer(page: str) -> None:
    parse_tags(page)
