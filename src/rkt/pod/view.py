"""What commands show of a pod: its apps, images, networks and exit codes."""

from __future__ import annotations

from rkt.errors import RktError, SchemaError
from rkt.pod.state import ENDED
from rkt.schema.image import decode_image_manifest
from rkt.schema.pod import decode_pod_manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.schema.pod import PodManifest


def manifest(pod: Pod) -> PodManifest:
    """Read the pod's manifest; raises RktError if it is missing, SchemaError if it is damaged."""
    data = pod.read("pod")
    if data is None:
        raise RktError(f'pod "{pod.uuid}": it has no manifest')
    return decode_pod_manifest(data, where=f'pod "{pod.uuid}": pod manifest')


def app_names(pod: Pod) -> list[str]:
    """Give the names of the pod's apps in the order of its manifest."""
    return [app.name for app in manifest(pod).apps]


def image_name(pod: Pod, app: str) -> str:
    """Give the name of an app's image as its stored manifest has it, `--` if that is unreadable."""
    data = pod.read(f"appsinfo/{app}/manifest")
    if data is None:
        return "--"
    try:
        return decode_image_manifest(data).name
    except SchemaError:
        return "--"


def networks(pod: Pod) -> str:
    """Give the pod's networks as `name:ip4=address`, comma-separated; empty with the host's.

    A network that gave an IPv6 address is named with `ip6` too.
    """
    data = pod.read("net-info.json")
    if not data:
        return ""
    import msgspec

    try:
        infos = msgspec.json.decode(data, type=list[dict[str, object]])
    except msgspec.DecodeError as err:
        raise RktError(f'pod "{pod.uuid}": net-info.json is damaged') from err
    shown = []
    for info in infos:
        name, wide = info.get("netName", "?"), info.get("ip6")
        if info.get("ip") or not wide:
            shown.append(f"{name}:ip4={info.get('ip', '')}")
        if wide:
            shown.append(f"{name}:ip6={wide}")
    return ", ".join(shown)


def has_ended(state: str) -> bool:
    """Say whether a pod in this state has run and runs no more."""
    return state in ENDED
