"""The metadata service of the App Container spec (appc 9): what a pod may ask about itself.

Pods ask over TCP with the token of their URL; rkt registers them over a unix socket.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import re
import signal
import socket
import struct
import weakref
from urllib.parse import unquote_to_bytes

from aiohttp import web

from rkt import log
from rkt.errors import RktError, SchemaError, internal, one_line
from rkt.schema.types import parse_ac_identifier, parse_uuid
from rkt.services.registry import Pod, Registry, is_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TEXT = {"Content-Type": "text/plain; charset=us-ascii"}
_JSON = {"Content-Type": "application/json"}
_PATH = "/acMetadata/v1"
_PREFIX = f"/{{token}}{_PATH}"
_PREAMBLE = b"rkt-pod-token "
_MAX_PREAMBLE = 256
_HEAD = 10.0  # seconds for the first request of a connection to come, without its body
_LONGEST_HEAD = 32 << 10  # more than aiohttp reads
_BODY = 30.0  # seconds
_CONNECTIONS = 512
_FROM_ONE_ADDRESS = 256  # no pod with a network of its own can keep the others out
_MAX_FORM = 1 << 20
_MAX_FIELDS = 100
_MAX_MANIFEST = 16 << 20
_SWEEP = 30.0
_SECRET = re.compile(r"^/[^/]+(?=/acMetadata)|(?<=token=)[^&]*|[0-9a-f]{32,}")


class Failure(Exception):
    """An answer that is no success: a status and a line of text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Public:
    """What pods are served."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tokens: weakref.WeakKeyDictionary[asyncio.BaseTransport, str]
        self._tokens = weakref.WeakKeyDictionary()
        self._open: dict[asyncio.Transport, object] = {}

    def admits(self, transport: asyncio.Transport) -> bool:
        """Count a connection; say whether there are not too many."""
        if len(self._open) >= _FROM_ONE_ADDRESS:
            self._open = {one: at for one, at in self._open.items() if not one.is_closing()}
        address = (transport.get_extra_info("peername") or ("",))[0]
        self._open[transport] = address
        from_there = list(self._open.values()).count(address)
        return len(self._open) <= _CONNECTIONS and from_there <= _FROM_ONE_ADDRESS

    def know(self, transport: asyncio.BaseTransport, token: str) -> None:
        """Note whose a connection is: its URLs need no token."""
        self._tokens[transport] = token

    def application(self) -> web.Application:
        """Give the application with all public paths."""
        app = web.Application(middlewares=[_answered], client_max_size=_MAX_FORM)
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/pod/annotations", self.pod_annotations),
            ("GET", "/pod/annotations/{name:.+}", self.pod_annotation),
            ("GET", "/pod/manifest", self.pod_manifest),
            ("GET", "/pod/uuid", self.pod_uuid),
            ("POST", "/pod/hmac/sign", self.sign),
            ("POST", "/pod/hmac/verify", self.verify),
            ("GET", "/apps/{app}/annotations", self.app_annotations),
            ("GET", "/apps/{app}/annotations/{name:.+}", self.app_annotation),
            ("GET", "/apps/{app}/image/manifest", self.image_manifest),
            ("GET", "/apps/{app}/image/id", self.image_id),
        ]
        # As the specification had it until 0.4; some images speak no other.
        old = [
            (method, path.replace("/pod/", "/container/").replace("/uuid", "/uid"), handler)
            for method, path, handler in routes
            if path.startswith("/pod/")
        ]
        for method, path, handler in (*routes, *old):
            for prefix in (_PREFIX, _PATH):
                app.router.add_route(method, prefix + path, handler)
                if path.endswith("/annotations"):  # as rkt 0.8 had them
                    app.router.add_route(method, f"{prefix}{path}/", handler)
        return app

    def _pod(self, request: web.Request) -> Pod:
        token = request.match_info.get("token")
        if token is None and request.transport is not None:
            token = self._tokens.get(request.transport)
        pod = self._registry.pod(token or "")
        if pod is None:
            raise Failure(401, "pod not found")
        return pod

    async def pod_annotations(self, request: web.Request) -> web.Response:
        """Give the annotations of the pod manifest."""
        return web.Response(body=self._pod(request).annotations, headers=_JSON)

    async def pod_annotation(self, request: web.Request) -> web.Response:
        """Give one annotation of the pod."""
        return _value("Pod", request.match_info["name"], self._pod(request).values)

    async def pod_manifest(self, request: web.Request) -> web.Response:
        """Give the pod manifest as it was registered."""
        return web.Response(body=self._pod(request).manifest_body, headers=_JSON)

    async def pod_uuid(self, request: web.Request) -> web.Response:
        """Give the UUID of the pod."""
        return web.Response(body=self._pod(request).uuid.encode(), headers=_TEXT)

    async def app_annotations(self, request: web.Request) -> web.Response:
        """Give the annotations of an app: its image's and the pod's for it."""
        pod = self._pod(request)
        app = pod.apps.get(request.match_info["app"])
        if app is None:
            raise Failure(404, "app not found")
        return web.Response(body=app.annotations, headers=_JSON)

    async def app_annotation(self, request: web.Request) -> web.Response:
        """Give one annotation of an app."""
        app = self._pod(request).apps.get(request.match_info["app"])
        if app is None:
            raise Failure(404, "app not found")
        return _value("App", request.match_info["name"], app.values)

    async def image_manifest(self, request: web.Request) -> web.Response:
        """Give the image manifest of an app."""
        app = self._pod(request).apps.get(request.match_info["app"])
        if app is None:
            raise Failure(404, "app not found")
        return web.Response(body=app.manifest_body, headers=_JSON)

    async def image_id(self, request: web.Request) -> web.Response:
        """Give the image ID of an app."""
        app = self._pod(request).apps.get(request.match_info["app"])
        if app is None:
            raise Failure(404, "app not found")
        return web.Response(body=app.id, headers=_TEXT)

    async def sign(self, request: web.Request) -> web.Response:
        """Sign a content in the name of the pod."""
        pod = self._pod(request)
        content = (await _form(request)).get("content")
        if content is None:
            raise Failure(400, "content form value not found")
        return web.Response(body=self._registry.sign(pod.uuid, content), headers=_TEXT)

    async def verify(self, request: web.Request) -> web.Response:
        """Check a signature that any pod of this host may have made."""
        self._pod(request)
        form = await _form(request)
        try:
            name = form.get("uuid") or form.get("uid", b"")  # the latter until 0.4
            uuid = parse_uuid(name.decode("utf-8", "replace"))
        except ValueError as err:
            raise Failure(400, f"uuid field missing or malformed: {err}") from err
        content = form.get("content")
        if content is None:
            raise Failure(400, "content field missing")
        if "signature" not in form:
            raise Failure(400, "signature field missing or corrupt: there is none")
        try:
            signature = base64.b64decode(form["signature"], validate=True)
        except binascii.Error as err:
            raise Failure(400, f"signature field missing or corrupt: {err}") from err
        valid = self._registry.verify(uuid, content, signature)
        return web.Response(status=200 if valid else 403, body=b"", headers=_TEXT)


def _value(what: str, name: str, values: dict[str, str]) -> web.Response:
    try:
        parse_ac_identifier(name)
    except ValueError as err:
        raise Failure(400, f'{what} annotation "{name}" is not a valid AC Identifier') from err
    if name not in values:
        raise Failure(404, f'{what} annotation "{name}" not found')
    return web.Response(body=values[name].encode(), headers=_TEXT)


async def _form(request: web.Request) -> dict[str, bytes]:
    """Read a form; the first value of each name, as bytes: a content need not be text."""
    found: dict[str, bytes] = {}
    try:
        async with asyncio.timeout(_BODY):
            if request.content_type == "multipart/form-data":
                data = await request.post()
                for key in data:
                    value = data[key]
                    found[key] = value.encode() if isinstance(value, str) else b""
                return found
            body = (await request.read()).replace(b"+", b" ")
    except TimeoutError:
        raise Failure(408, "the form did not come") from None
    except (ValueError, LookupError, AssertionError) as err:  # aiohttp's, of a damaged form
        raise Failure(400, f"the form cannot be read: {one_line(str(err))}") from err
    for field in body.split(b"&", _MAX_FIELDS):
        name, _, content = field.partition(b"=")
        key = unquote_to_bytes(name).decode("utf-8", "replace")
        found.setdefault(key, unquote_to_bytes(content))
    return found


class Registration:
    """What rkt is served over the unix socket."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._watched: dict[str, int] = {}

    def application(self) -> web.Application:
        """Give the application with the registration paths."""
        app = web.Application(middlewares=[_answered], client_max_size=_MAX_MANIFEST)
        app.router.add_put("/pods/{uuid}", self.put_pod)
        app.router.add_put("/pods/{uuid}/{app:.*}", self.put_app)
        app.router.add_delete("/pods/{uuid}", self.delete_pod)
        return app

    async def put_pod(self, request: web.Request) -> web.Response:
        """Register a pod, or without a token take the new manifest of one that is registered."""
        pid = _peer(request)
        uuid = _uuid(request)
        token = request.query.get("token", "")
        body = await request.read()
        try:
            if not token and self._registry.update(uuid, body):
                return web.Response()
            if not is_token(token):
                raise Failure(400, "token missing")
            pod = self._registry.register(uuid, token, body, (pid, start_time(pid)))
        except (SchemaError, UnicodeDecodeError) as err:
            raise Failure(400, f"JSON-decoding failed: {err}") from err
        self.watch(pod)
        return web.Response()

    async def put_app(self, request: web.Request) -> web.Response:
        """Register an app of a pod."""
        _peer(request)
        uuid, name = _uuid(request), request.match_info["app"]
        if not name:
            raise Failure(400, "app missing")
        body = await request.read()
        try:
            known = self._registry.register_app(uuid, name, body)
        except (SchemaError, UnicodeDecodeError) as err:
            raise Failure(400, f"JSON-decoding failed: {err}") from err
        if not known:
            raise Failure(404, "Pod with given UUID not found")
        return web.Response()

    async def delete_pod(self, request: web.Request) -> web.Response:
        """Forget a pod."""
        _peer(request)
        if not self._registry.forget(_uuid(request)):
            raise Failure(404, "pod not found")
        return web.Response()

    def watch(self, pod: Pod) -> None:
        """Notice the end of a pod's process: it is the one that registered, rkt keeps its PID."""
        try:
            fd = os.pidfd_open(pod.saved.pid)
        except OSError:
            fd = -1
        if fd < 0 or start_time(pod.saved.pid) != pod.saved.started:
            if fd >= 0:
                os.close(fd)
            self._registry.ended(pod)
            return
        asyncio.get_running_loop().add_reader(fd, self._ended, pod, fd)

    def _ended(self, pod: Pod, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._registry.ended(pod)

    async def sweep(self) -> None:
        """Forget pods whose time is over, for ever."""
        for pod in self._registry.pods():
            self.watch(pod)
        while True:
            self._registry.expire()
            await asyncio.sleep(_SWEEP)


def _uuid(request: web.Request) -> str:
    try:
        return parse_uuid(request.match_info["uuid"])
    except ValueError as err:
        raise Failure(400, f"UUID is missing or malformed: {err}") from err


def _peer(request: web.Request) -> int:
    """Give the PID of who asks.  Only root runs pods, so only root speaks of them."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None:
        raise Failure(400, "the connection is gone")
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in (0, os.geteuid()):
        raise Failure(403, "only root may register pods")
    return int(pid)


def start_time(pid: int) -> int:
    """Give a process's start time in ticks since boot, 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn failures to answers and write a line about each request, without its secrets."""
    try:
        response = await handler(request)
    except Failure as err:
        response = web.Response(status=err.status, body=err.text.encode() + b"\n", headers=_TEXT)
    except web.HTTPException as err:
        response = web.Response(status=err.status, body=f"{err.reason}\n".encode(), headers=_TEXT)
        if "Allow" in err.headers:
            response.headers["Allow"] = err.headers["Allow"]
    except Exception as err:  # noqa: BLE001 - one answer's failure is not the service's
        log.warning(internal(err))
        response = web.Response(status=500, body=b"internal error\n", headers=_TEXT)
    shown = one_line(_SECRET.sub(lambda m: "/****" if m[0][0] == "/" else "****", request.path_qs))[
        :300
    ]
    log.plain(f"{request.method} {shown} - {response.status}")
    return response


class Front(asyncio.Protocol):
    """Looks at the first bytes of a connection.

    A pod's supervisor that carries a connection from the address that old images know begins it
    with a line that tells the pod's token; all else is HTTP from the start.
    """

    def __init__(self, public: Public, server: web.Server) -> None:
        self._public = public
        self._server = server
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, not for ever."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._public.admits(transport):
            transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_HEAD, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Hand the connection on to the server once its first request has come but for a body."""
        self._data += data
        told = self._data[: len(_PREAMBLE)]
        rest = self._data
        if self._transport is None or self._transport.is_closing():
            return
        if told == _PREAMBLE:
            line, end, rest = self._data[len(_PREAMBLE) :].partition(b"\n")
            if not end:
                if len(line) > _MAX_PREAMBLE:
                    self._transport.abort()
                return
            self._public.know(self._transport, line.decode("ascii", "replace"))
        if len(rest) < _LONGEST_HEAD and b"\r\n\r\n" not in rest:
            return
        if self._timer is not None:
            self._timer.cancel()
        handler = self._server()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        if rest:
            handler.data_received(rest)


async def serve(
    registry: Registry, public: list[socket.socket], registration: socket.socket
) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    inner, outer = Registration(registry), Public(registry)
    runners = [_runner(outer.application()), _runner(inner.application())]
    servers: list[asyncio.Server] = []
    sweeper = loop.create_task(inner.sweep())
    try:
        for runner in runners:
            await runner.setup()
        server = runners[0].server
        if server is None:
            raise RktError("the metadata service cannot run")
        for sock in public:
            servers.append(await loop.create_server(lambda: Front(outer, server), sock=sock))
        await web.SockSite(runners[1], registration).start()
        log.plain("metadata service running...")
        await stop.wait()
    finally:
        sweeper.cancel()
        log.plain("metadata service exiting...")
        for listening in servers:
            listening.close()
        for runner in runners:
            await runner.cleanup()


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=1.0)


def run(
    directory: str, *, ttl: float, public: list[socket.socket], registration: socket.socket
) -> None:
    """Run the service on sockets that listen already.  Raises RktError."""
    for name in ("aiohttp", "asyncio"):  # tracebacks of what clients sent, tokens in them
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    registry = Registry(directory, ttl=ttl)
    for text in registry.damaged:
        log.warning(f"dropped a damaged registration: {one_line(text)}")
    try:
        asyncio.run(serve(registry, public, registration))
    except OSError as err:
        raise RktError("the metadata service cannot run") from err
