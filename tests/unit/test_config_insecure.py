"""--insecure-options."""

from __future__ import annotations

import pytest

from rkt.config.insecure import InsecureOptions


def off(text: str) -> set[str]:
    """Give the names of the checks that a value switches off."""
    options = InsecureOptions.parse(text)
    return {name for name in InsecureOptions.__slots__ if getattr(options, name)}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", set()),
        ("image", {"image"}),
        ("Image,TLS", {"image", "tls"}),
        ("ondisk", {"ondisk"}),
        ("all-fetch", {"image", "tls", "http", "pubkey"}),
        ("all-run", {"capabilities", "paths", "seccomp"}),
        ("all-run,image", {"capabilities", "paths", "seccomp", "image"}),
        ("all", set(InsecureOptions.__slots__)),
        ("none,http", {"http"}),
    ],
)
def test_options(text: str, names: set[str]) -> None:
    assert off(text) == names


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", 'unknown option "x"'),
        ("", 'unknown option ""'),
        ("image,Nope", 'unknown option "Nope"'),
        ("image,IMAGE", 'duplicated option "IMAGE"'),
    ],
)
def test_bad_options(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        InsecureOptions.parse(text)


def test_the_old_switch_adds_to_the_new_one() -> None:
    options = InsecureOptions.parse("image,seccomp").without_verification()
    assert (options.image, options.tls, options.seccomp, options.http) == (True, True, True, False)
