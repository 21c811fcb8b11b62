"""The parts of pod and image manifests that stage1 acts on.

Stage0 has validated both documents; here only the shape is checked, so that a damaged file is a
clear error and not a traceback.
"""

from __future__ import annotations

from rkt import quickjson
from rkt.errors import KernelError, NotFound, SchemaError
from rkt.linux import regular

_LIMIT = 16 << 20
_CONVERTED = "appc.io/docker/"
"""How the names of annotations begin that only images made from docker or OCI ones have."""


class Volume:
    """A pod volume, or the one that a mount brings along."""

    __slots__ = ("gid", "kind", "mode", "name", "read_only", "recursive", "source", "uid")

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.name = string(raw, "name", where)
        self.kind = string(raw, "kind", where)
        self.source = string(raw, "source", where)
        self.read_only = flag(raw, "readOnly", where)
        self.recursive = flag(raw, "recursive", where)
        mode = string(raw, "mode", where) or "0755"
        try:
            self.mode = int(mode, 8) & 0o7777
        except ValueError as err:
            raise SchemaError(f'{where}: invalid mode "{mode}"') from err
        self.uid = integer(raw, "uid", where)
        self.gid = integer(raw, "gid", where)
        if self.kind not in ("host", "empty"):
            raise SchemaError(f'Volume {self.name} has invalid kind "{self.kind}"')


class Mount:
    """A volume at a path of an app."""

    __slots__ = ("path", "volume", "volume_name")

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.volume_name = string(raw, "volume", where)
        self.path = string(raw, "path", where)
        own = mapping(raw, "appVolume", where)
        self.volume = Volume(own, f"{where}.appVolume") if own else None


class MountPoint:
    """A path for which an image wants a volume."""

    __slots__ = ("name", "path", "read_only")

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.name = string(raw, "name", where)
        self.path = string(raw, "path", where)
        self.read_only = bool(flag(raw, "readOnly", where))


class Port:
    """A port that an app listens on."""

    __slots__ = ("count", "name", "port", "protocol", "socket_activated")

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.name = string(raw, "name", where)
        self.protocol = string(raw, "protocol", where) or "tcp"
        self.port = integer(raw, "port", where)
        self.count = integer(raw, "count", where) or 1
        self.socket_activated = bool(flag(raw, "socketActivated", where))
        if not 1 <= self.port <= 65535:
            raise SchemaError(f"{where}: port must be in 1-65535 range")


class ExposedPort:
    """A port of the host for one of an app, found by name or given along."""

    __slots__ = ("host_ip", "host_port", "name", "pod_port")

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self.name = string(raw, "name", where)
        self.host_port = integer(raw, "hostPort", where)
        self.host_ip = string(raw, "hostIP", where)
        own = mapping(raw, "podPort", where)
        self.pod_port = Port(own, f"{where}.podPort") if own else None
        if not 0 <= self.host_port <= 65535:
            raise SchemaError(f"{where}: hostPort must be in 1-65535 range")


class App:
    """A runtime app: what the pod manifest says, completed from its image."""

    __slots__ = (
        "annotations", "cwd", "environment", "exec", "group", "handlers", "image_annotations",
        "image_name", "isolators", "mount_points", "mounts", "name", "ports", "read_only_root",
        "supplementary_gids", "user",
    )  # fmt: skip

    def __init__(self, raw: dict[str, object], image: dict[str, object], where: str) -> None:
        self.name = string(raw, "name", where)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise SchemaError(f'{where}: invalid app name "{self.name}"')
        self.image_name = string(mapping(raw, "image", where), "name", where) or string(
            image, "name", "image manifest"
        )
        app = mapping(raw, "app", where) or mapping(image, "app", "image manifest")
        where = f'app "{self.name}"'
        if not app:
            raise SchemaError(f"{where}: no app section in the pod manifest or the image manifest")
        self.exec = strings(app, "exec", where)
        self.user = string(app, "user", where)
        self.group = string(app, "group", where)
        self.supplementary_gids = [
            gid for gid in sequence(app, "supplementaryGIDs", where) if isinstance(gid, int)
        ]
        self.cwd = string(app, "workingDirectory", where) or "/"
        self.environment = [
            (string(item, "name", where), string(item, "value", where))
            for item in mappings(app, "environment", where)
        ]
        self.handlers = {
            string(item, "name", where): strings(item, "exec", where)
            for item in mappings(app, "eventHandlers", where)
        }
        self.isolators = isolators(app, where)
        self.mount_points = [MountPoint(m, where) for m in mappings(app, "mountPoints", where)]
        self.ports = [Port(m, where) for m in mappings(app, "ports", where)]
        self.mounts = [Mount(m, where) for m in mappings(raw, "mounts", where)]
        self.read_only_root = bool(flag(raw, "readOnlyRootFS", where))
        self.annotations = pairs(raw, "annotations", where)
        self.image_annotations = pairs(image, "annotations", "image manifest")

    @property
    def is_converted(self) -> bool:
        """Whether its image is one of docker or OCI, wherever it came from."""
        return any(name.startswith(_CONVERTED) for name in self.image_annotations)


