"""Calling a network's plugins: ADD in order, DEL in reverse (rkt-config 3.4, CNI 0.1 to 1.0)."""

from __future__ import annotations

import json

from rkt.errors import NetworkError, PluginError
from rkt.linux import proc
from rkt.network import plugin, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt.network.record import Attachment, Record

# They do their work and end; any other may leave a daemon behind.
_LEAVE_NOTHING = frozenset((
    "bandwidth", "bridge", "dhcp", "firewall", "host-device", "host-local", "ipvlan", "loopback",
    "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan", "vrf",
))  # fmt: skip
_INCOMPATIBLE = 1  # the CNI specification's code for a version that a plugin does not know
_OLD = ("0.1.0", "0.2.0")  # know no chains
_WITHOUT_RESULT_ON_DEL = (*_OLD, "0.3.0", "0.3.1")


class Caller:
    """Runs plugins for one pod in one network namespace ("" when that is gone).

    `lock_fd` stays open in every plugin: who holds it alone knows that none runs any more.
    `mounted` is where the pod has mounted its roots in the caller's mount namespace.
    """

    __slots__ = ("interrupted", "lock_fd", "mounted", "netns", "record")

    def __init__(
        self, record: Record, netns: str, lock_fd: int,
        interrupted: Callable[[], int] | None = None, mounted: str = "",
    ) -> None:  # fmt: skip
        self.record = record
        self.netns = netns
        self.lock_fd = lock_fd
        self.interrupted = interrupted
        self.mounted = mounted

    def program(self, config: dict[str, object]) -> str:
        """Find the program of a plugin.  Raises NetworkError."""
        return plugin.find(str(config["type"]), self.record.path)

    def add(self, item: Attachment) -> Iterator[None]:
        """Attach the pod; yields while a plugin runs, and when the attachment has a new result.

        Raises NetworkError.
        """
        try:
            for config in item.conf.plugins:
                child = self._start("ADD", item, config, item.result)
                yield
                answer = plugin.answer(child.name, *child.wait(self.interrupted))
                item.result = answer
                item.addresses = result.addresses(answer)
                yield
        except plugin.Interrupted:
            raise
        except NetworkError as err:
            raise NetworkError(f'error adding network "{item.conf.name}"', hint=err.hint) from err

    def remove(self, item: Attachment) -> Iterator[NetworkError | None]:
        """Detach the pod; yields None while a plugin runs, and each failure as it comes."""
        previous = None if item.conf.version in _WITHOUT_RESULT_ON_DEL else item.result
        for config in reversed(item.conf.plugins):
            try:
                child = self._start("DEL", item, config, previous)
                yield None
                plugin.answer(child.name, *child.wait())
            except NetworkError as err:
                if isinstance(err, PluginError) and _is_gone(err):
                    continue
                failure = NetworkError(f'error removing network "{item.conf.name}"')
                failure.__cause__ = err
                yield failure

    def _start(
        self, command: str, item: Attachment, config: dict[str, object],
        previous: dict[str, object] | None,
    ) -> plugin.Child:  # fmt: skip
        document = dict(config)
        document["name"], document["cniVersion"] = item.conf.name, item.conf.version
        able = document.pop("capabilities", None)
        if isinstance(able, dict):
            runtime = {key: value for key, value in item.runtime.items() if able.get(key) is True}
            if runtime:
                document["runtimeConfig"] = runtime
        if previous is not None:
            document["prevResult"] = previous
        env = {
            **proc.BASE_ENV,
            "CNI_VERSION": item.conf.version,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.record.uuid,
            "CNI_NETNS": self.netns,
            "CNI_ARGS": self._args(item, able),
            "CNI_IFNAME": item.interface,
            "CNI_PATH": ":".join(self.record.path),
        }
        data = json.dumps(document).encode()
        known = config["type"] in _LEAVE_NOTHING
        return plugin.Child(
            [self.program(config)], data, env, keep=(self.lock_fd,),
            apart_from="" if known else self.mounted,
        )  # fmt: skip

    @staticmethod
    def _args(item: Attachment, able: object) -> str:
        """Give the arguments of the user, and the pod's name to a plugin that serves names."""
        # Each plugin of a network gets all arguments, and refuses those of another otherwise.
        words = ["IgnoreUnknown=1", item.args] if item.args else []
        names = item.runtime.get("aliases")
        if isinstance(able, dict) and able.get("aliases") is True and isinstance(names, dict):
            first = next(iter(names.get(item.conf.name) or [""]))
            words = [*(words or ["IgnoreUnknown=1"]), f"K8S_POD_NAME={first}"]
        return ";".join(words)


def filtered(item: Attachment) -> list[str]:
    """Give the addresses that the plugin `firewall` let through."""
    kinds = [config["type"] for config in item.conf.plugins]
    return [address.ip for address in item.addresses] if "firewall" in kinds else []


def _is_gone(err: PluginError) -> bool:
    """Whether a plugin only says that what it should remove is not there."""
    if err.code == _INCOMPATIBLE:  # it has refused to make anything, too
        return True
    return "no such file or directory" in err.message or "Link not found" in err.message
