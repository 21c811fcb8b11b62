"""`rkt attach`."""

from __future__ import annotations

from rkt.cli.flags import Command, Flag
from rkt.cli.podapp import APP, given_pod
from rkt.errors import PodStateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

_STREAMS = ("stdin", "stdout", "stderr")
_TERMINAL = ("tty", "tty-in", "tty-out")

COMMAND = Command(
    "attach",
    "[--mode=MODE] [--app=APPNAME] UUID",
    description="""\
Connects to the streams of a running app whose --stdin, --stdout or --stderr is "stream" or "tty".
MODE is "auto" (the terminal if there is one, else all streams), "list" (print what there is), or a
list of stdin, stdout, stderr, or of tty, tty-in, tty-out.  It ends with the app, and detaches when
it is closed.""",
    flags=(APP, Flag("mode", "what to attach to: auto, list, or a list of endpoints",
                     default="auto")),
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Become stage1's attach program."""
    from rkt.cli.cmd.enter import choose_app
    from rkt.stage0.app import attach

    action, flags = _endpoints(args.string("mode"))
    pod = given_pod(context, args)
    if pod.state() != "running":
        raise PodStateError(f'pod "{pod.uuid}" isn\'t currently running')
    attach(pod, choose_app(pod, args, "attach"), action, flags, debug=context.debug)


def _endpoints(mode: str) -> tuple[str, list[str]]:
    """Give stage1's action and flags for a mode."""
    if mode == "list":
        return "list", []
    if mode == "auto":
        return "auto-attach", []
    names = mode.split(",")
    for name in names:
        if name not in _STREAMS and name not in _TERMINAL:
            raise UsageError(f'unknown endpoint "{name}"', command="attach")
    if set(names) & set(_STREAMS) and set(names) & set(_TERMINAL):
        raise UsageError(
            f'incompatible endpoints "{mode}", cannot simultaneously attach TTY and streams',
            command="attach",
        )
    wanted = {"tty-in", "tty-out"} if "tty" in names else set(names)
    return "custom-attach", [f"--{name}" for name in (*_STREAMS, *_TERMINAL) if name in wanted]
