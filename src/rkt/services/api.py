"""The API service (rkt-cli section 12.2): pods, images, logs and events over gRPC, read-only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from rkt import __version__, const, log
from rkt.errors import (
    NotFound,
    PodStateError,
    RktError,
    StoreError,
    UsageError,
    describe,
    internal,
    one_line,
)
from rkt.pod import lifecycle
from rkt.pod.logs import TooLong
from rkt.services import api_pb2 as pb
from rkt.services import apievents, apilogs, apiserver, apiview
from rkt.store.images import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar

    from google.protobuf.message import Message
    from grpclib.server import Stream

    from rkt.pod.events import Event

    T = TypeVar("T")

API_VERSION = "1.0.0-alpha"
_SERVICE = "/v1alpha.PublicAPI"
_CALLS = 256
_STREAMS = (
    64  # of logs or events: each holds some MiB, the kernel gives a user 128 inotify instances
)
_THREADS = 4
_RECEIVE = 30.0  # seconds for a request to come
_SEND = 60.0  # seconds for a client to take a message
_EVENTS = 100  # in a message


class PublicAPI:
    """The methods."""

    def __init__(self, data_dir: str, flags: pb.GlobalFlags) -> None:
        self._data_dir = data_dir
        self._flags = flags
        self._threads = ThreadPoolExecutor(_THREADS, "rkt-api")
        self._hub = apievents.Hub(data_dir)
        self._calls = 0
        self._streams = 0

    def __mapping__(self) -> dict[str, Handler]:
        """Give each path its method, for grpclib."""
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        methods: list[tuple[str, Any, Cardinality, type[Message], type[Message]]] = [
            ("GetInfo", self._info, unary, pb.GetInfoRequest, pb.GetInfoResponse),
            ("ListPods", self._list_pods, unary, pb.ListPodsRequest, pb.ListPodsResponse),
            ("InspectPod", self._inspect_pod, unary, pb.InspectPodRequest, pb.InspectPodResponse),
            ("ListImages", self._list_images, unary, pb.ListImagesRequest, pb.ListImagesResponse),
            ("InspectImage", self._inspect_image, unary, pb.InspectImageRequest,
             pb.InspectImageResponse),
            ("ListenEvents", self._listen, stream, pb.ListenEventsRequest,
             pb.ListenEventsResponse),
            ("GetLogs", self._logs, stream, pb.GetLogsRequest, pb.GetLogsResponse),
        ]  # fmt: skip
        return {
            f"{_SERVICE}/{name}": Handler(self._answering(name, method), kind, request, reply)
            for name, method, kind, request, reply in methods
        }

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answering(
        self, name: str, method: Callable[[Any, Stream[Any, Any]], Awaitable[None]]
    ) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
        """Receive the request, bound how many there are, turn failures to statuses, log."""

        async def answer(stream: Stream[Any, Any]) -> None:
            status, text = Status.OK, ""
            self._calls += 1
            try:
                if self._calls > _CALLS:
                    raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many calls at a time")
                await method(await _receive(stream), stream)
            except (asyncio.CancelledError, StreamTerminatedError):
                status = Status.CANCELLED
                raise
            except GRPCError as err:
                status, text = err.status, err.message or ""
                raise
            except Exception as err:  # one call's failure is not the service's
                failure = _failure(err)
                status, text = failure.status, failure.message or ""
                raise failure from err
            finally:
                self._calls -= 1
                log.plain(one_line(f"{name} - {status.name}{': ' if text else ''}{text}"))

        return answer

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        """Call something in a thread; not left before it is done, whoever cancels.

        Else the descriptors that it uses would be closed, and those that it opens not.
        """
        job = self._threads.submit(call, *args)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            while not job.done():
                try:
                    await asyncio.wait([asyncio.wrap_future(job)])
                except asyncio.CancelledError:
                    pass
            raise

    async def _info(self, _request: pb.GetInfoRequest, stream: Stream[Any, Any]) -> None:
        info = pb.Info(
            rkt_version=__version__, appc_version=const.APPC_VERSION, api_version=API_VERSION,
            global_flags=self._flags,
        )  # fmt: skip
        await _send(stream, pb.GetInfoResponse(info=info))

    # Pods

    async def _list_pods(self, request: pb.ListPodsRequest, stream: Stream[Any, Any]) -> None:
        await _send(stream, await self._run(self._find_pods, request))

    def _find_pods(self, request: pb.ListPodsRequest) -> pb.ListPodsResponse:
        found = pb.ListPodsResponse()
        for pod in lifecycle.every(self._data_dir):
            try:
                one = apiview.pod(pod, detail=request.detail)
            except NotFound:
                continue  # deleted meanwhile
            except (RktError, OSError) as err:
                log.warning(describe(err))  # no half of a pod is listed
                continue
            if not request.filters or any(apiview.pod_matches(one, f) for f in request.filters):
                found.pods.append(one)
        return found

    async def _inspect_pod(self, request: pb.InspectPodRequest, stream: Stream[Any, Any]) -> None:
        await _send(stream, await self._run(self._find_pod, request.id))

    def _find_pod(self, uuid: str) -> pb.InspectPodResponse:
        with self._opened(uuid) as pod:
            return pb.InspectPodResponse(pod=apiview.pod(pod, detail=True))

    def _opened(self, uuid: str) -> lifecycle.Pod:
        wanted = uuid.lower()
        if not lifecycle.is_uuid(wanted):
            raise UsageError(f'"{one_line(uuid[:100])}" is not the UUID of a pod')
        pod = lifecycle.opened(self._data_dir, wanted, "run")
        if pod is None:
            raise NotFound(f'no pod "{wanted}"')
        return pod

    # Images

    async def _list_images(self, request: pb.ListImagesRequest, stream: Stream[Any, Any]) -> None:
        await _send(stream, await self._run(self._find_images, request))

    def _find_images(self, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        store = Store(self._data_dir)
        try:
            found, problems = apiview.images(store, request.filters, detail=request.detail)
        finally:
            store.close()
        for problem in problems:
            log.warning(problem)
        return pb.ListImagesResponse(images=found)

    async def _inspect_image(
        self, request: pb.InspectImageRequest, stream: Stream[Any, Any]
    ) -> None:
        await _send(stream, await self._run(self._find_image, request.id))

    def _find_image(self, image_id: str) -> pb.InspectImageResponse:
        store = Store(self._data_dir)
        try:
            record = store.get(store.resolve(image_id))
            manifest = store.manifest(record.key)
            image = apiview.image(store, record, detail=True, manifest=manifest)
        finally:
            store.close()
        return pb.InspectImageResponse(image=image)

    # Streams

    async def _listen(self, request: pb.ListenEventsRequest, stream: Stream[Any, Any]) -> None:
        wanted = request.filter
        listener = apievents.Listener(wanted)
        with _Slot(self):
            await self._hub.add(listener)
            try:
                await _greet(stream)
                seen: set[tuple[object, ...]] = set()
                if 0 < wanted.since_time <= time.time():
                    past = [e for e in await self._run(self._hub.past) if listener.has(e)]
                    seen = {_key(event) for event in past}
                    for at in range(0, len(past), _EVENTS):
                        await _send(stream, _events(past[at : at + _EVENTS]))
                await self._tell(listener, stream, wanted.until_time, seen)
            finally:
                self._hub.remove(listener)

    async def _tell(
        self, listener: apievents.Listener, stream: Stream[Any, Any], until: int,
        seen: set[tuple[object, ...]],
    ) -> None:  # fmt: skip
        while True:
            left = until - time.time() if until else None
            if left is not None and left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    found = [await listener.queue.get()]
            except TimeoutError:
                return
            while found[-1] is not None and len(found) < _EVENTS and not listener.queue.empty():
                found.append(listener.queue.get_nowait())
            told = [e for e in found if e is not None and _key(e) not in seen]
            if told:
                await _send(stream, _events(told))
            if found[-1] is None:
                raise GRPCError(Status.RESOURCE_EXHAUSTED, listener.problem)

    async def _logs(self, request: pb.GetLogsRequest, stream: Stream[Any, Any]) -> None:
        if request.lines < 0 or request.since_time < 0 or request.until_time < 0:
            raise UsageError("lines and times must not be negative")
        with self._opened(request.pod_id) as pod:  # not in a thread, whose answer may get lost
            reader = await self._run(apilogs.Reader, pod, request)
            try:
                with _Slot(self):
                    if request.follow and reader.running:
                        await _greet(stream)
                        async for lines in apilogs.follow(
                            pod, reader, request.until_time, self._run
                        ):
                            await _send(stream, pb.GetLogsResponse(lines=lines))
                        return
                    pieces = reader.pieces(final=not reader.running, watch=None)
                    while (piece := await self._run(next, pieces, None)) is not None:
                        await _send(stream, pb.GetLogsResponse(lines=piece))
            finally:
                reader.close()


class _Slot:
    """One of the streams that there may be at a time."""

    def __init__(self, api: PublicAPI) -> None:
        self._api = api

    def __enter__(self) -> None:
        if self._api._streams >= _STREAMS:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many streams at a time")
        self._api._streams += 1

    def __exit__(self, *_exc: object) -> None:
        self._api._streams -= 1


def _key(event: Event) -> tuple[object, ...]:
    return event.time, event.kind, event.status, event.id, event.name


def _events(found: list[Event]) -> pb.ListenEventsResponse:
    return pb.ListenEventsResponse(events=[apievents.message(event) for event in found])


async def _receive(stream: Stream[Any, Any]) -> Any:
    try:
        async with asyncio.timeout(_RECEIVE):
            request = await stream.recv_message()
    except TimeoutError:
        raise GRPCError(Status.DEADLINE_EXCEEDED, "no request came") from None
    except NotImplementedError:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed requests are not supported") from None
    except (DecodeError, AssertionError) as err:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request is damaged") from err
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "there is no request")
    return request


async def _greet(stream: Stream[Any, Any]) -> None:
    """Let the client know that from now on it will be told."""
    try:
        async with asyncio.timeout(_SEND):
            await stream.send_initial_metadata()
    except TimeoutError:
        raise GRPCError(Status.DEADLINE_EXCEEDED, "the client does not read") from None


async def _send(stream: Stream[Any, Any], message: Message) -> None:
    try:
        async with asyncio.timeout(_SEND):  # wait_for may swallow that the client has gone
            await stream.send_message(message)
    except TimeoutError:
        raise GRPCError(Status.DEADLINE_EXCEEDED, "the client does not read") from None


def _failure(err: Exception) -> GRPCError:
    """Turn what went wrong to a status."""
    status = Status.INTERNAL
    if isinstance(err, NotFound):
        status = Status.NOT_FOUND
    elif isinstance(err, UsageError):
        status = Status.INVALID_ARGUMENT
    elif isinstance(err, TooLong):
        status = Status.RESOURCE_EXHAUSTED
    elif isinstance(err, PodStateError):
        status = Status.FAILED_PRECONDITION
    elif isinstance(err, PermissionError) or isinstance(err.__cause__, PermissionError):
        status = Status.PERMISSION_DENIED
    elif isinstance(err, StoreError):
        status = Status.UNAVAILABLE
    elif not isinstance(err, (RktError, OSError)):
        return GRPCError(status, internal(err))
    return GRPCError(status, one_line(describe(err)))


def listen(address: str) -> socket.socket:
    """Listen on `HOST:PORT`.  Raises RktError."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f'invalid address "{address}": must be HOST:PORT', command="api-service")
    try:
        found = socket.getaddrinfo(
            host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found.sort(key=lambda item: item[0] != socket.AF_INET)
        family, kind, protocol, _, place = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
    except OSError as err:
        raise RktError(f'cannot listen on "{address}": {err.strerror}') from err
    return sock


async def _serve(api: PublicAPI, sockets: list[socket.socket]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections: set[Any] = set()
    servers = [apiserver.BoundedServer([api], connections) for _ in sockets]
    for server, sock in zip(servers, sockets, strict=True):
        await server.start(sock=sock)
    log.plain("API service running")
    await stop.wait()
    log.plain("API service exiting...")
    for server in servers:
        server.close()
    for connection in list(connections):
        connection.processor.close("the service ends")


def run(data_dir: str, flags: pb.GlobalFlags, sockets: list[socket.socket]) -> None:
    """Serve on sockets that listen already, until SIGTERM or SIGINT.  Raises RktError."""
    apiserver.quiet()
    api = PublicAPI(data_dir, flags)
    try:
        asyncio.run(_serve(api, sockets))
    except OSError as err:
        raise RktError("the API service cannot run") from err
    finally:
        api.close()
        if os.environ.get("LISTEN_FDS") is None:
            for sock in sockets:
                sock.close()
