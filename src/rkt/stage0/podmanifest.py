"""The pod manifest: from images and flags, or from a file."""

from __future__ import annotations

import os

from rkt.const import STAGE1_MUTABLE, STAGE2_PREFIX
from rkt.errors import RktError, SchemaError
from rkt.schema.image import Annotation, App, EnvVar, check_labels, is_env_name
from rkt.schema.pod import (
    ExposedPort,
    Mount,
    PodManifest,
    RuntimeApp,
    RuntimeImage,
    decode_pod_manifest,
)
from rkt.schema.struct import replace
from rkt.schema.textual import parse_mount, parse_port, parse_sandbox_port, parse_volume
from rkt.schema.types import parse_ac_identifier, parse_ac_name, parse_bool, quote, sanitize_ac_name
from rkt.stage0 import overrides

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from rkt.fetch.finder import Finder
    from rkt.schema.image import ImageManifest
    from rkt.schema.pod import Volume
    from rkt.stage0.request import AppRequest, PodRequest
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

    T = TypeVar("T")

_MAX_FILE = 16 << 20
_MAX_ID = 2**32 - 2
MAX_APPS = 1000
"""More apps than a pod can have in earnest: a manifest must not exhaust the host."""
STREAM_MODES = {
    "stdin": ("null", "stream", "tty"),
    "stdout": ("log", "null", "stream", "tty"),
    "stderr": ("log", "null", "stream", "tty"),
}


class Image:
    """A stored image that will run as an app: its record and its manifest."""

    __slots__ = ("manifest", "record")

    def __init__(self, record: ImageRecord, manifest: ImageManifest) -> None:
        self.record = record
        self.manifest = manifest


def build(request: PodRequest, images: Sequence[Image]) -> PodManifest:
    """Make the manifest of a pod from what the command line says; raises RktError."""
    volumes = _volumes(request)
    general = _mounts(request.mounts)
    names: set[str] = set()
    apps = []
    for app, image in zip(request.apps, images, strict=True):
        name = _app_name(app, image.manifest)
        if name in names:
            raise RktError(
                f"error: multiple apps with name {name}",
                hint="give one of them another name: --name=NAME after its image",
            )
        names.add(name)
        apps.append(_runtime_app(name, request, app, image, general))
    _check_isolators(apps)
    _check_mounts(apps, volumes)
    grammar = parse_sandbox_port if request.mutable else parse_port
    ports = tuple(_flag("port", text, grammar) for text in request.ports)
    check_ports(apps, ports)
    return PodManifest.create(
        tuple(apps), volumes=volumes, ports=ports,
        annotations=_annotations({**request.annotations, **_mutable(request.mutable)}),
        user_annotations=request.user_annotations, user_labels=request.user_labels,
    )  # fmt: skip


def _mutable(value: bool) -> dict[str, str]:
    return {STAGE1_MUTABLE: str(value).lower()}


def check_flags(request: PodRequest) -> None:
    """Read the flags that no image changes, before any image is looked for; raises RktError."""
    known = {volume.name for volume in _volumes(request)}
    mounts = _mounts(request.mounts)
    for text in request.ports:
        _flag("port", text, parse_port)
    env_files(request.env_files)
    for app in request.apps:
        own = _mounts(app.flags.get("mount", ()))
        for mount in (*own, *mounts):
            if mount.volume not in known:
                raise _dangling(mount)
        if app.last("name") is not None:
            _flag("name", app.last("name") or "", parse_ac_name)
        overrides.check(app)
        _gids(app)
        for name in ("annotation", "environment", "user-annotation", "user-label"):
            _pairs(app, name)
        _annotations(_pairs(app, "annotation") | _streams(app))


def _volumes(request: PodRequest) -> tuple[Volume, ...]:
    return tuple(_flag("volume", text, parse_volume) for text in request.volumes)


def _mounts(texts: Sequence[str]) -> tuple[Mount, ...]:
    return tuple(_flag("mount", text, parse_mount) for text in texts)


