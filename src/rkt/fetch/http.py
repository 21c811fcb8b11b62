"""HTTP, bounded in every direction: size, time, redirects.  The only user of urllib3 and ssl.

Credentials go to the host that they are for and nowhere else; a redirect from https to plain http
is refused unless the user allowed plain http.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

from rkt import __version__, log
from rkt.errors import FetchError, HTTPStatusError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from urllib.parse import SplitResult

    from urllib3 import BaseHTTPResponse, PoolManager

    from rkt.config.insecure import InsecureOptions

CONNECT_TIMEOUT = 20.0
STALL_TIMEOUT = 30.0
"""Seconds without a single byte after which a server counts as gone."""
_SLOW_WINDOW = 60.0
_SLOW_BYTES = 4096
"""A server that sends less than this in a window is stalling, if not silent."""
_SMALL_DEADLINE = 60.0
_MAX_REDIRECTS = 10
_CHUNK = 256 << 10
_REDIRECTS = (301, 302, 303, 307, 308)


class Unreachable(FetchError):
    """No HTTP answer at all: name, connection or TLS failed; other paths of the host will too.

    `is_found` says whether there is such a host and no proxy is at fault.
    """

    def __init__(self, message: str, *, is_found: bool = True) -> None:
        super().__init__(message)
        self.is_found = is_found


def split(url: str) -> SplitResult:
    """Take a URL apart.  Raises FetchError if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        raise FetchError(f'"{url}": malformed URL') from None


def shown(url: str) -> str:
    """Give a URL for messages: without credentials.  Raises FetchError if it is none."""
    parts = split(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host))


class Reply:
    """An answer whose body has not been read; a context manager that closes the connection."""

    def __init__(self, raw: BaseHTTPResponse, url: str, stall: float) -> None:
        self._raw = raw
        self._stall = stall
        self.url = url
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()

    @property
    def length(self) -> int | None:
        """Give the length of the body as the server announces it."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def chunks(self, *, limit: int, deadline: float | None = None) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises FetchError when it exceeds `limit` bytes, ends early, stalls or takes longer than
        `deadline` seconds.
        """
        import urllib3.exceptions as failures

        where = shown(self.url)
        too_large = FetchError(f'"{where}": larger than the {limit} bytes allowed')
        if self.length is not None and self.length > limit:
            raise too_large
        got = in_window = 0
        started = window = time.monotonic()
        while True:
            try:
                chunk = self._raw.read1(_CHUNK, decode_content=False)
            except (failures.HTTPError, OSError) as err:
                log.debug(f"{type(err).__name__}: {err}")
                if any(type(one).__name__ == "IncompleteRead" for one in _causes(err)):
                    raise self._short(got) from None
                raise FetchError(f'"{where}": {_reason(err, self._stall)}') from None
            now = time.monotonic()
            got += len(chunk)
            in_window += len(chunk)
            if got > limit:
                raise too_large
            if not chunk:
                break
            yield chunk
            if deadline is not None and now - started > deadline:
                raise FetchError(f'"{where}": not complete after {deadline:g} s')
            if now - window > _SLOW_WINDOW:
                if in_window < _SLOW_BYTES:
                    raise FetchError(f'"{where}": the server stalls: {in_window} bytes in a minute')
                window, in_window = time.monotonic(), 0
        if self.length is not None and got < self.length:
            raise self._short(got)

    def _short(self, got: int) -> FetchError:
        whole = f" of {self.length}" if self.length is not None else ""
        return FetchError(
            f'"{shown(self.url)}": cut short: the body ended after {got}{whole} bytes'
        )


