"""Image manifests and the app section.  appc spec v0.8.11, aci.md.

Attribute names are the JSON names in snake case.  Values made from Python are not checked field by
field, only by the rules that span fields; what comes from outside goes through `decode_*`.
"""

from __future__ import annotations

from rkt.const import APPC_VERSION
from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.isolators import Isolator, check_app_isolators
from rkt.schema.struct import Struct, field, replace, settle
from rkt.schema.types import (
    DIGITS,
    LOWER,
    UPPER,
    ACIdentifier,
    ACKind,
    ACName,
    BadValue,
    ImageID,
    SemVer,
    is_made_of,
    parse_bool,
    parse_date,
    parse_http_url,
    quote,
    reject_nul,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_IMAGE_MANIFEST = 16 << 20  # lists of paths are long
_LONG = 256 << 10
_PIECE = 64 << 10

OS_ARCH: dict[str, tuple[str, ...]] = {
    "darwin": ("x86_64", "i386"),
    "freebsd": ("amd64", "i386", "arm"),
    "linux": (
        "amd64",
        "i386",
        "aarch64",
        "aarch64_be",
        "armv6l",
        "armv7l",
        "armv7b",
        "ppc64",
        "ppc64le",
        "s390x",
    ),
}
"""The `os` labels, and the `arch` labels that each allows."""

SUPPORTS_SYSTEMD_NOTIFY = "appc.io/executor/supports-systemd-notify"

_ENV_START = LOWER + UPPER + "_"
_ENV_NAME = _ENV_START + DIGITS + ".-"
_MAX_ID = 2**32 - 2
_EVENTS = ("pre-start", "post-stop")


def is_env_name(text: str) -> bool:
    """Say whether an environment variable may be called that."""
    return is_made_of(text, _ENV_NAME) and text[0] in _ENV_START


class Label(Struct):
    """A name and a value that tell images of one name apart."""

    name: ACIdentifier
    value: str = ""


class Annotation(Struct):
    """A name and a value for people and tools."""

    name: ACIdentifier
    value: str = ""


class EnvVar(Struct):
    """An environment variable."""

    name: str
    value: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise BadValue("environment variable name must not be empty")
        if not is_env_name(self.name):
            raise BadValue(
                f"environment variable does not have valid identifier {quote(self.name)}"
            )
        reject_nul(self.value, f"environment variable {quote(self.name)}")


class EventHandler(Struct):
    """A program to run before an app starts or after it ended."""

    name: str = ""
    exec: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise BadValue('eventHandler "name" cannot be empty')
        if self.name not in _EVENTS:
            raise BadValue(f'bad eventHandler "name": {quote(self.name)}')
        for word in self.exec:
            reject_nul(word, "exec")


class MountPoint(Struct, omit_defaults=True, rename={"read_only": "readOnly"}):
    """A place in the image's file system that a volume is meant for."""

    name: ACName
    # Here and below: the reference writes these keys whatever their value.
    path: str = field(default="", always=True)
    read_only: bool = False

    def __post_init__(self) -> None:
        reject_nul(self.path, "path")


class Port(Struct, rename={"socket_activated": "socketActivated"}):
    """A port, or a range of ports, that an app listens on."""

    name: ACName
    protocol: str = ""
    port: int = 0
    count: int = 1
    socket_activated: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise BadValue("port must be in 1-65535 range")
        if self.count == 0:
            settle(self, "count", 1)
        if self.count < 0 or self.port + self.count > 65536:
            raise BadValue("end of port range must be in 1-65535 range")


class App(
    Struct,
    omit_defaults=True,
    rename={
        "event_handlers": "eventHandlers",
        "supplementary_gids": "supplementaryGIDs",
        "working_directory": "workingDirectory",
        "mount_points": "mountPoints",
        "user_annotations": "userAnnotations",
        "user_labels": "userLabels",
    },
):
    """How to run an image: the `app` object of image and pod manifests."""

    exec: tuple[str, ...] = field(default=(), always=True)
    event_handlers: tuple[EventHandler, ...] = ()
    user: str = ""
    group: str = ""
    supplementary_gids: tuple[int, ...] = ()
    working_directory: str = ""
    environment: tuple[EnvVar, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    ports: tuple[Port, ...] = ()
    isolators: tuple[Isolator, ...] = ()
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word in self.exec:
            reject_nul(word, "exec")
        if not self.user:
            raise BadValue("user is required")
        if not self.group:
            raise BadValue("group is required")
        reject_nul(self.user, "user")
        reject_nul(self.group, "group")
        check_unique(
            (handler.name for handler in self.event_handlers),
            lambda name: f"Only one eventHandler of name {name} allowed",
        )
        if any(not 0 <= gid <= _MAX_ID for gid in self.supplementary_gids):
            raise BadValue(f"supplementaryGIDs must be between 0 and {_MAX_ID}")
        if self.working_directory and not self.working_directory.startswith("/"):
            raise BadValue("workingDirectory must be an absolute path")
        reject_nul(self.working_directory, "workingDirectory")
        check_unique(
            (variable.name for variable in self.environment),
            lambda name: f"duplicate environment variable of name {name}",
        )
        check_app_isolators(self.isolators)

    def env(self, name: str) -> str | None:
        """Give the value of an environment variable."""
        return next((item.value for item in self.environment if item.name == name), None)


class Dependency(
    Struct,
    omit_defaults=True,
    rename={"image_name": "imageName", "image_id": "imageID"},
):
    """An image whose files lie beneath those of this image."""

    image_name: ACIdentifier = ""
    image_id: ImageID | None = None
    labels: tuple[Label, ...] = ()
    size: int = 0

    def __post_init__(self) -> None:
        if not self.image_name:
            raise BadValue("imageName cannot be empty")
        check_labels(self.labels)
        if self.size < 0:
            raise BadValue("size must not be negative")


class ImageManifest(
    Struct,
    omit_defaults=True,
    rename={"ac_kind": "acKind", "ac_version": "acVersion", "path_whitelist": "pathWhitelist"},
):
    """The manifest of an App Container Image."""

    ac_kind: ACKind = ""
    ac_version: SemVer = ""
    name: ACIdentifier = ""
    labels: tuple[Label, ...] = ()
    app: App | None = None
    annotations: tuple[Annotation, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    path_whitelist: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ac_kind != "ImageManifest":
            raise BadValue('missing or bad ACKind (must be "ImageManifest")')
        if not self.ac_version:
            raise BadValue("acVersion must be set")
        if not self.name:
            raise BadValue("name must be set")
        check_labels(self.labels)
        check_annotations(self.annotations)
        # The reference takes relative paths too, and joins them to the rootfs.
        for path in self.path_whitelist:
            reject_nul(path, "pathWhitelist")

    @classmethod
    def create(
        cls,
        name: str,
        *,
        labels: tuple[Label, ...] = (),
        app: App | None = None,
        annotations: tuple[Annotation, ...] = (),
        dependencies: tuple[Dependency, ...] = (),
        path_whitelist: tuple[str, ...] = (),
    ) -> ImageManifest:
        """Make a manifest of the version of the spec that rkt implements."""
        return cls(
            "ImageManifest",
            APPC_VERSION,
            name,
            labels,
            app,
            annotations,
            dependencies,
            path_whitelist,
        )

    def label(self, name: str) -> str | None:
        """Give the value of a label."""
        return next((item.value for item in self.labels if item.name == name), None)

    def annotation(self, name: str) -> str | None:
        """Give the value of an annotation."""
        return next((item.value for item in self.annotations if item.name == name), None)


def check_unique(names: Iterable[str], text: Callable[[str], str]) -> None:
    """Raise BadValue with `text(quoted name)` for the first name that comes twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadValue(text(quote(name)))
        seen.add(name)


def check_labels(labels: Iterable[Label]) -> None:
    """Check a list of labels: unique names, none called `name`, known os and arch."""
    values: dict[str, str] = {}
    for label in labels:
        if label.name == "name":
            raise BadValue('invalid label name: "name"')
        if label.name in values:
            raise BadValue(f"duplicate labels of name {quote(label.name)}")
        values[label.name] = label.value
    if "os" not in values:
        return
    system = values["os"]
    if system not in OS_ARCH:
        raise BadValue(f"bad os {quote(system)} (must be one of: [{' '.join(OS_ARCH)}])")
    arch = values.get("arch")
    if arch is not None and arch not in OS_ARCH[system]:
        choices = " ".join(OS_ARCH[system])
        raise BadValue(f"bad arch {quote(arch)} for {system} (must be one of: [{choices}])")


def check_annotations(annotations: Iterable[Annotation]) -> None:
    """Check a list of annotations: unique names, well-known ones with proper values."""
    seen: set[str] = set()
    for annotation in annotations:
        if annotation.name in seen:
            raise BadValue(f"duplicate annotations of name {quote(annotation.name)}")
        seen.add(annotation.name)
        check = _ANNOTATION_CHECKS.get(annotation.name)
        if check is None:
            continue
        try:
            check(annotation.value)
        except BadValue as err:
            raise BadValue(f"annotation {quote(annotation.name)}: {err.message}") from None


_ANNOTATION_CHECKS: dict[str, Callable[[str], object]] = {
    "created": parse_date,
    "homepage": parse_http_url,
    "documentation": parse_http_url,
    SUPPORTS_SYSTEMD_NOTIFY: parse_bool,
}

_KEYS = codec.key_table(
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


def decode_image_manifest(data: bytes, where: str = "image manifest") -> ImageManifest:
    """Read an image manifest of untrusted origin; raises SchemaError begun by `where`."""
    if len(data) <= _LONG:
        return codec.decode(data, ImageManifest, where, keys=_KEYS)
    manifest, listed = _apart(data, where)
    return replace(manifest, path_whitelist=tuple(_paths(listed, where)))


def check_image_manifest(data: bytes, where: str = "image manifest") -> ImageManifest:
    """Check an image manifest as a whole, and give it without a long whitelist.

    Memory holds little of such a one at a time.  Raises SchemaError begun by `where`.
    """
    if len(data) <= _LONG:
        return decode_image_manifest(data, where)
    manifest, listed = _apart(data, where)
    for _ in _paths(listed, where):
        pass
    return manifest


class Outline(Struct):
    """A manifest without its whitelist, which may be long."""

    manifest: ImageManifest
    has_whitelist: bool


def outline_of(data: bytes, where: str = "image manifest") -> Outline:
    """Read an image manifest but for its whitelist; raises SchemaError begun by `where`."""
    if len(data) <= _LONG:
        manifest = decode_image_manifest(data, where)
        return Outline(manifest, bool(manifest.path_whitelist))
    manifest, whitelist = _apart(data, where)
    is_empty = whitelist[:1] == b"[" and not whitelist[1:-1].strip()
    return Outline(manifest, not is_empty)


def whitelist_of(data: bytes, where: str = "image manifest") -> Iterator[str]:
    """Give the paths of an image manifest's whitelist, of which memory holds few at a time.

    Raises SchemaError begun by `where`.
    """
    _, listed = _apart(data, where)
    return _paths(listed, where)


def _paths(listed: bytes, where: str) -> Iterator[str]:
    where = f"{where}: pathWhitelist"
    if listed[:1] != b"[":
        codec.decode(listed, list[str], where, limit=MAX_IMAGE_MANIFEST)
    import re  # long lists are rare

    # Nowhere but between two strings can a list of strings have this.
    between = re.compile(rb'"\s*,\s*"(?=/)')
    at, index = 1, 0
    while at:
        found = between.search(listed, at + _PIECE)
        piece = listed[at : found.start() + 1] + b"]" if found else listed[at:]
        for path in codec.parse(b"[" + piece, where, limit=MAX_IMAGE_MANIFEST):
            if not isinstance(path, str):
                raise SchemaError(
                    f"{where}[{index}]: expected `str`, got `{codec.json_type(path)}`"
                )
            reject_nul(path, where)
            yield path
            index += 1
        at = found.end() - 1 if found else 0


def _apart(data: bytes, where: str) -> tuple[ImageManifest, bytes]:
    """Read an image manifest but for its whitelist, which is left as it is."""
    members = codec.members(data, where, limit=MAX_IMAGE_MANIFEST)
    whitelist = b"[]"
    for key in [key for key in members if key.lower() == "pathwhitelist"]:
        raw = members.pop(key)
        whitelist = whitelist if raw == b"null" else raw
    rest = b",".join(codec.encode(key) + b":" + raw for key, raw in members.items())
    manifest = codec.decode(
        b"{" + rest + b"}", ImageManifest, where, limit=MAX_IMAGE_MANIFEST, keys=_KEYS
    )
    return manifest, whitelist
