"""Credentials: the kinds `auth` and `dockerAuth`, and the files of docker and podman behind them.

rkt v1.30.0, rkt/config/auth.go.  A secret is wrapped so that it shows nowhere.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from rkt import log
from rkt.config import files
from rkt.errors import SchemaError, one_line
from rkt.schema import codec
from rkt.schema.docker import DEFAULT_HOST, HUB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rkt.config.files import ConfigFile

_MAX_FILE = 1 << 20


class Secret:
    """Text that must not be shown."""

    __slots__ = ("reveal",)

    def __init__(self, text: str) -> None:
        self.reveal = text

    def __repr__(self) -> str:
        return "****"


class Login:
    """A user name and a password."""

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = Secret(password)

    def header(self) -> str:
        """Give the value of the header for basic authentication."""
        raw = f"{self.user}:{self.password.reveal}".encode()
        return "Basic " + base64.b64encode(raw).decode()


class _Values(msgspec.Struct, frozen=True, rename={
    "access_key": "accessKeyID", "secret_key": "secretAccessKey", "region": "awsRegion",
}):  # fmt: skip
    user: str = ""
    password: str = ""
    token: str = ""
    access_key: str = ""
    secret_key: str = ""
    region: str = ""


class _Auth(msgspec.Struct, frozen=True):
    domains: tuple[str, ...] | None = None
    type: str = ""
    credentials: _Values | None = None


class _DockerAuth(msgspec.Struct, frozen=True):
    registries: tuple[str, ...] | None = None
    credentials: _Values | None = None


class _Entry(msgspec.Struct, frozen=True):
    auth: str | None = None
    username: str | None = None
    password: str | None = None


class _UserFile(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry] | None = None


class Credentials:
    """What the configuration says, read when it is first needed.

    `layers` are the configuration directories, the most important one last; `env` is where the
    files of docker and podman are looked for.
    """

    def __init__(self, layers: Sequence[str], env: Mapping[str, str]) -> None:
        self._layers = files.unique(layers)
        self._env = env
        self._domains: dict[str, Callable[[str], dict[str, str]]] | None = None
        self._registries: dict[str, Login] = {}
        self._user_files: list[dict[str, _Entry]] | None = None

    def headers(self, url: str) -> dict[str, str]:
        """Give the headers for a GET of an https URL; none for a host without credentials.

        Raises ConfigError.
        """
        domains = self._load()
        make = domains.get(urlsplit(url).netloc.rpartition("@")[2])
        return make(url) if make is not None else {}

    def registry(self, host: str, repository: str) -> Login | None:
        """Give the login for a docker registry.  Raises ConfigError."""
        self._load()
        names = HUB if host == DEFAULT_HOST else (host,)
        for name in names:
            if name in self._registries:
                return self._registries[name]
        if self._user_files is None:
            paths = _user_paths(self._env)
            self._user_files = [auths for path in paths if (auths := _read_user_file(path))]
        for auths in self._user_files:
            login = _login(auths, names, repository)
            if login is not None:
                return login
        return None

    def _load(self) -> dict[str, Callable[[str], dict[str, str]]]:
        if self._domains is None:
            domains: dict[str, Callable[[str], dict[str, str]]] = {}
            for layer in self._layers:
                seen: set[tuple[str, str]] = set()
                for file in files.load(layer, "auth.d"):
                    if file.kind == "auth":
                        _add_domains(file, domains, seen)
                    else:
                        _add_registries(file, self._registries, seen)
            self._domains = domains
        return self._domains


def _add_domains(
    file: ConfigFile,
    domains: dict[str, Callable[[str], dict[str, str]]],
    seen: set[tuple[str, str]],
) -> None:
    auth = files.decode(file, _Auth)
    if not auth.domains:
        raise files.parse_failure(file, "no domains specified")
    if not auth.type:
        raise files.parse_failure(file, "no auth type specified")
    if auth.type not in ("basic", "oauth", "aws"):
        raise files.parse_failure(file, f'unknown auth type: "{auth.type}"')
    values = auth.credentials or _Values()
    make: Callable[[str], dict[str, str]]
    if auth.type == "basic":
        login = _checked_login(file, values)

        def make(url: str) -> dict[str, str]:  # noqa: ARG001
            return {"Authorization": login.header()}

    elif auth.type == "oauth":
        if not values.token:
            raise files.parse_failure(file, "no oauth bearer token specified")

        def make(url: str) -> dict[str, str]:  # noqa: ARG001
            return {"Authorization": f"Bearer {values.token}"}

    else:
        make = _aws(file, values)
    for domain in auth.domains:
        if ("domain", domain) in seen:
            raise files.parse_failure(file, f'auth for domain "{domain}" is already specified')
        seen.add(("domain", domain))
        domains[domain] = make


def _aws(file: ConfigFile, values: _Values) -> Callable[[str], dict[str, str]]:
    if not values.access_key:
        raise files.parse_failure(file, "no AWS Access Key ID specified")
    if not values.secret_key:
        raise files.parse_failure(file, "no AWS Secret Access Key specified")

    def make(url: str) -> dict[str, str]:
        from rkt.config import aws

        host = urlsplit(url).netloc.rpartition("@")[2]
        region = values.region or aws.guess_region(host)
        key = aws.Key(values.access_key, values.secret_key, region)
        return aws.sign(key, url, time.gmtime())

    return make


def _add_registries(
    file: ConfigFile, registries: dict[str, Login], seen: set[tuple[str, str]]
) -> None:
    auth = files.decode(file, _DockerAuth)
    if not auth.registries:
        raise files.parse_failure(file, "no registries specified")
    if auth.credentials is None:
        raise files.parse_failure(file, "no credentials")
    login = _checked_login(file, auth.credentials)
    for registry in auth.registries:
        if ("registry", registry) in seen:
            raise files.parse_failure(
                file, f'credentials for docker registry "{registry}" are already specified'
            )
        seen.add(("registry", registry))
        registries[registry] = login


def _checked_login(file: ConfigFile, values: _Values) -> Login:
    if not values.user:
        raise files.parse_failure(file, "user not specified")
    if not values.password:
        raise files.parse_failure(file, "password not specified")
    return Login(values.user, values.password)


def documents(layers: Sequence[str]) -> list[dict[str, object]]:
    """Give the credentials of the layers as documents of one domain or registry each.

    For `rkt config`: secrets are in clear.  Raises ConfigError.
    """
    found: dict[tuple[str, str], dict[str, object]] = {}
    for layer in files.unique(layers):
        seen: set[tuple[str, str]] = set()
        for file in files.load(layer, "auth.d"):
            is_docker = file.kind == "dockerAuth"
            if is_docker:
                _add_registries(file, {}, seen)
            else:
                _add_domains(file, {}, seen)
            key = "registries" if is_docker else "domains"
            raw = msgspec.json.decode(file.data)
            for name in raw[key]:
                document = {"rktVersion": file.version, "rktKind": file.kind, key: [name]}
                if not is_docker:
                    document["type"] = raw["type"]
                found[key, name] = {**document, "credentials": raw["credentials"]}
    return [found[key] for key in sorted(found)]


# --- the files of docker and podman


def _user_paths(env: Mapping[str, str]) -> list[str]:
    """Name the files, the most important one first (containers-auth.json(5))."""
    if env.get("REGISTRY_AUTH_FILE"):
        return [env["REGISTRY_AUTH_FILE"]]
    home = env.get("HOME", "")
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    docker = env.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    paths = [
        f"{runtime}/containers/auth.json" if env.get("XDG_RUNTIME_DIR") else f"{runtime}/auth.json"
    ]
    paths += [f"{config}/containers/auth.json"] if config else []
    return paths + ([f"{docker}/config.json"] if docker else [])


def _read_user_file(path: str) -> dict[str, _Entry]:
    """Read one; what is wrong with it is only told, since it is not rkt's own."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return {}
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        return {}
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_FILE)
    try:
        auths = codec.decode(data, _UserFile, f'"{path}"').auths or {}
    except SchemaError as err:
        log.warning(f"{one_line(err.message)}, its credentials are not used")
        return {}
    if auths:
        files.warn_if_open(path, info)
    return {_plain_key(key): entry for key, entry in auths.items()}


def _plain_key(key: str) -> str:
    """Bring `https://index.docker.io/v1/` to the form `index.docker.io`."""
    is_url = "://" in key
    key = key.partition("://")[2] if is_url else key
    return key.split("/")[0] if is_url or key.endswith(("/v1/", "/v2/")) else key.rstrip("/")


def _login(auths: Mapping[str, _Entry], hosts: Sequence[str], repository: str) -> Login | None:
    for host in hosts:
        # podman allows a path: the longest one that fits wins
        path = f"{host}/{repository}"
        while True:
            entry = auths.get(path)
            login = _entry_login(entry) if entry is not None else None
            if login is not None:
                return login
            if "/" not in path:
                break
            path = path.rpartition("/")[0]
    return None


def _entry_login(entry: _Entry) -> Login | None:
    if entry.auth:
        try:
            text = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        user, colon, password = text.rstrip("\0").partition(":")
        return Login(user, password) if colon else None
    if entry.username and entry.password:
        return Login(entry.username, entry.password)
    return None
