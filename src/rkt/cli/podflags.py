"""Flags that run and prepare share, and what they mean for stage0."""

from __future__ import annotations

import os

from rkt.cli import lifeflags, pullflags
from rkt.cli.flags import FALSE, TRUE, Flag, check_text, invalid
from rkt.cli.nameflags import NAME_FLAGS, hostname
from rkt.cli.nameflags import read as name_service
from rkt.errors import NetworkError, RktError, UsageError
from rkt.stage0 import listening
from rkt.stage0.request import AppRequest, PodRequest, RunRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import AppWords, Parsed
    from rkt.stage0.prepare import Preparer
    from rkt.stage0.stage1image import Choice

HOST, NONE, AUTO = "host", "none", "auto"
_OLD_NET = {"true": "default", "false": HOST}
_ONCE = ("signature", "exec", "seccomp")
_TEXTS = (
    "annotation", "exec", "group", "health-cmd", "seccomp", "user", "user-annotation",
    "user-label", "working-dir",
)  # fmt: skip
"""What goes into a manifest as it is, or in part: others are checked by their grammar."""
STAGE1_KINDS = {
    "url": "URL of an image to use as stage1",
    "path": "path of an image to use as stage1",
    "name": "name of an image to use as stage1",
    "hash": "hash of a stored image to use as stage1",
    "from-dir": "file name of an installed image to use as stage1",
}

APP_FLAGS = (
    Flag("annotation", "set the app's annotations (example: '--annotation=foo=bar')", app=True),
    Flag("cap-remove", "capabilities to remove", app=True, use="--caps-remove"),
    Flag("cap-retain", "capabilities to retain", app=True, use="--caps-retain"),
    Flag("caps-remove", "capabilities to remove from the default set (example: "
         "'--caps-remove=CAP_MKNOD')", app=True),
    Flag("caps-retain", "the capabilities that the app keeps, replaces the image's set", app=True),
    Flag("cpu", "cpu limit for the preceding image (example: '--cpu=500m')", app=True),
    Flag("cpu-shares", "cpu shares of the preceding image, 2 to 262144", app=True),
    Flag("environment", "set the app's environment variables (example: '--environment=foo=bar')",
         app=True),
    Flag("exec", "override the exec command for the preceding image", app=True),
    Flag("group", "group override for the preceding image (example: '--group=group')", app=True),
    Flag("memory", "memory limit for the preceding image (example: '--memory=16Mi')", app=True),
    Flag("mount", "mount point binding a volume to a path within an app (example: "
         "'--mount volume=NAME,target=PATH')", both=True),
    Flag("name", "set the name of the app (example: '--name=foo')", app=True),
    Flag("oom-score-adj", "oom-score-adj of the preceding image, -1000 to 1000", app=True),
    Flag("readonly-rootfs", "if set, the app's rootfs will be mounted read-only", app=True),
    Flag("seccomp", "seccomp filter override (example: '--seccomp mode=retain,errno=EPERM,chmod')",
         app=True),
    Flag("signature", "local signature file to use in validating the preceding image", app=True),
    Flag("stderr", 'where the app\'s stderr goes: "log", "null", "stream" or "tty"', app=True),
    Flag("stdin", 'where the app\'s stdin comes from: "null", "stream" or "tty"', app=True),
    Flag("stdout", 'where the app\'s stdout goes: "log", "null", "stream" or "tty"', app=True),
    Flag("supplementary-gids", "supplementary group IDs of the preceding image, comma-separated",
         app=True),
    Flag("user", "user override for the preceding image (example: '--user=user')", app=True),
    Flag("user-annotation", "set the app's user annotations (example: '--user-annotation=foo=bar')",
         app=True),
    Flag("user-label", "set the app's user labels (example: '--user-label=foo=bar')", app=True),
    Flag("working-dir", "override the working directory of the preceding image", app=True),
)  # fmt: skip

STAGE1_FLAGS = tuple(Flag(f"stage1-{kind}", text) for kind, text in STAGE1_KINDS.items())

_STAGE1_NAMES = frozenset(flag.name for flag in STAGE1_FLAGS)

