"""Credentials: the kinds `auth` and `dockerAuth`, and the files of docker and podman behind them.

rkt v1.30.0, rkt/config/auth.go.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rkt.config import dockerfiles, files
from rkt.config.login import Login
from rkt.schema import codec
from rkt.schema.docker import DEFAULT_HOST, HUB
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rkt.config.files import ConfigFile


class _Values(Struct, rename={
    "access_key": "accessKeyID", "secret_key": "secretAccessKey", "region": "awsRegion",
}):  # fmt: skip
    user: str = ""
    password: str = ""
    token: str = ""
    access_key: str = ""
    secret_key: str = ""
    region: str = ""


class _Auth(Struct):
    domains: tuple[str, ...] | None = None
    type: str = ""
    credentials: _Values | None = None


class _DockerAuth(Struct):
    registries: tuple[str, ...] | None = None
    credentials: _Values | None = None


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
        self._user_files: list[dockerfiles.UserFile] | None = None

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
            paths = dockerfiles.paths(self._env)
            self._user_files = [file for path in paths if (file := dockerfiles.read(path))]
        for file in self._user_files:
            login = file.login(names, repository, self._env)
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
            raw = codec.parse(file.data, file.kind)
            for name in raw[key]:
                document = {"rktVersion": file.version, "rktKind": file.kind, key: [name]}
                if not is_docker:
                    document["type"] = raw["type"]
                found[key, name] = {**document, "credentials": raw["credentials"]}
    return [found[key] for key in sorted(found)]