def check_ports(apps: Sequence[RuntimeApp], ports: Sequence[ExposedPort]) -> None:
    """Look for the port that each exposed one means; raises RktError unless there is just one."""
    for exposed in ports:
        if exposed.pod_port is not None:
            continue
        found = [p for item in apps if item.app for p in item.app.ports if p.name == exposed.name]
        if not found:
            known = [port.name for item in apps if item.app for port in item.app.ports]
            raise RktError(
                f'error: port name "{exposed.name}" could not be found in any apps',
                hint=f"ports of the apps: {', '.join(known) or 'none'}",
            )
        if len(found) > 1:
            raise RktError(f'error: port name "{exposed.name}" defined multiple apps')


def _flag(name: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except (SchemaError, ValueError) as err:
        if f" in --{name} flag " in str(err):  # says so itself
            raise
        raise RktError(f'invalid value in --{name} flag "{text}"') from err


def _app_name(app: AppRequest, manifest: ImageManifest) -> str:
    given = app.last("name")
    if given is not None:
        return _flag("name", given, parse_ac_name)
    return sanitize_ac_name(manifest.name.rpartition("/")[2])


def _check_platform(image: Image) -> None:
    for label in ("os", "arch"):
        if image.manifest.label(label) is None:
            raise RktError(f'image "{image.manifest.name}": missing {label} label in the image '
                           "manifest")  # fmt: skip


def _runtime_app(
    name: str, request: PodRequest, app: AppRequest, image: Image, general: tuple[Mount, ...]
) -> RuntimeApp:
    _check_platform(image)
    own = _mounts(app.flags.get("mount", ()))
    mounts: dict[str, Mount] = {}
    for mount in (*own, *general):
        mounts.setdefault(os.path.normpath(mount.path), mount)
    readonly = app.last("readonly-rootfs")
    return RuntimeApp(
        name=name,
        image=_runtime_image(image),
        app=_app_section(request, app, image.manifest),
        read_only_root_fs=_flag("readonly-rootfs", readonly, parse_bool) if readonly else False,
        mounts=tuple(mounts.values()),
        annotations=_annotations(_pairs(app, "annotation") | _streams(app)),
    )


def _annotations(pairs: Mapping[str, str]) -> tuple[Annotation, ...]:
    return tuple(
        Annotation(_flag("annotation", key, parse_ac_identifier), value)
        for key, value in pairs.items()
    )


def _streams(app: AppRequest) -> dict[str, str]:
    """Give the annotations of --stdin, --stdout and --stderr (rkt-internals section 9)."""
    found = {}
    for stream, modes in STREAM_MODES.items():
        mode = app.last(stream)
        if mode is None:
            continue
        if mode not in modes:
            raise RktError(f'invalid {stream} mode "{mode}"', hint=f"one of: {', '.join(modes)}")
        found[STAGE2_PREFIX + stream] = mode
    return found


def _runtime_image(image: Image) -> RuntimeImage:
    manifest = image.manifest
    check_labels(manifest.labels)
    return RuntimeImage(name=manifest.name, id=image.record.key, labels=manifest.labels)


def _app_section(request: PodRequest, app: AppRequest, manifest: ImageManifest) -> App:
    base = manifest.app
    command = app.last("exec")
    if base is None:
        if command is None:
            raise RktError(
                f"error: image {manifest.name} has no app section and --exec argument "
                "is not provided",
                hint="add --exec=PROGRAM after the image",
            )
        base = App(user=str(os.getuid()), group=str(os.getgid()))
    exec_ = (command,) if command is not None else base.exec
    for word in (*exec_, *app.args):
        _check_text("argument", word)
    try:
        return replace(
            base,
            exec=(*exec_, *app.args),
            user=app.last("user") or base.user,
            group=app.last("group") or base.group,
            supplementary_gids=_gids(app) or base.supplementary_gids,
            working_directory=app.last("working-dir") or base.working_directory,
            environment=_environment(request, app, base),
            isolators=overrides.isolators(app, base.isolators),
            user_annotations={**base.user_annotations, **_pairs(app, "user-annotation")},
            user_labels={**base.user_labels, **_pairs(app, "user-label")},
        )
    except SchemaError as err:
        raise RktError(f'image "{manifest.name}": cannot apply the flags') from err


def _gids(app: AppRequest) -> tuple[int, ...]:
    words = [word for text in app.flags.get("supplementary-gids", ()) for word in text.split(",")]
    return tuple(_flag("supplementary-gids", word, _gid) for word in words)


def _gid(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:11]) > _MAX_ID:
        raise ValueError("--supplementary-gids must be integers")
    return int(text)