PREPARE_FLAGS = (
    *pullflags.flags("new"),
    *APP_FLAGS,
    *lifeflags.HEALTH_FLAGS,
    *lifeflags.LIFE_FLAGS,
    Flag("inherit-env", "inherit all environment variables not set by apps", kind="bool"),
    Flag("no-overlay", "disable overlay filesystem", kind="bool"),
    Flag("pod-manifest", "the path to the pod manifest. If it's non-empty, then only '--net', "
         "'--no-overlay' and '--interactive' will have effect"),
    Flag("private-users", "run within a user namespace: root of the apps is nobody on the host",
         kind="bool"),
    Flag("port", "ports to expose on the host (example: '--port=NAME:[HOSTIP:]HOSTPORT')",
         kind="list"),
    Flag("set-env", "environment variable to set for all the apps in the form key=value",
         kind="each"),
    Flag("set-env-file", "path to an environment variables file", kind="each"),
    Flag("volume", "volumes to make available in the pod", kind="each"),
    *STAGE1_FLAGS,
)  # fmt: skip

START_FLAGS = (
    lifeflags.DETACH,
    Flag("hostname", "pod's hostname. If empty, it will be \"rkt-$PODUUID\""),
    Flag("interactive", "run pod interactively. If true, only one image may be supplied",
         kind="bool"),
    Flag("ipc", 'whether to stay in the host IPC namespace: "auto", "private" or "parent"'),
    Flag("mds-register", "register pod with metadata service: true, false, or auto: if it answers",
         kind="bool", default=AUTO),
    Flag("register-mds", "register pod with metadata service", kind="bool", default=AUTO,
         hidden=True),
    Flag("net", "configure the pod's networking: host, none, default, default-restricted, all, or "
         "names of networks with arguments: 'NAME[:ARG=VALUE;...],...'", kind="each",
         default="host", bare="default"),
    Flag("private-net", "give the pod a network of its own (the same as --net)", kind="each",
         bare="default"),
    *NAME_FLAGS,
)  # fmt: skip


def pod_request(context: Context, args: Parsed, command: str = "run") -> PodRequest:
    """Read the flags of a pod to prepare; raises UsageError or RktError on what contradicts."""
    manifest = args.string("pod-manifest")
    conflicting = ("volume", "mount", "port", "inherit-env", "set-env", "set-env-file")
    if manifest and (
        args.apps
        or pullflags.policy(args) != "new"
        or any(args.given(name) for name in conflicting)
    ):
        raise RktError("conflicting flags set with --pod-manifest (see --help)")
    if not manifest and not args.apps:
        raise RktError("must provide at least one image or specify the pod manifest",
                       hint=f"rkt help {command}")  # fmt: skip
    request = PodRequest(
        [app_request(app) for app in args.apps],
        volumes=args.all("volume"),
        mounts=args.all("mount"),
        ports=args.all("port"),
        explicit_env=_explicit_env(args.all("set-env")),
        env_files=args.all("set-env-file"),
        inherited_env=_inherited_env(context, args),
        no_overlay=args.flag("no-overlay"),
        private_users=args.flag("private-users"),
        pod_manifest=manifest,
        name=pod_name(args),
        annotations=lifeflags.pod_annotations(args),
    )
    if request.private_users and not os.path.exists("/proc/self/ns/user"):
        raise RktError("--private-users is not supported, kernel compiled without user namespace "
                       "support")  # fmt: skip
    from rkt.stage0.podmanifest import check_flags

    check_flags(request)
    return request


def pod_name(args: Parsed) -> str:
    """Give the name that the pod is to have, "" for none.  Raises UsageError."""
    if not args.given("pod-name"):
        return ""
    from rkt.pod.naming import check

    return check(args.string("pod-name"))


def app_request(app: AppWords) -> AppRequest:
    """Read an image with its flags and arguments; raises UsageError for what is no good."""
    return AppRequest(app.image, app.args, _app_flags(app))


def _app_flags(app: AppWords) -> dict[str, list[str]]:
    """Give an app's flags under their present names; raises UsageError for what is no good."""
    for name in _TEXTS:
        for value in app.flags.get(name, ()):
            check_text(name, value)
    flags = dict(app.flags)
    for old, new in (("cap-retain", "caps-retain"), ("cap-remove", "caps-remove")):
        if old in flags:
            flags[new] = flags.get(new, []) + flags.pop(old)
    for key, value in lifeflags.app_annotations(app).items():
        flags["annotation"] = [*flags.get("annotation", []), f"{key}={value}"]
    for name in _ONCE:
        values = flags.get(name, [])
        if len(values) > 1:
            raise invalid(name, values[1], f"--{name} specified multiple times for the same image")
    for value in flags.get("readonly-rootfs", ()):
        if value not in TRUE and value not in FALSE:
            raise invalid("readonly-rootfs", value, "--readonly-rootfs must be set with a boolean")
    return flags


def _explicit_env(values: list[str]) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise invalid("set-env", value, "must be specified as key=value")
        if key in pairs:
            raise invalid("set-env", value, f'key "{key}" already set')
        pairs[key] = text
    return list(pairs.items())


