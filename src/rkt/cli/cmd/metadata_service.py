"""`rkt metadata-service`."""

from __future__ import annotations

import os
import signal

from rkt import const, log
from rkt.cli import duration
from rkt.cli.flags import Command, Flag, invalid
from rkt.errors import EXIT_FAILURE, RktError, describe
from rkt.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

_STATE = "/run/rkt/metadata"

COMMAND = Command(
    "metadata-service",
    "",
    description="""\
Pods ask the service about themselves; "rkt run" registers them. It listens on all IPv4
addresses and on the unix socket /run/rkt/metadata-svc.sock, or on the sockets that
systemd passes. As root it keeps no privileges but the right to remove that socket.""",
    flags=(
        Flag("listen-port", "listen port", kind="value", default=str(const.METADATA_PORT)),
        Flag("state-dir", "where registrations are kept over a restart", default=_STATE),
        Flag("ttl", "how long a pod stays known after its end", kind="value", default="30m0s"),
    ),
    words=False,
)


def run(context: Context, args: Parsed) -> int:
    """Serve until told to end."""
    port = _port(args.string("listen-port"))
    try:
        ttl = duration.parse(args.string("ttl"))
    except ValueError as err:
        raise invalid("ttl", args.string("ttl"), str(err)) from err
    if ttl < 0:
        raise invalid("ttl", args.string("ttl"), "must not be negative")
    context.load_services()
    try:
        from rkt.services import activation, metadata
    except ImportError as err:
        raise RktError(f"the metadata service needs the Python package {err.name}",
                       hint="make env, or make install") from err  # fmt: skip
    log.plain("metadata service starting...")
    directory = os.path.abspath(args.string("state-dir"))
    sockets = activation.inherited()
    own_socket = not any(_is_unix(sock) for sock in sockets)
    public = [sock for sock in sockets if not _is_unix(sock)] or [activation.listen_tcp(port)]
    activation.state_directory(directory)
    # Last, because it leaves something behind: a failure before it does not.
    registration = (
        activation.listen_unix(const.METADATA_SOCKET)
        if own_socket
        else next(sock for sock in sockets if _is_unix(sock))
    )

    def serve() -> None:
        activation.drop_privileges()
        metadata.run(directory, ttl=ttl, public=public, registration=registration)

    if os.geteuid() != 0 or not own_socket:
        serve()
        return 0
    return _guard(serve, [registration, *public])


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise invalid("listen-port", text, "must be a port number")
    return int(text)


def _is_unix(sock: socket.socket) -> bool:
    import socket

    return sock.family == socket.AF_UNIX


def _guard(serve: Callable[[], None], sockets: list[socket.socket]) -> int:
    """Let a child without privileges serve; remove the unix socket, which is root's, at its end."""

    def body() -> int:
        try:
            serve()
        except Exception as err:  # noqa: BLE001 - a forked child: nobody else can say it
            log.info(describe(err, debug=log.is_debug()))
            return EXIT_FAILURE
        return 0

    pid = proc.fork(body)
    for sock in sockets:
        sock.close()

    def forward(number: int, _frame: object) -> None:
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.unlink(const.METADATA_SOCKET)
    except FileNotFoundError:
        pass
    return status if status >= 0 else 128 - status
