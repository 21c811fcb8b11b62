"""`rkt enter`."""

from __future__ import annotations

from rkt import log
from rkt.cli.flags import Command, Flag
from rkt.cli.uuids import find_pod
from rkt.errors import NotFound, PodStateError, RktError, UsageError
from rkt.pod import view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

COMMAND = Command(
    "enter",
    "[--app=APPNAME] UUID [CMD [ARGS ...]]",
    description="Runs a command inside an app of a running pod; without a command, /bin/bash.",
    flags=(
        Flag("app", "name of the app to enter within the specified pod"),
        Flag("imageid", "image ID, or its beginning, of the app to enter", hidden=True),
    ),
    interspersed=False,
)


def run(context: Context, args: Parsed, command: str = "enter") -> int:
    """Become a command inside an app."""
    from rkt.stage0.control import enter

    if not args.words:
        raise UsageError("a pod UUID is needed", command=command)
    pod = find_pod(context, args.words[0])
    if pod.state() != "running":
        raise PodStateError(f'pod "{pod.uuid}" isn\'t currently running')
    app = choose_app(pod, args)
    argv = args.words[1:]
    if argv[:1] == ["--"]:  # of those who are used to it from elsewhere
        del argv[0]
    if not argv:
        argv = ["/bin/bash"]
        log.plain(f'No command specified, assuming "{argv[0]}"')
    enter(pod, app, argv)


def choose_app(pod: Pod, args: Parsed, command: str = "enter") -> str:
    """Give the app that a command is about: the named one, or the only one."""
    manifest = view.manifest(pod)
    names = [app.name for app in manifest.apps]
    if args.given("app"):
        name = args.string("app")
        if name not in names:
            hint = f"its apps are: {', '.join(names)}" if names else "it has no apps"
            raise NotFound(f'pod "{pod.uuid}": no app "{name}"', hint=hint)
        return name
    if command == "enter" and args.given("imageid"):
        wanted = args.string("imageid")
        names = [app.name for app in manifest.apps if app.image.id.startswith(wanted)]
        if len(names) == 1:
            return names[0]
        count = len(names)
        raise NotFound(f'pod "{pod.uuid}": {count} apps have an image ID that begins "{wanted}"')
    if not names:
        raise RktError("pod contains zero apps")
    if len(names) > 1:
        log.plain("Pod contains multiple apps:\n" + "\n".join(f"\t{name}" for name in names))
        raise RktError(
            f'Unable to determine app name: specify app using "rkt {command} --app= ..."'
        )
    return names[0]