def preparer(context: Context, args: Parsed, policy: str | None = None) -> Preparer:
    """Make the preparer of pods with this run's settings; the pull policy may be a fixed one."""
    from rkt.stage0.prepare import Preparer
    from rkt.stage0.stage1image import Places

    return Preparer(
        context.store(), context.finder(policy or pullflags.policy(args)),
        data_dir=context.data_dir,
        places=Places(context.stage1_images, context.program_dir),
        stage1=_stage1(context, args),
    )  # fmt: skip


def _stage1(context: Context, args: Parsed) -> Choice:
    from rkt.stage0.stage1image import Choice

    given = [name.removeprefix("stage1-") for name in args.values if name in _STAGE1_NAMES]
    if context.stage1_image:
        given.append("image")
    if len(given) > 1:
        first, second = given[:2]
        raise UsageError(f"flags --stage1-{first} and --stage1-{second} are mutually exclusive")
    if not given:
        return _configured_stage1(context)
    if given == ["image"]:
        return Choice("image", context.stage1_image)
    values = args.values[f"stage1-{given[0]}"]
    if len(values) > 1:
        raise UsageError(f"--stage1-{given[0]} already used")
    return Choice(given[0], values[0])


def _configured_stage1(context: Context) -> Choice:
    """Choose what the configuration names (rkt-config 2.5).

    A stored image, else an installed one of that name, else a place.
    """
    from rkt.schema.textual import AppRef
    from rkt.stage0.stage1image import Choice

    configured = context.stage1_settings()
    if configured is None:
        return Choice()
    if configured.name and not configured.version.endswith("-dirty"):
        record = context.store().find(configured.name, {"version": configured.version})
        if record is not None:
            return Choice("hash", record.key)
    named = AppRef(configured.name, {"version": configured.version}) if configured.name else None
    return Choice("configured", configured.location, named)


def _inherited_env(context: Context, args: Parsed) -> dict[str, str]:
    """Give the caller's environment if it is asked for, without what is meant for rkt's PID."""
    if not args.flag("inherit-env"):
        return {}
    left_out = set(listening.VARIABLES)
    with open("/proc/self/environ", "rb") as file:
        if b"\0LC_CTYPE=" not in b"\0" + file.read():
            left_out.add("LC_CTYPE")  # Python's own, under the locale C (PEP 538)
    return {name: value for name, value in context.env.items() if name not in left_out}


def networks(args: Parsed) -> str:
    """Give the pod's networks, from --net and its old spelling, which also knew true and false."""
    values = [_OLD_NET.get(value, value) for value in args.all("private-net")] + args.all("net")
    net = ",".join(values) if values else HOST
    if net in (HOST, NONE):
        return net
    from rkt.network.request import parse

    try:
        parse(net)
    except NetworkError as err:
        raise invalid("net", net, err.message) from err
    return net


def register(args: Parsed, net: str) -> bool | None:
    """Say whether the pod is to be registered: yes, no, or None: if the service is there."""
    for name in ("mds-register", "register-mds"):
        if not args.given(name) or args.string(name) == AUTO:
            continue
        if not args.flag(name):
            return False
        if net == NONE:
            raise RktError("--mds-register flag does not work with --net=none. Please use 'host', "
                           "'default' or an equivalent network")  # fmt: skip
        return True
    return False if net == NONE else None


def run_request(context: Context, args: Parsed) -> RunRequest:
    """Read the flags of a pod to start, and hold what a service manager passed for it."""
    sockets = listening.hold(context.env)
    net = networks(args)
    if net in ("host", "none") and args.given("port"):
        raise RktError(f"--port flag does not work with '{net}' networking",
                       hint="give the pod a network of its own: --net=default")  # fmt: skip
    ipc = args.string("ipc")
    if ipc not in ("", "auto", "private", "parent"):
        raise invalid("ipc", ipc, 'must be "auto", "private" or "parent"')
    insecure = context.insecure
    if args.flag("interactive") and args.flag("detach"):
        raise RktError("cannot use --detach with --interactive")
    return RunRequest(
        net=net,
        dns=name_service(args),
        register=register(args, net),
        interactive=args.flag("interactive"),
        hostname=hostname(args),
        ipc=ipc,
        local_config=os.path.abspath(context.local_config),
        debug=context.debug,
        disable_capabilities=insecure.capabilities,
        disable_paths=insecure.paths,
        disable_seccomp=insecure.seccomp,
        sockets=sockets,
    )
