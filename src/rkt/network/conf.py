"""Network configurations: the built-in ones and those of the operator (rkt-config 3.2, 3.3)."""

from __future__ import annotations

import json
import os
import stat

from rkt.errors import ConfigError, NetworkError, NotFound
from rkt.network.request import ALL, Wanted

DIRECTORY = "net.d"
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0")
PLUGIN_DIRECTORIES = (
    "/usr/lib/rkt/plugins/net", "/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin",
)  # fmt: skip
_SUFFIXES = (".conf", ".conflist")
_MAX_FILE = 1 << 20
_MAX_FILES = 1000
_MAX_PLUGINS = 32
_MAX_NAME = 128

# 99: after the operator's.  0.4.0: the result of ADD is handed to DEL.
_BUILT_IN: dict[str, dict[str, object]] = {
    "99-default.conf": {
        "cniVersion": "0.4.0",
        "name": "default",
        "type": "ptp",
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "subnet": "172.16.28.0/24",
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    },
    "99-default-restricted.conf": {
        "cniVersion": "0.4.0",
        "name": "default-restricted",
        "type": "ptp",
        "ipMasq": False,
        "ipam": {"type": "host-local", "subnet": "172.31.0.0/16"},
    },
}


class Conf:
    """A network: its name, and its plugins in the order in which they are called."""

    __slots__ = ("directory", "file", "name", "plugins", "version")

    def __init__(
        self, name: str, version: str, plugins: list[dict[str, object]], file: str, directory: str
    ) -> None:
        self.name = name
        self.version = version
        self.plugins = plugins
        self.file = file
        self.directory = directory  # "" for a built-in one

    @property
    def masquerades(self) -> bool:
        """Whether traffic that leaves the network gets the host's address."""
        return any(plugin.get("ipMasq") is True for plugin in self.plugins)

    @property
    def ipam(self) -> dict[str, object]:
        """Give the address management of the first plugin that has one."""
        for plugin in self.plugins:
            found = plugin.get("ipam")
            if isinstance(found, dict) and found:
                return found
        return {}


class Loaded:
    """The networks of this host in the order of their files, and the files that are unusable."""

    __slots__ = ("broken", "confs", "notes")

    def __init__(self) -> None:
        self.confs: list[Conf] = []
        self.broken: list[ConfigError] = []
        self.notes: dict[str, str] = {}
        """By network: what was replaced or ignored, to be said when that network is used."""


def plugin_path(local_config: str, first: str = "") -> list[str]:
    """Give the directories in which plugins are looked for; `first` is a CNI_PATH of the user."""
    own = [f"{local_config}/{DIRECTORY}"] if local_config else []
    return [*(place for place in first.split(":") if place), *own, *PLUGIN_DIRECTORIES]


def load(local_config: str) -> Loaded:
    """Read `net.d` and add the built-in networks that it does not replace."""
    loaded = Loaded()
    directory = f"{local_config}/{DIRECTORY}"
    found: dict[str, Conf] = {}
    for file in _files(directory) if local_config else []:
        try:
            conf = read(f"{directory}/{file}")
        except ConfigError as err:
            loaded.broken.append(err)
            continue
        if conf.name in found:
            loaded.notes[conf.name] = (
                f'"{conf.name}" network already defined, ignoring "{directory}/{file}"'
            )
            continue
        found[conf.name] = conf
    for file, raw in _BUILT_IN.items():
        conf = parse(raw, file, "")
        if conf.name in found:
            loaded.notes.setdefault(
                conf.name, f'overriding "{conf.name}" network with one from "{directory}"'
            )
        else:
            found[conf.name] = conf
    loaded.confs = sorted(found.values(), key=lambda conf: conf.file)
    return loaded