class Pod:
    """A pod manifest."""

    __slots__ = ("annotations", "apps", "isolators", "ports", "volumes")

    def __init__(self, raw: dict[str, object], apps: list[App]) -> None:
        where = "pod manifest"
        self.apps = apps
        self.volumes = {
            v.name: v for v in (Volume(m, where) for m in mappings(raw, "volumes", where))
        }
        self.isolators = isolators(raw, where)
        self.ports = [ExposedPort(m, where) for m in mappings(raw, "ports", where)]
        self.annotations = pairs(raw, "annotations", where)


def load(pod_dir: str, *, empty: bool = False) -> Pod:
    """Read `pod` and the image manifests below `appsinfo`; `empty` allows a pod without apps."""
    raw = read_json(f"{pod_dir}/pod", "pod manifest")
    apps: list[App] = []
    for index, item in enumerate(mappings(raw, "apps", "pod manifest")):
        name = string(item, "name", f"pod manifest: $.apps[{index}]")
        if "/" in name or name in ("", ".", ".."):
            raise SchemaError(f'pod manifest: $.apps[{index}]: invalid app name "{name}"')
        image = read_json(f"{pod_dir}/appsinfo/{name}/manifest", f'image manifest of app "{name}"')
        apps.append(App(item, image, f"pod manifest: $.apps[{index}]"))
    if not apps and not empty:
        raise SchemaError("pod must contain at least one application")
    return Pod(raw, apps)


def read_json(path: str, where: str, *, follow: bool = False) -> dict[str, object]:
    """Read a JSON object from a file of bounded size, which a link leads to only with `follow`."""
    try:
        data = regular.read(path, _LIMIT, follow=follow)
    except FileNotFoundError:
        raise NotFound(f'{where}: "{path}": no such file') from None
    except OSError as err:
        raise KernelError(f"{where}: cannot read", err, path) from err
    try:
        value = quickjson.loads(data)
    except ValueError as err:
        raise SchemaError(f"{where}: {err}") from err
    if not isinstance(value, dict):
        raise SchemaError(f"{where}: expected an object")
    return value


def _wrong(where: str, key: str, kind: str) -> SchemaError:
    return SchemaError(f"{where}: {key}: expected {kind}")


def string(raw: dict[str, object], key: str, where: str) -> str:
    """Give a string member, "" when absent."""
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(where, key, "a string")
    return value


def flag(raw: dict[str, object], key: str, where: str) -> bool | None:
    """Give a boolean member, None when absent."""
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(where, key, "a boolean")
    return value


def integer(raw: dict[str, object], key: str, where: str) -> int:
    """Give an integer member, 0 when absent."""
    value = raw.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(where, key, "an integer")
    return value


def mapping(raw: dict[str, object], key: str, where: str) -> dict[str, object]:
    """Give an object member, empty when absent."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where, key, "an object")
    return value


def sequence(raw: dict[str, object], key: str, where: str) -> list[object]:
    """Give an array member, empty when absent."""
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(where, key, "an array")
    return value


def mappings(raw: dict[str, object], key: str, where: str) -> list[dict[str, object]]:
    """Give an array of objects, empty when absent."""
    items: list[dict[str, object]] = []
    for item in sequence(raw, key, where):
        if not isinstance(item, dict):
            raise _wrong(where, key, "an array of objects")
        items.append(item)
    return items


def strings(raw: dict[str, object], key: str, where: str) -> list[str]:
    """Give an array of strings, empty when absent."""
    items: list[str] = []
    for item in sequence(raw, key, where):
        if not isinstance(item, str) or "\0" in item:
            raise _wrong(where, key, "an array of strings")
        items.append(item)
    return items


def pairs(raw: dict[str, object], key: str, where: str) -> dict[str, str]:
    """Give a list of name/value objects as a dictionary."""
    return {
        string(item, "name", where): string(item, "value", where)
        for item in mappings(raw, key, where)
    }


def isolators(raw: dict[str, object], where: str) -> list[tuple[str, object]]:
    """Give the isolators with their values as they are."""
    return [
        (string(item, "name", where), item.get("value"))
        for item in mappings(raw, "isolators", where)
    ]
