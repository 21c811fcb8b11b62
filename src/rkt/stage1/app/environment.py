"""The environment of an app (rkt-config 7, appc 8)."""

from __future__ import annotations

from rkt.const import DEFAULT_PATH

DEFAULTS = {
    "PATH": DEFAULT_PATH,
    "SHELL": "/bin/sh",
    "USER": "root",
    "LOGNAME": "root",
    "HOME": "/root",
}


def build(
    app_name: str, given: list[tuple[str, str]], *, metadata_url: str = "", terminal: str = ""
) -> dict[str, str]:
    """Merge defaults, the manifest's variables and those that rkt always sets."""
    env = dict(DEFAULTS)
    if terminal:
        env["TERM"] = terminal
    env.update(given)
    env["AC_APP_NAME"] = app_name
    env["container"] = "rkt"
    if metadata_url:
        env["AC_METADATA_URL"] = metadata_url
    return env


def as_list(env: dict[str, str]) -> list[str]:
    """Give `NAME=value` strings."""
    return [f"{name}={value}" for name, value in env.items()]


def as_file(env: dict[str, str]) -> bytes:
    """Give the content of `rkt/env/<app>`: a line each; what has a newline cannot be there."""
    lines = [f"{name}={value}\n" for name, value in env.items() if "\n" not in value]
    return "".join(lines).encode("utf-8", "surrogateescape")
