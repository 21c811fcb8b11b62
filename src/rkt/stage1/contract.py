"""The arguments that stage0 passes (rkt-internals 2.2), read without argparse."""

from __future__ import annotations

from rkt.errors import UsageError


class RunOptions:
    """The arguments of the `run` entrypoint."""

    __slots__ = (
        "debug", "disable_capabilities", "disable_paths", "disable_seccomp", "hostname", "hosts",
        "interactive", "ipc", "local_config", "mds_token", "mutable", "net", "private_users",
        "resolv", "uuid",
    )  # fmt: skip

    def __init__(self) -> None:
        self.uuid = ""
        self.debug = False
        self.net: list[str] = []
        self.interactive = False
        self.private_users = ""
        self.mds_token = ""
        self.local_config = ""
        self.hostname = ""
        self.resolv = "default"
        self.hosts = "default"
        self.disable_capabilities = False
        self.disable_paths = False
        self.disable_seccomp = False
        self.mutable = False
        self.ipc = "auto"


_SWITCHES = {
    "debug": "debug",
    "interactive": "interactive",
    "mutable": "mutable",
    "disable-capabilities-restriction": "disable_capabilities",
    "disable-paths": "disable_paths",
    "disable-seccomp": "disable_seccomp",
}
_VALUES = {
    "private-users": "private_users",
    "mds-token": "mds_token",
    "local-config": "local_config",
    "hostname": "hostname",
    "ipc": "ipc",
}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_RESOLV = ("host", "stage0", "none", "default")
_HOSTS = ("host", "stage0", "default")
_IPC = ("", "auto", "private", "parent")


def parse_run(argv: list[str]) -> RunOptions:
    """Read the arguments of `run`.  Raises UsageError for what the contract does not know."""
    options = RunOptions()
    rest, flags = split_flags(
        argv, ("net", "dns-conf-mode", *_SWITCHES, *_VALUES), tuple(_SWITCHES)
    )
    for name, value in flags:
        if name in _SWITCHES:
            setattr(options, _SWITCHES[name], _boolean(name, value))
        elif name in _VALUES:
            setattr(options, _VALUES[name], value)
        elif name == "net":
            options.net += [net for net in value.split(",") if net]
        else:
            _dns_conf_mode(options, value)
    if len(rest) != 1:
        raise UsageError("run: exactly one pod UUID is needed")
    if options.ipc not in _IPC:
        raise UsageError(f'run: invalid value "{options.ipc}" for --ipc')
    options.uuid = rest[0]
    return options


def split_flags(
    argv: list[str], known: tuple[str, ...], switches: tuple[str, ...]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Separate `--name[=value]` flags from the other arguments; `--` ends the flags."""
    rest: list[str] = []
    flags: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += words
            break
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, given, value = word[2:].partition("=")
        if name not in known:
            raise UsageError(f'unknown argument "{word}"')
        if not given and name in switches:
            value = "true"
        elif not given and name != "net":  # `--net` alone means the default network
            following = next(words, None)
            if following is None:
                raise UsageError(f"--{name} needs a value")
            value = following
        flags.append((name, value or ("default" if name == "net" else "")))
    return rest, flags


def _boolean(name: str, value: str) -> bool:
    if value not in _TRUE and value not in _FALSE:
        raise UsageError(f'invalid value "{value}" for --{name}')
    return value in _TRUE


def _dns_conf_mode(options: RunOptions, value: str) -> None:
    for part in value.split(","):
        name, _, mode = part.partition("=")
        if name == "resolv" and mode in _RESOLV:
            options.resolv = mode
        elif name == "hosts" and mode in _HOSTS:
            options.hosts = mode
        else:
            raise UsageError(f'invalid value "{value}" for --dns-conf-mode')
