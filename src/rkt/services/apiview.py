"""Pods and images as messages of the API, and the filters that choose among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkt import const
from rkt.errors import NotFound, RktError
from rkt.pod import view
from rkt.schema.image import decode_image_manifest
from rkt.services import api_pb2 as pb
from rkt.store.records import CONVERTED, KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rkt.pod.lifecycle import Pod
    from rkt.schema.image import ImageManifest
    from rkt.schema.pod import PodManifest
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_STATES = {
    "embryo": pb.POD_STATE_EMBRYO,
    "preparing": pb.POD_STATE_PREPARING,
    "aborted prepare": pb.POD_STATE_ABORTED_PREPARE,
    "prepared": pb.POD_STATE_PREPARED,
    "running": pb.POD_STATE_RUNNING,
    "exited": pb.POD_STATE_EXITED,
    "exited deleting": pb.POD_STATE_DELETING,
    "deleting": pb.POD_STATE_DELETING,
    "exited garbage": pb.POD_STATE_GARBAGE,
    "garbage": pb.POD_STATE_GARBAGE,
}
_MARKED = (pb.POD_STATE_DELETING, pb.POD_STATE_GARBAGE)
_UNBORN = (pb.POD_STATE_EMBRYO, pb.POD_STATE_PREPARING, pb.POD_STATE_ABORTED_PREPARE)


def pod(of: Pod, *, detail: bool) -> pb.Pod:
    """Look at a pod.  Raises RktError if its manifest or record of networks is damaged."""
    state = of.state()
    found = pb.Pod(id=of.uuid, pid=-1, state=_STATES[state])
    if found.state in _UNBORN:
        return found
    found.created_at = of.created() or 0
    found.started_at = of.started() or 0
    if found.state in _MARKED:
        found.gc_marked_at = of.marked()
    found.cgroup = of.read_text("subcgroup") or ""
    if state == "running":
        pid = of.pid()
        found.pid = -1 if pid is None else pid
        for info in view.network_infos(of):
            found.networks.add(
                name=_text(info.get("netName")), ipv4=_text(info.get("ip")),
                ipv6=_text(info.get("ip6")),
            )  # fmt: skip
    data = of.read("pod")
    manifest = view.manifest(of)
    found.annotations.extend(_pairs((item.name, item.value) for item in manifest.annotations))
    if detail:
        found.manifest = data or b""
    _apps(of, found, manifest, detail=detail)
    return found


def _apps(of: Pod, found: pb.Pod, manifest: PodManifest, *, detail: bool) -> None:
    codes = of.exit_codes([app.name for app in manifest.apps]) if detail else {}
    for one in manifest.apps:
        app = found.apps.add(name=one.name)
        app.annotations.extend(_pairs((item.name, item.value) for item in one.annotations))
        app.image.base_format.CopyFrom(_format(pb.IMAGE_TYPE_APPC))
        app.image.id = one.image.id[:KEY_LENGTH]
        if not detail:
            continue
        stored = of.read(f"appsinfo/{one.name}/manifest")
        if stored is not None:
            image_ = decode_image_manifest(stored, f'image manifest of app "{one.name}"')
            app.image.name = image_.name
            app.image.version = _version((label.name, label.value) for label in image_.labels)
        if one.name in codes:
            app.state = pb.APP_STATE_EXITED
            app.exit_code = codes[one.name]
        elif found.state == pb.POD_STATE_RUNNING:
            app.state = pb.APP_STATE_RUNNING
        elif found.state != pb.POD_STATE_PREPARED:
            app.state = pb.APP_STATE_EXITED  # with its pod, and nobody could record how
            app.exit_code = -1


def image(store: Store, record: ImageRecord, *, detail: bool, manifest: ImageManifest) -> pb.Image:
    """Look at an image."""
    kind = pb.IMAGE_TYPE_APPC
    if record.verification.status == CONVERTED:
        kind = pb.IMAGE_TYPE_DOCKER if record.source.startswith("docker:") else pb.IMAGE_TYPE_OCI
    found = pb.Image(
        base_format=_format(kind), id=record.key, name=record.name,
        version=_version(record.labels), import_timestamp=record.import_time // 10**9,
        size=record.tree_size or record.size, labels=_pairs(record.labels),
        annotations=_pairs((item.name, item.value) for item in manifest.annotations),
    )  # fmt: skip
    if detail:
        found.manifest = store.manifest_bytes(record.key)
    return found


def images(
    store: Store, filters: Sequence[pb.ImageFilter], *, detail: bool
) -> tuple[list[pb.Image], list[str]]:
    """Give the images that match one of the filters, and what could not be read."""
    found: list[pb.Image] = []
    problems: list[str] = []
    for record in store.list(problems=problems):
        if record.is_layer:
            continue
        try:
            one = image(store, record, detail=detail, manifest=store.manifest(record.key))
        except NotFound:
            continue  # removed meanwhile
        except RktError as err:
            problems.append(str(err))
            continue
        if not filters or any(image_matches(one, wanted) for wanted in filters):
            found.append(one)
    return found, problems


def pod_matches(found: pb.Pod, wanted: pb.PodFilter) -> bool:
    """Say whether a pod has all that a filter names."""
    return (
        _any(wanted.ids, lambda value: value == found.id)
        and (not wanted.states or found.state in wanted.states)
        and set(wanted.app_names) <= {app.name for app in found.apps}
        and {value[:KEY_LENGTH] for value in wanted.image_ids}
        <= {app.image.id for app in found.apps}
        and set(wanted.network_names) <= {network.name for network in found.networks}
        and _has(found.annotations, wanted.annotations)
        and (not wanted.cgroups or found.cgroup in wanted.cgroups)
        and _any(wanted.pod_sub_cgroups, lambda value: _is_below(value, found.cgroup))
    )


def image_matches(found: pb.Image, wanted: pb.ImageFilter) -> bool:
    """Say whether an image has all that a filter names."""
    name = found.name
    return (
        _any(wanted.ids, lambda value: value[:KEY_LENGTH] == found.id)
        and _any(wanted.full_names, lambda value: value == name)
        and _any(wanted.prefixes, name.startswith)
        and _any(wanted.base_names, lambda value: value == name.rpartition("/")[2])
        and _any(wanted.keywords, lambda value: value in name)
        and (not wanted.imported_after or found.import_timestamp > wanted.imported_after)
        and (not wanted.imported_before or found.import_timestamp < wanted.imported_before)
        and _has(found.labels, wanted.labels)
        and _has(found.annotations, wanted.annotations)
    )


if TYPE_CHECKING:
    from collections.abc import Callable


def _any(values: Sequence[str], test: Callable[[str], bool]) -> bool:
    return not values or any(test(value) for value in values)


def _has(found: Iterable[pb.KeyValue], wanted: Iterable[pb.KeyValue]) -> bool:
    return {(item.Key, item.value) for item in wanted} <= {(i.Key, i.value) for i in found}


def _is_below(path: str, cgroup: str) -> bool:
    """Say whether a path is the pod's cgroup or one below it, whatever is mounted where."""
    return bool(cgroup) and f"{path.rstrip('/')}/".startswith(f"{cgroup.rstrip('/')}/")


def _pairs(items: Iterable[tuple[str, str]]) -> list[pb.KeyValue]:
    return [pb.KeyValue(Key=key, value=value) for key, value in items]


def _version(labels: Iterable[tuple[str, str]]) -> str:
    return dict(labels).get("version", "latest")


def _format(kind: pb.ImageType) -> pb.ImageFormat:
    return pb.ImageFormat(type=kind, version=const.APPC_VERSION)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def flags(given: Mapping[str, str], *, trust: bool) -> pb.GlobalFlags:
    """Give the global flags of the service."""
    return pb.GlobalFlags(**given, trust_keys_from_https=trust)
