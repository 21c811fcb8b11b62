"""Pod manifests.  appc spec v0.8.11, pods.md."""

from __future__ import annotations

from _socket import AF_INET6, inet_ntop, inet_pton

from rkt.const import APPC_VERSION
from rkt.schema import codec
from rkt.schema.image import (
    Annotation,
    App,
    Dependency,
    EnvVar,
    EventHandler,
    ImageManifest,
    Label,
    MountPoint,
    Port,
    check_annotations,
    check_labels,
    check_unique,
)
from rkt.schema.isolators import Isolator
from rkt.schema.struct import Struct, field, settle
from rkt.schema.types import (
    DIGITS,
    ACIdentifier,
    ACKind,
    ACName,
    BadValue,
    ImageID,
    SemVer,
    is_made_of,
    quote,
    reject_nul,
)

MAX_POD_MANIFEST = 16 << 20

_MAX_ID = 2**32 - 2


def is_ipv4(text: str) -> bool:
    """Say whether a text is a dotted IPv4 address."""
    parts = text.split(".")
    return len(parts) == 4 and all(
        len(part) <= 3
        and is_made_of(part, DIGITS)
        and int(part) <= 255
        and (part == "0" or part[0] != "0")
        for part in parts
    )


def host_address(text: str) -> str | None:
    """Give an address of a host, IPv4 or IPv6, in its usual form; None for anything else."""
    if is_ipv4(text):
        return text
    try:
        return inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    except (OSError, ValueError):
        return None


class Volume(Struct, omit_defaults=True, rename={"read_only": "readOnly"}):
    """Storage that apps of a pod mount: a directory of the host, or an empty one.

    None means unset: `read_only` follows the mount point, `recursive` is the executor's choice.
    An empty volume gets mode 0755 and owner 0:0 unless it says otherwise.
    """

    name: ACName = ""
    kind: str = ""
    source: str = ""
    read_only: bool | None = None
    recursive: bool | None = None
    mode: str | None = None
    uid: int | None = None
    gid: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise BadValue("name must be set")
        if self.kind == "host":
            self._check_host()
        elif self.kind == "empty":
            self._check_empty()
        else:
            raise BadValue('unrecognized volume kind: should be one of "empty", "host"')

    def _check_host(self) -> None:
        if not self.source:
            raise BadValue("source for host volume cannot be empty")
        for item in ("mode", "uid", "gid"):
            if getattr(self, item) is not None:
                raise BadValue(f"{item} for host volume cannot be set")
        if not self.source.startswith("/"):
            raise BadValue("source for host volume must be absolute path")
        reject_nul(self.source, "source for host volume")

    def _check_empty(self) -> None:
        if self.source:
            raise BadValue("source for empty volume must be empty")
        for item, default in (("mode", "0755"), ("uid", 0), ("gid", 0)):
            if getattr(self, item) is None:
                settle(self, item, default)
        mode = self.mode or ""
        if len(mode) > 5 or not is_made_of(mode, "01234567") or int(mode, 8) > 0o7777:
            raise BadValue(f"mode for empty volume must be an octal number, got {quote(mode)}")
        for item in ("uid", "gid"):
            if not 0 <= getattr(self, item) <= _MAX_ID:
                raise BadValue(f"{item} for empty volume must be between 0 and {_MAX_ID}")


class Mount(Struct, omit_defaults=True, rename={"app_volume": "appVolume"}):
    """A volume's place in an app's file system."""

    volume: ACName = ""
    path: str = ""
    app_volume: Volume | None = None

    def __post_init__(self) -> None:
        if not self.volume:
            raise BadValue("volume must be set")
        if not self.path:
            raise BadValue("path must be set")
        reject_nul(self.path, "path")


class ExposedPort(
    Struct,
    omit_defaults=True,
    rename={"host_port": "hostPort", "host_ip": "hostIP", "pod_port": "podPort"},
):
    """A port of an app that is reachable through the host."""

    name: ACName
    # The reference writes a port of 0 too.
    host_port: int = field(default=0, always=True)
    host_ip: str | None = None
    pod_port: Port | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.host_port <= 65535:
            raise BadValue("hostPort must be in 1-65535 range")
        if self.host_ip == "":
            settle(self, "host_ip", None)
        if self.host_ip is not None:
            address = host_address(self.host_ip)
            if address is None:
                raise BadValue(f"hostIP: {quote(self.host_ip)} is not a valid IP")
            settle(self, "host_ip", address)


