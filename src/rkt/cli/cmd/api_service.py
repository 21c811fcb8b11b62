"""`rkt api-service`."""

from __future__ import annotations

from rkt import log
from rkt.cli.flags import Command, Flag
from rkt.errors import RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "api-service",
    "[--listen=ADDRESS]",
    description="""\
Serves what rkt knows of pods, images, logs and events over gRPC (v1alpha.PublicAPI), read-only and
to everybody who can reach the address. It listens on the address or on the sockets that systemd
passes.""",
    flags=(Flag("listen", "address to listen on: HOST:PORT", default="localhost:15441"),),
    words=False,
)


def run(context: Context, args: Parsed) -> int:
    """Serve until told to end."""
    context.load_services()
    try:
        from rkt.services import activation, api, apiview
    except ImportError as err:
        raise RktError(f"the API service needs the Python package {err.name}",
                       hint="make env, or make install") from err  # fmt: skip
    log.plain("API service starting...")
    sockets = activation.inherited()
    if sockets and args.given("listen"):
        raise RktError("started under systemd.socket(5), but --listen passed! Quitting.")
    off = [name for name in context.insecure.__slots__ if getattr(context.insecure, name)]
    given = {
        "dir": context.data_dir, "system_config_dir": context.system_config,
        "local_config_dir": context.local_config, "user_config_dir": context.user_config,
        "insecure_flags": ",".join(off) or "none",
    }  # fmt: skip
    flags = apiview.flags(given, trust=context.trust_keys_from_https)
    api.run(context.data_dir, flags, sockets or [api.listen(args.string("listen"))])
    return 0
