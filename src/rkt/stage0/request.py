"""What a caller asks of stage0: plain values, made by the command line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class AppRequest:
    """An image to run as an app: its address, arguments, and per-app flags (name -> values)."""

    __slots__ = ("args", "flags", "image")

    def __init__(self, image: str, args: Sequence[str], flags: Mapping[str, Sequence[str]]) -> None:
        self.image = image
        self.args = list(args)
        self.flags = flags

    def last(self, name: str) -> str | None:
        """Give the value of a flag that was given last."""
        values = self.flags.get(name)
        return values[-1] if values else None


class PodRequest:
    """A pod to prepare: its apps and what holds for all of them.

    `explicit_env` are (name, value) of --set-env, `env_files` of --set-env-file in order;
    `inherited_env` is the caller's environment, empty unless asked for.
    """

    __slots__ = (
        "annotations", "apps", "env_files", "explicit_env", "inherited_env", "mounts", "mutable",
        "name", "no_overlay", "pod_manifest", "ports", "private_users", "user_annotations",
        "user_labels", "volumes",
    )  # fmt: skip

    def __init__(
        self,
        apps: Sequence[AppRequest],
        *,
        volumes: Sequence[str] = (),
        mounts: Sequence[str] = (),
        ports: Sequence[str] = (),
        explicit_env: Sequence[tuple[str, str]] = (),
        env_files: Sequence[str] = (),
        inherited_env: Mapping[str, str] | None = None,
        no_overlay: bool = False,
        private_users: bool = False,
        pod_manifest: str = "",
        mutable: bool = False,
        name: str = "",
        annotations: Mapping[str, str] | None = None,
        user_annotations: Mapping[str, str] | None = None,
        user_labels: Mapping[str, str] | None = None,
    ) -> None:
        self.apps = list(apps)
        self.volumes = list(volumes)
        self.mounts = list(mounts)
        self.ports = list(ports)
        self.explicit_env = list(explicit_env)
        self.env_files = list(env_files)
        self.inherited_env = dict(inherited_env or {})
        self.no_overlay = no_overlay
        self.private_users = private_users
        self.pod_manifest = pod_manifest
        self.mutable = mutable
        self.name = name
        self.annotations = dict(annotations or {})
        self.user_annotations = dict(user_annotations or {})
        self.user_labels = dict(user_labels or {})


class NameService:
    """What the apps' resolv.conf and hosts are to be (rkt-config 5).

    `resolv` is `default`, `stage0` (the values here), `host` or `none`; `hosts` is `default`,
    `stage0` (the entries here: address -> names) or `host`.
    """

    __slots__ = ("domain", "entries", "hosts", "options", "resolv", "search", "servers")

    def __init__(
        self,
        *,
        servers: Sequence[str] = (),
        search: Sequence[str] = (),
        options: Sequence[str] = (),
        domain: str = "",
        resolv: str = "default",
        entries: Mapping[str, Sequence[str]] | None = None,
        hosts: str = "default",
    ) -> None:
        self.servers = list(servers)
        self.search = list(search)
        self.options = list(options)
        self.domain = domain
        self.resolv = resolv
        self.entries = dict(entries or {})
        self.hosts = hosts


class RunRequest:
    """How to start a prepared pod: what stage1 is told on its command line.

    `register` says whether the metadata service has to know the pod; None: if it is there.
    """

    __slots__ = (
        "debug", "disable_capabilities", "disable_paths", "disable_seccomp", "dns", "hostname",
        "interactive", "ipc", "local_config", "mutable", "net", "ready_fd", "register", "sockets",
    )  # fmt: skip

    def __init__(
        self,
        *,
        net: str = "host",
        interactive: bool = False,
        hostname: str = "",
        ipc: str = "",
        local_config: str = "",
        debug: bool = False,
        disable_capabilities: bool = False,
        disable_paths: bool = False,
        disable_seccomp: bool = False,
        dns: NameService | None = None,
        register: bool | None = False,
        mutable: bool = False,
        sockets: int = 0,
    ) -> None:
        self.net = net
        self.dns = dns or NameService()
        self.register = register
        self.ready_fd = -1
        """Of a pod in the background: where stage1 says that the apps run."""
        self.sockets = sockets
        """How many of them the service manager passed."""
        self.mutable = mutable
        self.interactive = interactive
        self.hostname = hostname
        self.ipc = ipc
        self.local_config = local_config
        self.debug = debug
        self.disable_capabilities = disable_capabilities
        self.disable_paths = disable_paths
        self.disable_seccomp = disable_seccomp