class RuntimeImage(Struct, omit_defaults=True):
    """The image of an app: its ID, and its name and labels for people."""

    name: ACIdentifier | None = None
    id: ImageID = ""
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise BadValue("id must be set")
        check_labels(self.labels)


class RuntimeApp(
    Struct,
    omit_defaults=True,
    rename={"read_only_root_fs": "readOnlyRootFS"},
):
    """An app of a pod: an image under a name, with its mounts and overrides."""

    name: ACName
    image: RuntimeImage
    app: App | None = None
    read_only_root_fs: bool = False
    mounts: tuple[Mount, ...] = ()
    annotations: tuple[Annotation, ...] = ()

    def __post_init__(self) -> None:
        check_annotations(self.annotations)

    def annotation(self, name: str) -> str | None:
        """Give the value of an annotation of the app."""
        return next((item.value for item in self.annotations if item.name == name), None)


class PodManifest(
    Struct,
    rename={
        "ac_version": "acVersion",
        "ac_kind": "acKind",
        "user_annotations": "userAnnotations",
        "user_labels": "userLabels",
    },
):
    """The manifest of a pod: its apps and what they share."""

    ac_version: SemVer = ""
    ac_kind: ACKind = ""
    apps: tuple[RuntimeApp, ...] = ()
    volumes: tuple[Volume, ...] = ()
    isolators: tuple[Isolator, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    ports: tuple[ExposedPort, ...] = ()
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ac_kind != "PodManifest":
            raise BadValue('missing or bad ACKind (must be "PodManifest")')
        if not self.ac_version:
            raise BadValue("acVersion must be set")
        check_unique((app.name for app in self.apps), lambda n: f"duplicate apps of name {n}")
        check_unique((vol.name for vol in self.volumes), lambda n: f"duplicate volume name {n}")
        check_annotations(self.annotations)

    @classmethod
    def create(
        cls,
        apps: tuple[RuntimeApp, ...],
        *,
        volumes: tuple[Volume, ...] = (),
        isolators: tuple[Isolator, ...] = (),
        annotations: tuple[Annotation, ...] = (),
        ports: tuple[ExposedPort, ...] = (),
        user_annotations: dict[str, str] | None = None,
        user_labels: dict[str, str] | None = None,
    ) -> PodManifest:
        """Make a manifest of the version of the spec that rkt implements."""
        return cls(
            APPC_VERSION,
            "PodManifest",
            apps,
            volumes,
            isolators,
            annotations,
            ports,
            user_annotations or {},
            user_labels or {},
        )

    def app(self, name: str) -> RuntimeApp | None:
        """Give the app of a name."""
        return next((app for app in self.apps if app.name == name), None)

    def volume(self, name: str) -> Volume | None:
        """Give the volume of a name."""
        return next((volume for volume in self.volumes if volume.name == name), None)

    def annotation(self, name: str) -> str | None:
        """Give the value of an annotation of the pod."""
        return next((item.value for item in self.annotations if item.name == name), None)

    def wire(self) -> codec.JSON:
        """Give the JSON form: the reference writes `null` for the lists that are empty."""
        document = codec.to_builtins(self)
        for key in ("volumes", "isolators", "annotations", "ports"):
            document[key] = document[key] or None
        for key in ("userAnnotations", "userLabels"):
            if not document[key]:
                del document[key]
        return document


_KEYS = codec.key_table(
    PodManifest,
    RuntimeApp,
    RuntimeImage,
    Mount,
    Volume,
    ExposedPort,
    ImageManifest,
    App,
    Dependency,
    Port,
    MountPoint,
    EnvVar,
    EventHandler,
    Isolator,
    Annotation,
    Label,
)


def decode_pod_manifest(data: bytes, where: str = "pod manifest") -> PodManifest:
    """Read a pod manifest of untrusted origin; raises SchemaError begun by `where`."""
    return codec.decode(data, PodManifest, where, limit=MAX_POD_MANIFEST, keys=_KEYS)
