"""A pod's own network: what the pod manifest and stage0's arguments mean for `rkt.network`.

Imported only for pods that have a network of their own.
"""

from __future__ import annotations

import os

from rkt.errors import RktError
from rkt.network import result
from rkt.network.firewall import Forward
from rkt.network.setup import PodNetwork
from rkt.stage1.app import files
from rkt.stage1.app.volumes import Bind
from rkt.stage1.streams import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.stage1.app.manifest import Pod
    from rkt.stage1.app.sockets import Sockets
    from rkt.stage1.app.spec import AppPlan
    from rkt.stage1.contract import RunOptions

_RESOLV = "/etc/resolv.conf"


def plan(
    pod_dir: str, options: RunOptions, pod: Pod, hostname: str, sockets: Sockets | None
) -> PodNetwork:  # fmt: skip
    """Check all that can be checked before anything starts.  Raises RktError."""
    return PodNetwork(
        pod_dir, options.uuid, nets=options.net, local_config=options.local_config,
        forwards=forwards(pod, sockets), cni_path=os.environ.get("CNI_PATH", ""),
        aliases=[hostname, *(app.name for app in pod.apps)],
    )  # fmt: skip


def begin(network: PodNetwork, init_pid: int) -> None:
    """Start to attach the pod's namespaces to its networks."""
    network.begin(init_pid, signals.asked_to_end)


def forwards(pod: Pod, sockets: Sockets | None = None) -> list[Forward]:
    """Look up the apps' ports that the pod manifest wants on the host, but for those of sockets."""
    found = []
    for exposed in pod.ports:
        if sockets is not None and sockets.serve(exposed, pod):
            continue
        port = exposed.pod_port
        if port is None:
            named = [p for app in pod.apps for p in app.ports if p.name == exposed.name]
            if not named:
                raise RktError(f'port name "{exposed.name}" could not be found in any apps')
            if len(named) > 1:
                raise RktError(f'port name "{exposed.name}" defined multiple apps')
            port = named[0]
        found.append(
            Forward(
                exposed.name, port.protocol, exposed.host_port or port.port, port.port,
                exposed.host_ip,
            )
        )  # fmt: skip
    return found


def metadata_host(network: PodNetwork) -> str:
    """Give the address at which the pod finds the host."""
    return network.host_ip or "127.0.0.1"


def use_resolver(network: PodNetwork, rootfs: str, plans: list[AppPlan]) -> None:
    """Let the apps use the name servers of a network, unless the user mounted something there."""
    found = network.dns()
    if found is None:
        return
    path = f"{rootfs}/etc/rkt-resolv.conf"
    text = result.resolv_conf(found[0], f"rkt from network {found[1]}")
    files.provide(path, text, plans[0].users if plans else None)
    for app in plans:
        if not any(bind.target in ("/etc", _RESOLV) for bind in app.binds):
            app.binds.append(Bind(path, _RESOLV, read_only=False, recursive=False))