def _files(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except NotADirectoryError as err:
        raise ConfigError(f'expected "{directory}" to be a directory') from err
    except OSError as err:
        raise ConfigError(f'cannot read "{directory}": {err.strerror}') from err
    found = sorted(name for name in names if name.endswith(_SUFFIXES) and name[0] != ".")
    if len(found) > _MAX_FILES:
        raise ConfigError(f'"{directory}": more than {_MAX_FILES} network configurations')
    return found


def read(path: str) -> Conf:
    """Read a configuration file; raises ConfigError naming the file and what is wrong in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as err:
        raise ConfigError(f'cannot read "{path}": {err.strerror}') from err
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f'"{path}" is not a regular file')
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise ConfigError(f'"{path}" is larger than {_MAX_FILE} bytes')
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ConfigError(f'failed to parse "{path}": {err}') from err
    directory, _, name = path.rpartition("/")
    return parse(raw, name, directory)


def parse(raw: object, file: str, directory: str) -> Conf:
    """Check a configuration of either form.  Raises ConfigError."""
    path = f"{directory}/{file}" if directory else file
    if not isinstance(raw, dict):
        raise ConfigError(f'"{path}": expected an object')
    name = raw.get("name")
    if not isinstance(name, str) or not _is_name(name):
        # The name becomes a part of paths (host-local's) and of firewall rules.
        shown = json.dumps(name, ensure_ascii=True)[:80]
        raise ConfigError(f'"{path}": $.name: {shown} is not a valid network name')
    version = raw.get("cniVersion") or "0.1.0"
    if version not in VERSIONS:
        shown = json.dumps(version)[:80]
        raise ConfigError(f'"{path}": $.cniVersion: {shown} is not supported ({VERSIONS[0]} to '
                          f'{VERSIONS[-1]} are)')  # fmt: skip
    if "plugins" not in raw:
        _check_plugin(raw, f'"{path}": $')
        return Conf(name, version, [raw], file, directory)
    plugins = raw["plugins"]
    if not isinstance(plugins, list) or not 1 <= len(plugins) <= _MAX_PLUGINS:
        raise ConfigError(f'"{path}": $.plugins: expected 1 to {_MAX_PLUGINS} plugins')
    for index, plugin in enumerate(plugins):
        if not isinstance(plugin, dict):
            raise ConfigError(f'"{path}": $.plugins[{index}]: expected an object')
        _check_plugin(plugin, f'"{path}": $.plugins[{index}]')
    return Conf(name, version, plugins, file, directory)


def _is_name(name: str) -> bool:
    """Check the names that CNI 0.4 and later allow."""
    plain = name.replace("_", "a").replace(".", "a").replace("-", "a")
    return len(name) <= _MAX_NAME and name.isascii() and plain.isalnum() and name[0].isalnum()


def _check_plugin(raw: dict[str, object], where: str) -> None:
    _check_type(raw.get("type"), f"{where}.type")
    ipam = raw.get("ipam")
    if ipam is None:
        return
    if not isinstance(ipam, dict):
        raise ConfigError(f"{where}.ipam: expected an object")
    if ipam:
        _check_type(ipam.get("type"), f"{where}.ipam.type")


def _check_type(kind: object, where: str) -> None:
    if not isinstance(kind, str) or not kind or len(kind) > _MAX_NAME:
        raise ConfigError(f"{where}: expected the name of a plugin")
    if "/" in kind or "\0" in kind or kind in (".", ".."):
        raise ConfigError(f"{where}: {json.dumps(kind)} is not the name of a plugin")


def choose(loaded: Loaded, wanted: list[Wanted]) -> list[tuple[Conf, str]]:
    """Give the networks that were asked for, with their arguments, in the order of their files.

    Raises NetworkError.  A file that cannot be used matters only if it may be the one wanted.
    """
    args = {item.name: item.args for item in wanted}
    if ALL in args:
        if loaded.broken:
            raise loaded.broken[0]
        args = {conf.name: "" for conf in loaded.confs if conf.directory} | {"default": ""} | args
        del args[ALL]
    known = [conf.name for conf in loaded.confs]
    missing = [name for name in args if name not in known]
    if missing:
        # An unusable file may hold what is missing: then that is the news.
        hint = f"{loaded.broken[0]}" if loaded.broken else f"networks here: {', '.join(known)}"
        cause = NotFound(f"networks not found: {', '.join(missing)}")
        raise NetworkError("failed to setup network", hint=hint) from cause
    return [(conf, args[conf.name]) for conf in loaded.confs if conf.name in args]
