"""The files in which docker and podman keep logins, and the helper programs that they name.

containers-auth.json(5); docker-credential-helpers, credentials/credentials.go.  These files are not
rkt's own: what is wrong with one is told, and the search goes on.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from typing import TYPE_CHECKING

from rkt import log
from rkt.config import files
from rkt.config.login import Login
from rkt.errors import CommandError, SchemaError, one_line
from rkt.linux import proc
from rkt.schema import codec
from rkt.schema.docker import HUB
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_FILE = 1 << 20
_HELPER = "docker-credential-"
_HELPER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HELPER_SECONDS = 60
_HUB_KEY = "https://index.docker.io/v1/"
"""What docker's tools call the hub."""
_IDENTITY_USER = "<token>"
"""The user name with which a helper gives an identity token."""
_NOTHING = "credentials not found"


class _Entry(Struct, rename={"identity_token": "identitytoken"}):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identity_token: str | None = None


class _Document(Struct, rename={"helpers": "credHelpers", "store": "credsStore"}):
    auths: dict[str, _Entry] | None = None
    helpers: dict[str, str] | None = None
    store: str | None = None


class _Answer(Struct, rename={"user": "Username", "secret": "Secret"}):
    user: str = ""
    secret: str = ""


class UserFile:
    """One such file."""

    def __init__(self, path: str, document: _Document, *, is_ours: bool) -> None:
        self._path = path
        self._auths = {_plain_key(key): entry for key, entry in (document.auths or {}).items()}
        self._helpers = {_plain_key(key): name for key, name in (document.helpers or {}).items()}
        self._store = document.store or ""
        self._is_ours = is_ours

    def __bool__(self) -> bool:
        return bool(self._auths or self._helpers or self._store)

    def login(self, hosts: Sequence[str], repository: str, env: Mapping[str, str]) -> Login | None:
        """Give the login for a registry under any of its names, asking a helper if it names one."""
        for host in hosts:
            if host in self._helpers:
                return self._ask(self._helpers[host], hosts[0], env)
        found = self._entry(hosts, repository)
        if found is None and self._store:
            found = self._ask(self._store, hosts[0], env)
        return found

    def _entry(self, hosts: Sequence[str], repository: str) -> Login | None:
        for host in hosts:
            # podman allows a path: the longest one that fits wins
            path = f"{host}/{repository}"
            while True:
                entry = self._auths.get(path)
                login = _entry_login(entry) if entry is not None else None
                if login is not None:
                    return login
                if "/" not in path:
                    break
                path = path.rpartition("/")[0]
        return None

    def _ask(self, name: str, host: str, env: Mapping[str, str]) -> Login | None:
        where = one_line(self._path)
        shown = one_line(name)
        if not _HELPER_NAME.fullmatch(name):
            log.warning(f'"{where}": "{shown}" cannot be a credential helper')
            return None
        if not self._is_ours:
            log.warning(
                f'"{where}": its credential helper "{shown}" is not run, since the file is '
                "another user's or can be written by others"
            )
            return None
        program = proc.find_program(_HELPER + name, env.get("PATH") or proc.BASE_ENV["PATH"])
        if program is None:
            log.warning(f'"{where}": there is no program "{_HELPER}{shown}": no credentials')
            return None
        key = _HUB_KEY if host in HUB else host
        try:
            done = proc.run(
                [program, "get"], check=False, input=f"{key}\n".encode(), env=env,
                timeout=_HELPER_SECONDS,
            )  # fmt: skip
            said = done.stdout[:_MAX_FILE].decode("utf-8", "replace")
            if done.status == 0:
                return _helper_login(codec.decode(done.stdout[:_MAX_FILE], _Answer, "answer"))
            if said.strip().startswith(_NOTHING):
                return None
            # A helper says on standard output what is wrong.
            lines = (said.strip() or done.stderr.decode("utf-8", "replace").strip()).splitlines()
            cause = proc.ending(done.status) + (f": {lines[-1][:200]}" if lines else "")
        except (CommandError, SchemaError) as err:
            cause = err.message
        log.warning(
            f'"{where}": credential helper "{_HELPER}{shown}" gives no credentials: '
            f"{one_line(cause)}"
        )
        return None


def paths(env: Mapping[str, str]) -> list[str]:
    """Name the files, the most important one first."""
    if env.get("REGISTRY_AUTH_FILE"):
        return [env["REGISTRY_AUTH_FILE"]]
    home = env.get("HOME", "")
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    docker = env.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    found = [
        f"{runtime}/containers/auth.json" if env.get("XDG_RUNTIME_DIR") else f"{runtime}/auth.json"
    ]
    found += [f"{config}/containers/auth.json"] if config else []
    return found + ([f"{docker}/config.json"] if docker else [])


def read(path: str) -> UserFile | None:
    """Read one; None if there is nothing in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as err:
        log.warning(f'cannot read "{one_line(path)}": {err.strerror}: its credentials are not used')
        return None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_FILE)
    try:
        document = codec.decode(data, _Document, f'"{path}"')
    except SchemaError as err:
        log.warning(f"{one_line(err.message)}, its credentials are not used")
        return None
    if document.auths:
        files.warn_if_open(path, info)
    is_ours = info.st_uid in (0, os.geteuid()) and not info.st_mode & 0o022
    return UserFile(path, document, is_ours=is_ours)


def _plain_key(key: str) -> str:
    """Bring `https://index.docker.io/v1/` to the form `index.docker.io`."""
    is_url = "://" in key
    key = key.partition("://")[2] if is_url else key
    return key.split("/")[0] if is_url or key.endswith(("/v1/", "/v2/")) else key.rstrip("/")


def _entry_login(entry: _Entry) -> Login | None:
    token = entry.identity_token or ""
    user, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            text = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        user, _, password = text.rstrip("\0").partition(":")
    if token:
        return Login(user, "", identity_token=token)
    return Login(user, password) if user and password else None


def _helper_login(answer: _Answer) -> Login | None:
    if answer.user == _IDENTITY_USER:
        return Login("", "", identity_token=answer.secret) if answer.secret else None
    return Login(answer.user, answer.secret) if answer.user and answer.secret else None
