"""What commands show of a pod: its apps, images, networks and exit codes."""

from __future__ import annotations

from rkt.errors import NotFound, RktError, SchemaError, one_line
from rkt.pod.state import DELETING, ENDED
from rkt.schema import codec
from rkt.schema.image import MAX_IMAGE_MANIFEST, decode_image_manifest
from rkt.schema.pod import MAX_POD_MANIFEST, decode_pod_manifest
from rkt.schema.types import parse_ac_identifier, parse_ac_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.pod.lifecycle import Pod
    from rkt.schema.pod import PodManifest


def manifest(pod: Pod) -> PodManifest:
    """Read the pod's manifest; raises RktError if it is missing, SchemaError if it is damaged.

    Raises NotFound of a pod that somebody deletes.
    """
    data = pod.read("pod")
    if data is None:
        if pod.state() in DELETING:
            raise NotFound(f'pod "{pod.uuid}" is being deleted')
        raise RktError(f'pod "{pod.uuid}": it has no manifest')
    return decode_pod_manifest(data, where=f'pod "{pod.uuid}": pod manifest')


def app_names(pod: Pod) -> list[str]:
    """Give the names of the pod's apps in the order of its manifest.

    Only that much of the manifest is looked at: a list of a thousand pods takes half the time.
    """
    try:
        brief = codec.parse(pod.read("pod") or b"", "pod manifest", limit=MAX_POD_MANIFEST)
        if brief["acKind"] == "PodManifest":
            return [parse_ac_name(app["name"]) for app in brief["apps"]]
    except (SchemaError, LookupError, TypeError, AttributeError):
        pass  # the strict reader knows what is wrong, or that only the spelling of keys is odd
    return [app.name for app in manifest(pod).apps]


def image_name(pod: Pod, app: str) -> str:
    """Give the name of an app's image as its stored manifest has it, `--` if that is unreadable."""
    try:
        data = pod.read(f"appsinfo/{app}/manifest")
        if data is None:
            return "--"
        try:
            brief = codec.parse(data, "image manifest", limit=MAX_IMAGE_MANIFEST)
            return parse_ac_identifier(brief["name"])
        except (SchemaError, LookupError, TypeError, AttributeError):
            return decode_image_manifest(data).name
    except RktError:
        return "--"


def network_infos(pod: Pod) -> list[dict[str, object]]:
    """Give the pod's networks as stage1 recorded them.  Raises RktError for a damaged record."""
    data = pod.read("net-info.json")
    if not data:
        return []
    try:
        return codec.decode(data, list[dict[str, object]], "net-info.json")
    except SchemaError as err:
        raise RktError(f'pod "{pod.uuid}": net-info.json is damaged') from err


def networks(pod: Pod) -> str:
    """Give the pod's networks as `name:ip4=address`, comma-separated; empty with the host's.

    A network that gave an IPv6 address is named with `ip6` too.
    """
    shown = []
    for info in network_infos(pod):
        name, wide = info.get("netName", "?"), info.get("ip6")
        if info.get("ip") or not wide:
            shown.append(f"{name}:ip4={info.get('ip', '')}")
        if wide:
            shown.append(f"{name}:ip6={wide}")
    return one_line(", ".join(shown))


def has_ended(state: str) -> bool:
    """Say whether a pod in this state has run and runs no more."""
    return state in ENDED
