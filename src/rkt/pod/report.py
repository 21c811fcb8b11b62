"""Pods and apps as JSON shows them (rkt-cli sections 8.1 and 11.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkt.errors import one_line
from rkt.pod import lifecycle, reason, view
from rkt.schema.struct import Struct, field

if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.pod.reason import Reason
    from rkt.schema.pod import PodManifest, RuntimeApp

CREATED = "created"
RUNNING = "running"
EXITED = "exited"
UNKNOWN = "unknown"

_UNBORN = ("embryo", "preparing", "aborted prepare")


class MountReport(Struct):
    """A mount of an app: a volume's name, where it is inside and outside."""

    name: str
    container_path: str
    host_path: str
    read_only: bool


class AppReport(Struct, omit_defaults=True):
    """An app's state; times in ns since 1970.

    `reason` is why it ended, `last_reason` the same of one that is going to start again.
    """

    name: str
    state: str
    created_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    exit_code: int | None = None
    image_id: str = ""
    mounts: tuple[MountReport, ...] = ()
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    last_reason: str = ""
    restarts: int = 0
    health: str = ""


class PodReport(Struct, omit_defaults=True, rename={"uuid": "name"}):
    """A pod's state; times in seconds since 1970."""

    uuid: str
    state: str
    networks: tuple[dict[str, object], ...] = ()
    app_names: tuple[str, ...] = ()
    apps: tuple[AppReport, ...] = ()
    created_at: int | None = None
    started_at: int | None = None
    pod_name: str = ""
    user_annotations: dict[str, str] = field(default_factory=dict)
    user_labels: dict[str, str] = field(default_factory=dict)


def has_apps(state: str) -> bool:
    """Say whether a pod in this state has a manifest that can be relied on."""
    return state not in _UNBORN


def pod(of: Pod) -> PodReport:
    """Look at a pod.  Raises RktError if its manifest or record of networks is damaged."""
    state = of.state()
    created, started = of.created(), of.started()
    if not has_apps(state):
        return PodReport(of.uuid, state)
    manifest = view.manifest(of)
    names = tuple(app.name for app in manifest.apps)
    ends = reason.of_apps(of, state, names) if view.has_ended(state) or state == "running" else {}
    return PodReport(
        of.uuid, state,
        networks=tuple(view.network_infos(of)),
        app_names=names,
        apps=tuple(app(of, one, manifest, state, ends.get(one.name)) for one in manifest.apps),
        created_at=None if created is None else created // 10**9,
        started_at=None if started is None else started // 10**9,
        pod_name=of.name(),
        user_annotations=manifest.user_annotations,
        user_labels=manifest.user_labels,
    )  # fmt: skip


def app(
    of: Pod, one: RuntimeApp, manifest: PodManifest, state: str, end: Reason | None = None
) -> AppReport:
    """Look at an app of a pod that is in a state.

    Started is what has a process recorded, or the marker of a mutable pod; of an app that ended
    with its pod, by whatever force, the end is that of the pod.
    """
    base = f"{of.stage1_rootfs()}/rkt"
    status = f"{base}/status/{one.name}"
    created = of.mtime(f"{status}-created") or of.created()
    started = of.mtime(f"{status}-started") or of.mtime(f"{status}.pid")
    finished = of.mtime(status)
    if finished is not None:
        found = EXITED
    elif view.has_ended(state):
        found, finished = EXITED, None if of.where == "run" else of.marked()
    elif started is not None and state == "running":
        found = RUNNING
    elif created is not None:
        found = CREATED
    else:
        found = UNKNOWN
    again = end is not None and end.again and state == "running"
    text = "" if end is None else one_line(end.text)
    return AppReport(
        one.name, found,
        created_at=created, started_at=started, finished_at=finished,
        exit_code=lifecycle.number(of.read_text(status)),
        image_id=one.image.id, mounts=_mounts(of, one, manifest),
        user_annotations=one.app.user_annotations if one.app else {},
        user_labels=one.app.user_labels if one.app else {},
        reason="" if again else text, last_reason=text if again else "",
        restarts=end.restarts if end is not None else 0,
        health=reason.health(of, one.name) if state == "running" else "",
    )  # fmt: skip


def _mounts(of: Pod, one: RuntimeApp, manifest: PodManifest) -> tuple[MountReport, ...]:
    found = []
    for mount in one.mounts:
        volume = mount.app_volume or manifest.volume(mount.volume)
        source = volume.source if volume else ""
        if volume is not None and volume.kind == "empty":
            source = f"{of.path}/sharedVolumes/{mount.volume}"
        read_only = bool(volume and volume.read_only)
        found.append(MountReport(mount.volume, mount.path, source, read_only))
    return tuple(found)
