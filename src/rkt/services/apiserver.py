"""gRPC over sockets that listen already, with bounds on what a client may take.

grpclib serves HTTP/2 in one loop; what it leaves open is closed here: how many connections there
are, how large a request is, how long it may take to come, and what is no HTTP/2 at all.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import Buffer, H2Protocol
from grpclib.server import Handler, Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from grpclib._typing import IServable
    from grpclib.protocol import Stream

CONNECTIONS = 256
LARGEST_REQUEST = 4 << 20  # gRPC's own default
_WINDOW = 1 << 20
_FIRST_REQUEST = 30.0  # seconds from the connection to its first request
_CONFIG = Configuration(
    # Who does not answer a ping is gone, however silently.
    _keepalive_time=60.0,
    _keepalive_permit_without_calls=True,
    _http2_max_pings_without_data=0,
    _http2_min_sent_ping_interval_without_data=30.0,
    http2_connection_window_size=_WINDOW,
    http2_stream_window_size=_WINDOW,
)


class _Bounded(Buffer):
    """What came of a request; one that is announced as too large is refused before it comes."""

    async def read(self, size: int) -> bytes:
        if size > LARGEST_REQUEST:
            text = f"a request of {size} bytes is larger than {LARGEST_REQUEST} bytes"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
        return await super().read(size)


class _Handler(Handler):
    def accept(self, stream: Stream, headers: Any, release_stream: Callable[[], None]) -> None:
        assert stream.id is not None
        stream.buffer = _Bounded(partial(stream.connection.ack, stream.id))
        super().accept(stream, headers, release_stream)


class _Protocol(H2Protocol):
    """One connection."""

    def __init__(self, server: BoundedServer, *args: Any) -> None:
        super().__init__(*args)
        self._server = server
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.open.add(self)
        super().connection_made(transport)
        if len(self._server.open) > CONNECTIONS:
            self.processor.close("too many connections")
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_FIRST_REQUEST, self._check)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001 - whatever a client's bytes set off is its own end
            self.processor.close("Protocol error")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        if not self.connection.streams_started:
            self.processor.close("no request came")


class BoundedServer(Server):
    """A server whose connections are counted together with those of its siblings."""

    def __init__(self, handlers: list[IServable], connections: set[_Protocol]) -> None:
        super().__init__(handlers, config=_CONFIG)
        self.open = connections

    def _protocol_factory(self) -> H2Protocol:
        self.__gc_step__()
        handler = _Handler(
            self._mapping, self._codec, self._status_details_codec, self.__dispatch__
        )
        self._handlers.add(handler)
        return _Protocol(self, handler, self._config, self._h2_config)


def quiet() -> None:
    """Keep tracebacks of what clients did from the log; the calls are logged one by one."""
    for name in ("grpclib", "asyncio", "hpack"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
