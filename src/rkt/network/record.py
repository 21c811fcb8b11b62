"""What a pod's directory says about its networks, written before anything is made of them.

`net/state.json` lets gc take everything away after a kill at any point and after a reboot, also
when configuration and plugins are gone; `net-info.json` is what other commands show.
"""

from __future__ import annotations

import json
import os

from rkt.const import NETWORKS
from rkt.errors import NetworkError, SchemaError
from rkt.linux import atomic, regular
from rkt.network.conf import Conf, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.network.result import Address

DIRECTORY = "net"
STATE = NETWORKS
INFO = "net-info.json"
_LIMIT = 16 << 20


class Attachment:
    """A network of the pod: how it is reached, and what its plugins answered (None: not yet)."""

    __slots__ = ("addresses", "args", "conf", "interface", "result", "runtime")

    def __init__(self, conf: Conf, interface: str, args: str) -> None:
        self.conf = conf
        self.interface = interface
        self.args = args
        self.runtime: dict[str, object] = {}
        """Values for plugins that have the capability of that name."""
        self.result: dict[str, object] | None = None
        self.addresses: list[Address] = []

    def wire(self) -> dict[str, object]:
        """Give the form in which it is recorded."""
        conf = self.conf
        return {
            "name": conf.name,
            "cniVersion": conf.version,
            "plugins": conf.plugins,
            "file": conf.file,
            "ifName": self.interface,
            "args": self.args,
            "runtime": self.runtime,
            "result": self.result,
        }


class Record:
    """The networks of a pod and what was made for them."""

    __slots__ = ("attachments", "path", "rules", "uuid")

    def __init__(self, uuid: str, path: Sequence[str]) -> None:
        self.uuid = uuid
        self.path = list(path)
        self.attachments: list[Attachment] = []
        self.rules = False

    def save(self, pod_dir: str) -> None:
        """Write it down."""
        document = {
            "uuid": self.uuid,
            "path": self.path,
            "rules": self.rules,
            "networks": [item.wire() for item in self.attachments],
        }
        data = json.dumps(document, indent="\t").encode() + b"\n"
        atomic.write_file(f"{pod_dir}/{STATE}", data, durable=False)

    def save_conf(self, pod_dir: str, conf: Conf) -> None:
        """Keep a copy of a configuration for people and programs that look for it."""
        document: dict[str, object] = conf.plugins[0]
        if conf.file.endswith("list"):
            document = {"cniVersion": conf.version, "name": conf.name, "plugins": conf.plugins}
        path = f"{pod_dir}/{DIRECTORY}/{conf.file}"
        data = json.dumps(document, indent="\t").encode() + b"\n"
        atomic.write_file(path, data, durable=False)


def load(pod_dir: str) -> Record | None:
    """Read the record of a pod; None if there is nothing to take away.  Raises SchemaError."""
    try:
        data = regular.read(f"{pod_dir}/{STATE}", _LIMIT)
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(data)
        record = Record(raw["uuid"], [str(item) for item in raw["path"]])
        record.rules = raw["rules"] is True
        for item in raw["networks"]:
            document = {key: item[key] for key in ("name", "cniVersion", "plugins")}
            attachment = Attachment(
                parse(document, item["file"], pod_dir), item["ifName"], item["args"]
            )
            attachment.runtime = dict(item["runtime"])
            attachment.result = item["result"]
            if not isinstance(attachment.result, dict | None):
                raise TypeError("a result is no object")
            record.attachments.append(attachment)
    except (ValueError, KeyError, TypeError, RecursionError, NetworkError) as err:
        raise SchemaError(f'"{STATE}" of the pod is damaged: {err}') from err
    return record


def forget(pod_dir: str) -> None:
    """Remove the record after everything was taken away; what the networks were stays readable."""
    directory = f"{pod_dir}/{DIRECTORY}"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda name: name == "state.json"):  # that one last
        os.unlink(f"{directory}/{name}")


def write_info(pod_dir: str, record: Record, programs: dict[str, str]) -> None:
    """Write net-info.json (rkt-config 3.4); `programs` are the first plugins by network."""
    infos = []
    for item in record.attachments:
        v4 = next((a for a in item.addresses if a.version == 4), None)
        v6 = next((a for a in item.addresses if a.version == 6), None)
        info = {
            "netName": item.conf.name,
            "netConf": f"{DIRECTORY}/{item.conf.file}",
            "pluginPath": programs.get(item.conf.name, ""),
            "ifName": item.interface,
            "ip": v4.ip if v4 else "",
            "args": item.args,
            "mask": v4.mask if v4 else "",
        }
        if v6:
            info["ip6"] = v6.ip
        infos.append(info)
    data = json.dumps(infos, separators=(",", ":")).encode()
    atomic.write_file(f"{pod_dir}/{INFO}", data, durable=False)
