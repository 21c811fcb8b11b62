"""`rkt app sandbox`."""

from __future__ import annotations

import os

from rkt.cli import lifeflags
from rkt.cli.flags import Command, Flag, check_text, invalid
from rkt.cli.nameflags import NAME_FLAGS, hostname
from rkt.cli.nameflags import read as name_service
from rkt.cli.podapp import exit_code
from rkt.cli.podflags import STAGE1_FLAGS, networks, pod_name, preparer, register
from rkt.errors import RktError
from rkt.stage0 import listening
from rkt.stage0.request import PodRequest, RunRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "app sandbox",
    "",
    description="""\
Creates an empty pod and runs it until it is stopped.  Apps are added to it with "rkt app add" once
it is ready: see --detach, or --uuid-file-save and "rkt status --wait-ready".""",
    flags=(
        Flag("detach", "run the pod in the background: print its UUID once apps can be added",
             kind="bool", short="d"),
        *(flag for flag in lifeflags.LIFE_FLAGS if flag.name != "restart"),
        Flag("annotation", "set the pod's annotations (example: '--annotation=foo=bar')",
             kind="each"),
        Flag("hostname", "pod's hostname. If empty, it will be \"rkt-$PODUUID\""),
        *NAME_FLAGS,
        Flag("mds-register", "register pod with metadata service: true, false, or auto: if it "
             "answers", kind="bool", default="auto"),
        Flag("net", "configure the pod's networking: host, none, default, default-restricted, all, "
             "or names of networks with arguments: 'NAME[:ARG=VALUE;...],...'", kind="each",
             default="host"),
        Flag("private-net", "give the pod a network of its own", kind="each", bare="default",
             hidden=True),
        Flag("no-overlay", "disable overlay filesystem", kind="bool"),
        Flag("port", "ports to expose on the host (example: "
             "'--port=NAME:PROTOCOL:PODPORT:HOSTIP:HOSTPORT')", kind="list"),
        *STAGE1_FLAGS,
        Flag("user-annotation", "set the pod's user annotations (example: "
             "'--user-annotation=foo=bar')", kind="each"),
        Flag("user-label", "set the pod's user labels (example: '--user-label=foo=bar')",
             kind="each"),
        Flag("uuid-file-save", "write out pod UUID to specified file"),
    ),
)  # fmt: skip


def run(context: Context, args: Parsed) -> int:
    """Prepare a pod without apps and become its stage1."""
    with exit_code(1):
        return _run(context, args)


def _run(context: Context, args: Parsed) -> int:
    from rkt.cli.cmd.run import accept_or_remove, begin
    from rkt.pod import state

    if args.words:
        raise RktError(f'app sandbox takes no image: "{args.words[0]}"',
                       hint="rkt app add UUID IMAGE, once the sandbox is ready")  # fmt: skip
    request = _run_request(context, args)
    pod_request = PodRequest(
        [],
        ports=args.all("port"),
        no_overlay=args.flag("no-overlay"),
        mutable=True,
        name=pod_name(args),
        annotations={**_pairs(args, "annotation"), **lifeflags.pod_annotations(args)},
        user_annotations=_pairs(args, "user-annotation"),
        user_labels=_pairs(args, "user-label"),
    )
    pod = preparer(context, args, "new").prepare(pod_request)
    accept_or_remove(pod, args)
    pod.move(state.RUN)
    return begin(pod, request, detached=args.flag("detach"))


def _run_request(context: Context, args: Parsed) -> RunRequest:
    sockets = listening.hold(context.env)
    net = networks(args)
    if net in ("host", "none") and args.given("port"):
        raise RktError(f"--port flag does not work with '{net}' networking",
                       hint="give the pod a network of its own: --net=default")  # fmt: skip
    insecure = context.insecure
    return RunRequest(
        net=net,
        dns=name_service(args),
        register=register(args, net),
        hostname=hostname(args),
        local_config=os.path.abspath(context.local_config),
        debug=context.debug,
        disable_capabilities=insecure.capabilities,
        disable_paths=insecure.paths,
        disable_seccomp=insecure.seccomp,
        mutable=True,
        sockets=sockets,
    )


def _pairs(args: Parsed, name: str) -> dict[str, str]:
    pairs = {}
    for text in args.all(name):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise invalid(name, text, "must be specified as key=value")
        check_text(name, text)
        pairs[key] = value
    return pairs