class Client:
    """One client for a whole command; `credentials` gives the headers for an https URL."""

    def __init__(
        self,
        insecure: InsecureOptions,
        *,
        credentials: Callable[[str], Mapping[str, str]] | None = None,
        stall: float = STALL_TIMEOUT,
    ) -> None:
        self._insecure = insecure
        self._credentials = credentials
        self._stall = stall
        self._pools: dict[str, PoolManager] = {}
        self._warned = False

    @property
    def insecure(self) -> InsecureOptions:
        """The checks that are off."""
        return self._insecure

    def read(self, url: str, *, limit: int) -> bytes:
        """Get a small document whole.  Raises HTTPStatusError unless the status is 200."""
        with self.open(url) as reply:
            if reply.status != 200:
                raise HTTPStatusError(reply.status, shown(url))
            return b"".join(reply.chunks(limit=limit, deadline=_SMALL_DEADLINE))

    def open(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        private: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a GET and follow redirects; the caller closes the reply.

        The headers `private` go to the scheme, host and port of `url` only.
        """
        where = url
        for _ in range(_MAX_REDIRECTS + 1):
            own = urlsplit(where)[:2] == urlsplit(url)[:2]
            raw = self._request(where, {**(headers or {}), **((private or {}) if own else {})})
            target = raw.headers.get("Location") if raw.status in _REDIRECTS else None
            if target is None:
                return _checked(Reply(raw, where, self._stall))
            raw.close()
            try:
                target = urljoin(where, target)
            except ValueError:
                raise FetchError(f'"{shown(where)}": redirects to a malformed URL') from None
            if split(target).scheme not in ("https", "http"):
                raise FetchError(f'"{shown(where)}": redirects to "{shown(target)}"')
            if not self._allows(where, target):
                raise FetchError(
                    f'"{shown(where)}": redirects to plain http ("{shown(target)}")',
                    hint="allow it with --insecure-options=http",
                )
            where = target
        raise FetchError(f'"{shown(url)}": more than {_MAX_REDIRECTS} redirects')

    def post(self, url: str, form: Mapping[str, str]) -> Reply:
        """Send a form to exactly this URL; the caller closes the reply.  Raises FetchError."""
        from urllib.parse import urlencode

        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        raw = self._request(url, kind, body=urlencode(form))
        if raw.status in _REDIRECTS:
            raw.close()
            raise FetchError(f'"{shown(url)}": redirects what must go nowhere else')
        return _checked(Reply(raw, url, self._stall))

    def _allows(self, where: str, target: str) -> bool:
        is_downgrade = urlsplit(where).scheme == "https" and urlsplit(target).scheme == "http"
        return self._insecure.http or not is_downgrade

    def _request(
        self, url: str, headers: Mapping[str, str], *, body: str | None = None
    ) -> BaseHTTPResponse:
        import urllib3.exceptions as failures
        from urllib3.util import Timeout, make_headers

        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise FetchError(f'"{shown(url)}": not an http or https URL')
        sent = {"User-Agent": f"rkt/{__version__}", "Accept-Encoding": "identity", **headers}
        if parts.scheme == "https":
            if parts.username is not None:
                basic = f"{parts.username}:{parts.password or ''}"
                sent["Authorization"] = make_headers(basic_auth=basic)["authorization"]
            elif self._credentials is not None:
                sent.update(self._credentials(url))
        try:
            return self._pool(url).urlopen(
                "GET" if body is None else "POST", shown(url), body=body, headers=sent,
                redirect=False, retries=False,
                preload_content=False, decode_content=False,
                timeout=Timeout(connect=CONNECT_TIMEOUT, read=self._stall),
            )  # fmt: skip
        except (failures.HTTPError, OSError, ValueError) as err:
            causes = _causes(err)
            where = f'"{shown(url)}": '
            lost = any(isinstance(one, failures.NameResolutionError) for one in causes)
            if any(isinstance(one, failures.ProxyError) for one in causes):
                lost = True
                where += f'through the proxy "{shown(proxy_for(url))}": '
            raise Unreachable(where + _reason(err, self._stall), is_found=not lost) from None

    def _pool(self, url: str) -> PoolManager:
        """Give the connection pool for a URL: direct, or through the proxy of the environment."""
        from urllib3 import PoolManager, ProxyManager
        from urllib3.util import make_headers

        parts = urlsplit(url)
        proxy = proxy_for(url)
        if parts.scheme == "https" and self._insecure.tls and not self._warned:
            self._warned = True
            log.warning("TLS verification has been disabled")
        if proxy not in self._pools:
            context = self._context()
            if not proxy:
                self._pools[proxy] = PoolManager(ssl_context=context)
            else:
                address = urlsplit(proxy)
                headers = None
                if address.username is not None:
                    secret = f"{address.username}:{address.password or ''}"
                    headers = make_headers(proxy_basic_auth=secret)
                self._pools[proxy] = ProxyManager(
                    shown(address.geturl()), ssl_context=context, proxy_ssl_context=context,
                    proxy_headers=headers,
                )  # fmt: skip
        return self._pools[proxy]

    def _context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.create_default_context()
        if self._insecure.tls:
            import urllib3

            urllib3.disable_warnings()  # the user was told in rkt's own words
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def proxy_for(url: str) -> str:
    """Give the proxy of the environment for a URL, with its credentials; empty if none."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all", "")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    if _is_in_network(parts.hostname or "", proxies.get("no", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_in_network(host: str, excepted: str) -> bool:
    """Say whether a host is an address in one of the networks of no_proxy, as curl reads it."""
    from ipaddress import ip_address, ip_network

    try:
        address = ip_address(host)
    except ValueError:
        return False
    for word in excepted.split(","):
        try:
            if "/" in word and address in ip_network(word.strip(), strict=False):
                return True
        except ValueError:
            continue  # a name, or nonsense: it excepts nothing
    return False


def _checked(reply: Reply) -> Reply:
    if reply.headers.get("Content-Length") is not None and reply.length is None:
        reply.close()
        raise FetchError(f'"{shown(reply.url)}": malformed Content-Length')
    return reply


def _reason(err: BaseException, stall: float) -> str:
    """Say in few words why a request failed: the innermost cause, not urllib3's wrapping of it."""
    import ssl
    from http.client import BadStatusLine, HTTPException, RemoteDisconnected

    import urllib3.exceptions as failures

    for one in _causes(err):
        if isinstance(one, failures.NameResolutionError):
            return "the host name cannot be resolved"
        if isinstance(one, failures.NewConnectionError):  # also a ConnectTimeoutError
            continue
        if isinstance(one, failures.ConnectTimeoutError):
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        if isinstance(one, (failures.ReadTimeoutError, TimeoutError)):
            return f"the server stalls: no data for {stall:g} s"
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"TLS certificate verification failed: {one.verify_message.rstrip('.')}"
        if isinstance(one, ssl.SSLError):
            return f"TLS failure: {one.reason or one}"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror[:1].lower() + one.strerror[1:]
        if isinstance(one, RemoteDisconnected):
            return "the server hung up without an answer"
        if isinstance(one, failures.InvalidHeader):
            return f"malformed answer: {one}"
        if isinstance(one, failures.InvalidChunkLength):
            return "malformed answer: bad size of a chunk"
        if isinstance(one, BadStatusLine):
            return "the answer is not HTTP"
        if isinstance(one, HTTPException):
            return f"malformed answer: {one}"
        if type(one) is ValueError:
            return "malformed answer: a number was expected"
    texts = [str(one) for one in _causes(err)]
    return texts[-1] or type(err).__name__


def _causes(err: BaseException) -> list[BaseException]:
    """Give an exception and what it wraps, outermost first; urllib3 wraps in arguments too."""
    found: list[BaseException] = []
    seen: BaseException | None = err
    while seen is not None and seen not in found:
        found.append(seen)
        inner = [arg for arg in seen.args if isinstance(arg, BaseException)]
        seen = seen.__cause__ or (inner[0] if inner else None) or seen.__context__
    return found
