"""The networks of a pod, made by its supervisor and taken away when it ends.

The namespace is kept open by the supervisor and bound nowhere: after SIGKILL it goes with the last
process of the pod, and the virtual links with it.  Leases and firewall rules do not; the record in
the pod's directory, written first, tells gc of them.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import KernelError, NetworkError, describe
from rkt.linux import lock
from rkt.network import conf, direct, record, request
from rkt.network.attach import Caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rkt.network.firewall import Forward
    from rkt.network.ports import Reservation
    from rkt.network.record import Attachment
    from rkt.network.relay import Loop
    from rkt.network.result import DNS
    from rkt.network.wellknown import WellKnown


class PodNetwork:
    """The networks of one pod, on their way up and down again.

    Making one checks everything that can be checked before anything starts: the networks are
    configured, their plugins installed, the host's ports free.  Raises NetworkError.
    """

    def __init__(
        self, pod_dir: str, uuid: str, *, nets: list[str], local_config: str,
        forwards: list[Forward], cni_path: str = "", aliases: list[str] | None = None,
    ) -> None:  # fmt: skip
        loaded = conf.load(local_config)
        chosen = conf.choose(loaded, request.parse(",".join(nets)))
        self.dir = pod_dir
        self.forwards = forwards
        self.record = record.Record(uuid, conf.plugin_path(local_config, cni_path))
        for index, (network, args) in enumerate(chosen):
            if network.name in loaded.notes:
                log.info(loaded.notes[network.name])
            item = record.Attachment(network, f"eth{index}", args)
            item.runtime["aliases"] = {network.name: aliases or []}
            self.record.attachments.append(item)
        self._netns = -1
        self._lock = -1
        self._work: Iterator[None] | None = None
        self._removal: Iterator[NetworkError | None] | None = None
        self._failures: list[NetworkError] = []
        self._reservation: Reservation | None = None
        self._relay: object = None
        self._metadata: WellKnown | None = None
        self._programs = self._find_programs()
        self._take_ports()

    def _find_programs(self) -> dict[str, str]:
        caller = Caller(self.record, "", -1)
        found = {}
        for item in self.record.attachments:
            try:
                programs = [caller.program(config) for config in item.conf.plugins]
                if item.conf.ipam:
                    caller.program(item.conf.ipam)
            except NetworkError as err:
                name = item.conf.name
                raise NetworkError(f'error adding network "{name}"', hint=err.hint) from err
            found[item.conf.name] = programs[0]
        return found

    def _take_ports(self) -> None:
        if not self.forwards:
            return
        from rkt.network import ports

        ports.check(self.forwards)
        self._reservation = ports.Reservation()
        self._reservation.take(self.forwards)
        target = self.forwardable
        first = target.conf.plugins[0]
        if first["type"] == "bridge" and not first.get("promiscMode"):
            # Where frames of a bridge pass the packet filter, a pod does not reach itself by way of
            # the host otherwise.
            first.setdefault("hairpinMode", True)
        if self._by_plugin(target):
            target.runtime["portMappings"] = [
                {
                    "hostPort": forward.host_port, "containerPort": forward.pod_port,
                    "protocol": forward.protocol, "hostIP": forward.host_ip,
                }
                for forward in self.forwards
            ]  # fmt: skip

    @staticmethod
    def _by_plugin(item: Attachment) -> bool:
        """Whether a plugin of the network forwards ports itself."""
        for config in item.conf.plugins:
            able = config.get("capabilities")
            if isinstance(able, dict) and able.get("portMappings") is True:
                return True
        return False

    @property
    def forwardable(self) -> Attachment:
        """The network that leads to the host: the first that masquerades, else the last."""
        for item in self.record.attachments:
            if item.conf.masquerades:
                return item
        return self.record.attachments[-1]

    # Up

    def begin(self, init_pid: int, interrupted: Callable[[], int]) -> None:
        """Start to attach the pod whose first process is `init_pid`; `finish` goes on."""
        directory = f"{self.dir}/{record.DIRECTORY}"
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            self._netns = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._lock = lock.open_dir(directory)
        except OSError as err:
            raise KernelError("cannot open the pod's network namespace", err) from err
        lock.acquire(self._lock, what=directory)
        for item in self.record.attachments:
            self.record.save_conf(self.dir, item.conf)
        self.record.save(self.dir)
        with open(f"{self.dir}/netns", "w", encoding="ascii") as file:
            file.write(f"/proc/{init_pid}/ns/net\n")
        work = self._attach_all(interrupted)
        next(work)
        self._work = work

    def _caller(self, interrupted: Callable[[], int] | None = None) -> Caller:
        netns = f"/proc/{os.getpid()}/fd/{self._netns}"
        return Caller(
            self.record, netns, self._lock, interrupted, mounted=f"{self.dir}/stage1/rootfs"
        )

    def _attach_all(self, interrupted: Callable[[], int]) -> Iterator[None]:
        caller = self._caller(interrupted)
        for item in self.record.attachments:
            known = item.result
            for _ in caller.add(item):
                if item.result is not known:
                    known = item.result
                    self.record.save(self.dir)
                else:
                    yield

    def finish(self) -> None:
        """Wait until the pod is attached.  Raises NetworkError."""
        work, self._work = self._work, None
        for _ in work or ():
            pass
        record.write_info(self.dir, self.record, self._programs)
        if self.forwards:
            self._forward()

    def _forward(self) -> None:
        from rkt.network import firewall

        target = self.forwardable
        if not target.addresses:
            raise NetworkError(f'network "{target.conf.name}" gave no address to forward ports to')
        if self._by_plugin(target):
            return
        self.record.rules = True
        self.record.save(self.dir)
        for address in target.addresses:
            v6 = address.version == 6
            fitting = [f for f in self.forwards if not f.host_ip or (":" in f.host_ip) == v6]
            if not fitting:
                continue
            interface = "" if v6 else firewall.route_to(address.ip)
            rules = firewall.forwarding(self.record.uuid, fitting, address, interface)
            firewall.apply(address.version, rules)
            if interface:
                firewall.open_localnet(interface)

    def relay(self, loop: Loop) -> None:
        """Carry what the packet filter cannot forward, in the supervisor's loop."""
        if self._reservation is not None and self._reservation.relayed:
            from rkt.network.relay import Relay

            self._relay = Relay(loop, self._reservation, self.forwardable.addresses)

    def serve_metadata(self, loop: Loop, token: str) -> None:
        """Lead the address of the metadata service that old images know to the service."""
        from rkt.network import wellknown

        try:
            self._metadata = wellknown.WellKnown(self._netns, token)
        except NetworkError as err:
            log.warning(f"the pod finds the metadata service by AC_METADATA_URL only, not at "
                        f"{wellknown.ADDRESS}: {err.message}")  # fmt: skip
            return
        self._metadata.start(loop)

    # What it is like

    @property
    def host_ip(self) -> str:
        """The host's address on the forwardable network, "" if there is none."""
        for address in self.forwardable.addresses:
            if address.version == 4 and address.gateway:
                return address.gateway
        return ""

    def dns(self) -> tuple[DNS, str] | None:
        """Give the DNS settings of the first network that has some, and its name."""
        from rkt.network import result

        first: tuple[DNS, str] | None = None
        for item in self.record.attachments:
            settings = result.dns(item.result or {})
            if settings and first:
                log.warning(f"network {item.conf.name} plugin specified DNS configuration, "
                            "but DNS already supplied")  # fmt: skip
            elif settings:
                first = settings, item.conf.name
        return first

    # Down

    def begin_removal(self) -> None:
        """Start to detach the pod; `tear_down` goes on."""
        if self._lock >= 0 and self._removal is None:
            self._removal = self._detach_all()
            failure = next(self._removal, None)
            if failure is not None:
                self._failures.append(failure)

    def _detach_all(self) -> Iterator[NetworkError | None]:
        if self.record.rules:
            from rkt.network import firewall

            try:
                firewall.remove(self.record.uuid, [])
                self.record.rules = False
            except NetworkError as err:
                yield err
        caller = self._caller()
        blind = Caller(self.record, "", self._lock)
        for item in reversed(self.record.attachments):
            link = direct.link_of(item)
            yield from direct.remove(blind, item, link) if link else caller.remove(item)

    def tear_down(self) -> None:
        """Detach the pod and give back what it took; idempotent, failures are left to gc."""
        if self._metadata is not None:
            self._metadata.close()
        if self._reservation is not None:
            self._reservation.close()
        if self._lock < 0:
            return
        try:
            for _ in self._work or ():  # a plugin that still runs must come to its end first
                pass
        except NetworkError as err:
            log.debug(f"{describe(err)}")
        work = self._removal or self._detach_all()
        self._failures += [failure for failure in work if failure is not None]
        self._failures += direct.finish(self._netns, self.record.attachments)
        for failure in self._failures:
            log.warning(f"{describe(failure, debug=log.is_debug())}; rkt gc will try again")
        if not self._failures:
            record.forget(self.dir)
        os.close(self._lock)
        os.close(self._netns)
        self._lock = self._netns = -1
