"""What proves to a registry who asks.  A secret is wrapped so that it shows nowhere."""

from __future__ import annotations

import base64


class Secret:
    """Text that must not be shown."""

    __slots__ = ("reveal",)

    def __init__(self, text: str) -> None:
        self.reveal = text

    def __repr__(self) -> str:
        return "****"


class Login:
    """A user name and a password, or an identity token that a token server takes instead."""

    __slots__ = ("identity_token", "password", "user")

    def __init__(self, user: str, password: str, *, identity_token: str = "") -> None:
        self.user = user
        self.password = Secret(password)
        self.identity_token = Secret(identity_token) if identity_token else None

    def header(self) -> str:
        """Give the value of the header for basic authentication."""
        raw = f"{self.user}:{self.password.reveal}".encode()
        return "Basic " + base64.b64encode(raw).decode()