def _pairs(app: AppRequest, name: str) -> dict[str, str]:
    pairs = {}
    for text in app.flags.get(name, ()):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RktError(f'invalid format of --{name} flag "{text}"')
        pairs[key] = value
    return pairs


def _environment(request: PodRequest, app: AppRequest, base: App) -> tuple[EnvVar, ...]:
    """Merge the sources of the environment, later ones win.

    Inherited, image, --environment, --set-env-file, --set-env: the seed's order with v1.30's two
    further flags where its code has them.
    """
    merged = {name: value for name, value in request.inherited_env.items() if is_env_name(name)}
    merged.update((item.name, item.value) for item in base.environment)
    merged.update(_pairs(app, "environment"))
    merged.update(env_files(request.env_files))
    merged.update(request.explicit_env)
    for name, value in merged.items():
        _check_text(f'environment variable "{name}"', value)
    return tuple(EnvVar(name, value) for name, value in merged.items())


def _check_text(what: str, text: str) -> None:
    """Raise RktError for what no manifest can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode(errors="backslashreplace")
        raise RktError(f"{what} is not UTF-8: {quote(shown)}") from None


def env_files(paths: Sequence[str]) -> dict[str, str]:
    """Read environment files: name=value lines, `#` and `;` begin comments, no quoting."""
    merged: dict[str, str] = {}
    for path in paths:
        text = _read(path, "environment variables file").decode("utf-8", "surrogateescape")
        for line in text.split("\n"):
            if not line or line[0] in "#;":
                continue
            name, equals, value = line.partition("=")
            if not equals or not name:
                raise RktError("environment variable must be specified as name=value "
                               f'(file "{path}")')  # fmt: skip
            if name in merged:
                raise RktError(f'environment variable "{name}" already set (file "{path}")')
            merged[name] = value
    return merged


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as err:
        raise RktError(f"cannot read the {what}") from err
    if len(data) > _MAX_FILE:
        raise RktError(f'{what} "{path}" is larger than {_MAX_FILE} bytes')
    return data


def _check_isolators(apps: Sequence[RuntimeApp]) -> None:
    for app in apps:
        overrides.refuse(f'app "{app.name}"', app.app.isolators if app.app else ())


def _check_mounts(apps: Sequence[RuntimeApp], volumes: Sequence[Volume]) -> None:
    known = {volume.name for volume in volumes}
    for app in apps:
        for mount in app.mounts:
            if mount.app_volume is None and mount.volume not in known:
                raise _dangling(mount)


def _dangling(mount: Mount) -> RktError:
    return RktError(f'dangling mount point "{mount.path}": volume "{mount.volume}" not found')


def read(
    path: str, store: Store, finder: Finder, annotations: Mapping[str, str]
) -> tuple[PodManifest, list[Image]]:
    """Read a pod manifest from a file; its images must be in the store and trusted.

    An app without an app section gets its image's; `annotations` are added to the pod's.
    """
    where = f'pod manifest "{path}"'
    manifest = decode_pod_manifest(_read(path, "pod manifest"), where)
    if not manifest.apps:
        raise RktError(f"{where}: pod must contain at least one application")
    if len(manifest.apps) > MAX_APPS:
        raise RktError(f"{where}: it has {len(manifest.apps)} apps, a pod can have {MAX_APPS}")
    apps, images = [], []
    for app in manifest.apps:
        record = finder.require_trusted(store.get(store.resolve(app.image.id)))
        image = Image(record, store.manifest(record.key))
        _check_platform(image)
        section = app.app or image.manifest.app
        if section is None:
            raise RktError(f'{where}: app "{app.name}": no app section in the pod manifest or the '
                           "image manifest")  # fmt: skip
        reference = RuntimeImage(name=app.image.name or image.manifest.name, id=record.key,
                                 labels=app.image.labels or image.manifest.labels)  # fmt: skip
        apps.append(replace(app, app=section, image=reference))
        images.append(image)
    _check_isolators(apps)
    overrides.refuse("pod", manifest.isolators)
    _check_mounts(apps, manifest.volumes)
    check_ports(apps, manifest.ports)
    kept = {item.name: item.value for item in manifest.annotations} | dict(annotations)
    kept |= _mutable(False)
    changed = replace(manifest, apps=tuple(apps), annotations=_annotations(kept))
    return changed, images
