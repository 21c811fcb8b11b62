"""A docker or OCI registry: one repository on one host, with the authentication that it wants.

OCI distribution specification v1.1; Docker's token authentication.  Credentials go to the registry
and to the token server that it names, over https only.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from rkt.errors import AuthError, FetchError, HTTPStatusError, SchemaError, one_line
from rkt.fetch.http import Unreachable, shown
from rkt.schema import codec
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rkt.config.login import Login
    from rkt.fetch.http import Client, Reply
    from rkt.schema.docker import Reference

_MAX_DOCUMENT = 4 << 20
_MAX_TOKEN = 1 << 20
_CHALLENGE = re.compile(r'([a-zA-Z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[!-~]{1,65536}")


class _TokenReply(Struct):
    token: str | None = None
    access_token: str | None = None


class _Error(Struct):
    code: str = ""
    message: str = ""


class _Errors(Struct):
    errors: tuple[_Error, ...] = ()


class Registry:
    """Where one repository is; may be used by several threads.

    `find_login` is called, once, when the registry wants to know who asks.
    """

    def __init__(
        self,
        client: Client,
        reference: Reference,
        find_login: Callable[[], Login | None] | None = None,
    ) -> None:
        self._client = client
        self._reference = reference
        self._find_login = find_login
        self._login: Login | None = None
        self._lock = threading.Lock()
        self._authorization = ""
        self._schemes = ["https", "http"] if client.insecure.http else ["https"]

    def url(self, kind: str, name: str) -> str:
        """Give the URL of a manifest or a blob, over the scheme that works."""
        ref = self._reference
        return f"{self._schemes[0]}://{ref.host}/v2/{ref.repository}/{kind}/{name}"

    def read(
        self, kind: str, name: str, *, accept: str = "", limit: int = _MAX_DOCUMENT
    ) -> tuple[bytes, Mapping[str, str]]:
        """Read a manifest or a small blob; gives its bytes and the headers of the answer.

        Raises AuthError, HTTPStatusError or another FetchError.
        """
        headers = {"Accept": accept} if accept else {}
        with self._reach(kind, name, headers) as reply:
            if reply.status != 200:
                raise _status_error(reply)
            return b"".join(reply.chunks(limit=limit, deadline=60)), reply.headers

    def _reach(self, kind: str, name: str, headers: Mapping[str, str]) -> Reply:
        while True:
            url = self.url(kind, name)
            try:
                return self.open(url, headers)
            except Unreachable as err:
                if len(self._schemes) > 1:
                    del self._schemes[0]  # no TLS there, and the user allows to go without
                    continue
                hint = "allow plain http with --insecure-options=http"
                is_tls = url.startswith("https:")
                raise FetchError(
                    err.message, hint=hint if is_tls and err.is_found else None
                ) from err

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a GET to the registry, with what authentication it asks for."""
        for last in (False, True):
            used = self._authorization
            private = {"Authorization": used} if used else {}
            reply = self._client.open(url, headers, private=private)
            if reply.status != 401 or urlsplit(reply.url)[:2] != urlsplit(url)[:2]:
                return reply
            with reply:
                if last or not self._authorize(reply.headers.get("WWW-Authenticate", ""), used):
                    raise self._refused(url)
        raise AssertionError("unreachable")

    def _refused(self, url: str) -> AuthError:
        host = self._reference.host
        if self._login is None:
            hint = f'credentials for "{host}" go into a file of kind "dockerAuth" in auth.d'
        elif self._is_https():
            hint = f'the credentials for "{host}" are refused'
        else:
            hint = f'the credentials for "{host}" are only sent over https'
        return AuthError(f'"{shown(url)}": bad HTTP status code: 401', hint=hint)

    def _authorize(self, challenge: str, used: str) -> bool:
        """Get a new authorization for a challenge; false if there is no way."""
        with self._lock:
            if self._authorization != used:
                return True  # another thread was here
            if self._find_login is not None:
                self._login = self._find_login()
                self._find_login = None
            kind, _, rest = challenge.strip().partition(" ")
            values = {
                found[1].lower(): re.sub(r"\\(.)", r"\1", found[2]) if found[2] else found[3] or ""
                for found in _CHALLENGE.finditer(rest)
            }
            if kind.lower() == "bearer" and values.get("realm"):
                self._authorization = f"Bearer {self._token(values)}"
                return True
            login = self._login
            if kind.lower() == "basic" and login is not None and self._is_https():
                if login.identity_token is not None:
                    return False  # only a token server takes it
                self._authorization = login.header()
                return self._authorization != used
            return False

    def _is_https(self) -> bool:
        return self._schemes[0] == "https"

    def _token(self, values: Mapping[str, str]) -> str:
        realm = values["realm"]
        parts = urlsplit(realm)
        if parts.scheme != "https" and (self._is_https() or parts.scheme != "http"):
            raise AuthError(
                f'"{self._reference.host}": its token server "{one_line(realm)}" is not on https'
            )
        scope = values.get("scope") or f"repository:{self._reference.repository}:pull"
        with self._ask(realm, values.get("service", ""), scope) as reply:
            if reply.status in (401, 403):
                raise AuthError(
                    f'"{shown(realm)}": bad HTTP status code: {reply.status}',
                    hint=self._refused(realm).hint,
                )
            if reply.status != 200:
                raise HTTPStatusError(reply.status, shown(realm))
            data = b"".join(reply.chunks(limit=_MAX_TOKEN, deadline=60))
        try:
            answer = codec.decode(data, _TokenReply, "token")
        except SchemaError as err:
            raise AuthError(f'"{shown(realm)}": bad answer: {err.message}') from None
        token = answer.token or answer.access_token or ""
        if not _TOKEN.fullmatch(token):
            raise AuthError(f'"{shown(realm)}": gives no usable token')
        return token

    def _ask(self, realm: str, service: str, scope: str) -> Reply:
        """Ask a token server: with an identity token as OAuth 2 wants it, else in docker's way."""
        parts = urlsplit(realm)
        login = self._login if parts.scheme == "https" else None
        if login is not None and login.identity_token is not None:
            form = {
                "grant_type": "refresh_token", "service": service, "scope": scope,
                "client_id": "rkt", "refresh_token": login.identity_token.reveal,
            }  # fmt: skip
            return self._client.post(realm, form)
        query = [("scope", one) for one in scope.split(" ")]
        if service:
            query.insert(0, ("service", service))
        private = {}
        if login is not None:
            query.insert(0, ("account", login.user))
            private["Authorization"] = login.header()
        url = f"{realm}{'&' if parts.query else '?'}{urlencode(query)}"
        return self._client.open(url, private=private)


def _status_error(reply: Reply) -> FetchError:
    """Say what a registry says of a failure."""
    err = HTTPStatusError(reply.status, shown(reply.url))
    try:
        data = b"".join(reply.chunks(limit=65536, deadline=10))
        errors = codec.decode(data, _Errors, "errors").errors
    except (FetchError, SchemaError):
        return err
    if not errors:
        return err
    text = one_line((errors[0].message or errors[0].code)[:200])
    return FetchError(f"{err.message} ({text})")
