"""Take keys into the keystore: get them, show them, ask, store them.

`rkt trust` does it, and `rkt fetch` when a publisher announces keys for an image.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rkt import log
from rkt.errors import FetchError, RktError, one_line
from rkt.fetch.http import shown
from rkt.keystore.openpgp import MAX_KEY_DATA, inspect_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.fetch.http import Client
    from rkt.keystore.keys import Keystore
    from rkt.keystore.packets import PublicKey

ACCEPT = "accept"
"""Trust without asking."""
ASK = "ask"
"""Ask, and read the answer from whatever standard input is."""
ASK_TERMINAL = "ask-terminal"
"""Ask if somebody sits at a terminal; else say how to trust the key, and fail."""

_QUESTION = "Are you sure you want to trust this key (yes/no)? "
_MAX_ANSWER = 1024


def add_keys(
    keystore: Keystore,
    client: Client,
    locations: Sequence[str],
    *,
    prefix: str | None,
    review: str,
) -> None:
    """Get, review and store the keys at each location, for a prefix or (None) for every image.

    A refused key is skipped.  Raises RktError when a key cannot be read, reviewed or stored.
    """
    for location in locations:
        keys = _read_keys(client, location)
        where = one_line(shown(location))
        if review == ASK_TERMINAL and not _at_terminal():
            _give_advice(prefix or "")
            raise RktError(
                "error reviewing key: unable to ask user to review fingerprint due to lack of tty"
            )
        log.plain(f'Prefix: "{prefix or ""}"' + ("" if prefix else " (every image)"))
        log.plain(f'Key: "{where}"')
        for key in keys:
            _show(key)
            if review != ACCEPT and not _is_accepted():
                log.info(f'not trusting "{where}"')
                continue
            how = " without fingerprint review." if review == ACCEPT else "."
            log.plain(f'Trusting "{where}" for prefix "{prefix or ""}"{how}')
            _add(keystore, key, prefix)


def spaced(fingerprint: str) -> str:
    """Write a fingerprint as gpg does: groups of four, a wider gap in the middle."""
    digits = fingerprint.upper()
    groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    return "  ".join((" ".join(groups[:5]), " ".join(groups[5:])))


def _add(keystore: Keystore, key: PublicKey, prefix: str | None) -> None:
    if prefix is None:
        path = keystore.add_root(key.armored, key.fingerprint)
        log.plain(f'Added root key at "{path}"')
    else:
        path = keystore.add_prefix(prefix, key.armored, key.fingerprint)
        log.plain(f'Added key for prefix "{prefix}" at "{path}"')


def _show(key: PublicKey) -> None:
    log.plain(f"GPG key fingerprint is: {spaced(key.fingerprint)}")
    for subkey in key.subkeys:
        log.plain(f"    Subkey fingerprint: {spaced(subkey)}")
    for identity in key.identities:
        log.plain(f"  {one_line(identity)}")


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _is_accepted() -> bool:
    while True:
        sys.stderr.write(_QUESTION)
        sys.stderr.flush()
        line = sys.stdin.readline(_MAX_ANSWER) if sys.stdin is not None else ""
        answer = line.rstrip("\r\n")
        if not _at_terminal():
            log.plain(one_line(answer))  # what a terminal would have shown
        if not line:
            raise RktError("error reviewing key: standard input ended before the answer")
        if answer in ("yes", "no"):
            return answer == "yes"
        log.plain("Please enter 'yes' or 'no'")


def _give_advice(prefix: str) -> None:
    log.info(f'To trust the key for "{prefix}", do one of the following:')
    log.plain(" - call rkt with --trust-keys-from-https")
    log.plain(f' - run: rkt trust --prefix "{prefix}"')


def _read_keys(client: Client, location: str) -> list[PublicKey]:
    try:
        return inspect_keys(_read(client, location))
    except RktError as err:
        where = one_line(shown(location))
        raise FetchError(f'error accessing the key "{where}"', hint=err.hint) from err


def _read(client: Client, location: str) -> bytes:
    parts = urlsplit("" if os.path.exists(location) else location)
    if parts.scheme == "https":
        return client.read(location, limit=MAX_KEY_DATA)
    if parts.scheme == "http":
        if not client.insecure.http:
            raise FetchError("--insecure-allow-http required for http URLs")
        return client.read(location, limit=MAX_KEY_DATA)
    if parts.scheme not in ("", "file"):
        raise FetchError("only local files and http or https URLs supported")
    path = unquote(parts.path) if parts.scheme else location
    try:
        with open(path, "rb") as file:
            return file.read(MAX_KEY_DATA + 1)
    except OSError as err:
        raise FetchError(str(err.strerror)) from None  # the caller's text has the path
