"""The directories of trusted keys.

    <system>/trustedkeys/root.d/<fingerprint>              <local>/trustedkeys/root.d/…
    <system>/trustedkeys/prefix.d/<prefix>/<fingerprint>   <local>/trustedkeys/prefix.d/…

A file without content masks the key of its name as far as it was collected before it.
"""

from __future__ import annotations

import os

from rkt.errors import ConfigError, KernelError, RktError, VerifyError
from rkt.keystore.packets import public_keys
from rkt.linux import atomic
from rkt.schema.struct import Struct
from rkt.schema.types import DIGITS, is_made_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEX = DIGITS + "abcdef"
_MAX_KEY_FILE = 1 << 20


class TrustedKey(Struct):
    """A public key that may sign images whose name begins with `prefix` (None: any image)."""

    fingerprint: str
    path: str
    prefix: str | None
    packets: bytes
    key_ids: frozenset[str]


class Keystore:
    """The keys that the vendor (`system`) and the operator (`local`) trust."""

    def __init__(self, *, system: str, local: str) -> None:
        self._system = os.path.join(system, "trustedkeys")
        self._local = os.path.join(local, "trustedkeys")

    def keys_for(self, image_name: str) -> list[TrustedKey]:
        """Give the keys whose signature makes an image of that name trusted.

        Raises ConfigError if a key file is unreadable or holds another key than its name says.
        """
        found: dict[str, TrustedKey] = {}
        for base in (self._system, self._local):
            for path, name in _files(os.path.join(base, "root.d")):
                _collect(found, path, name, prefix=None)
        for base in (self._system, self._local):
            for prefix, path, name in _prefix_files(os.path.join(base, "prefix.d"), image_name):
                _collect(found, path, name, prefix=prefix)
        return list(found.values())

    def all_keys(self) -> list[TrustedKey]:
        """Give every key that is trusted for some image, each once.

        For data whose image name is not known yet: once it is, `keys_for` has the last word.
        """
        found: dict[str, TrustedKey] = {}
        for base in (self._system, self._local):
            for path, name in _files(os.path.join(base, "root.d")):
                _collect(found, path, name, prefix=None, masks=False)
            for prefix, path, name in _prefix_files(os.path.join(base, "prefix.d"), None):
                _collect(found, path, name, prefix=prefix, masks=False)
        return list(found.values())

    def has_prefix_key(self, image_name: str) -> bool:
        """Say whether any key is there for the name or one of its parents; roots do not count."""
        parts = image_name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            return False
        for depth in range(len(parts), 0, -1):
            for base in (self._local, self._system):
                directory = os.path.join(base, "prefix.d", *parts[:depth])
                if any(os.stat(path).st_size for path, _ in _files(directory)):
                    return True
        return False

    def add_root(self, armored: bytes, fingerprint: str) -> str:
        """Trust a key for every image; gives the path of its file."""
        return self._add(os.path.join(self._local, "root.d"), armored, fingerprint)

    def add_prefix(self, prefix: str, armored: bytes, fingerprint: str) -> str:
        """Trust a key for the images whose name begins with the prefix; gives its file's path."""
        parts = prefix.split("/")
        # An identifier may contain "..": it must not lead out of the directory.
        if any(part in ("", ".", "..") for part in parts):
            raise RktError(f'prefix "{prefix}" cannot be the name of a directory')
        return self._add(os.path.join(self._local, "prefix.d", *parts), armored, fingerprint)

    def _add(self, directory: str, armored: bytes, fingerprint: str) -> str:
        if not _is_fingerprint(fingerprint):
            raise RktError(f'"{fingerprint}" is not a fingerprint')
        path = os.path.join(directory, fingerprint)
        try:
            _make_dirs(directory)
            atomic.write_file(path, armored, mode=0o644)
        except OSError as err:
            raise KernelError("storing the key", err, path) from err
        return path


def _make_dirs(path: str) -> None:
    """Create a directory and its parents, readable for all whatever the umask."""
    if os.path.isdir(path):
        return
    _make_dirs(os.path.dirname(path))
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, 0o755)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise ConfigError(f'cannot read "{directory}": {err.strerror}') from err


def _files(directory: str) -> Iterator[tuple[str, str]]:
    """Yield (path, name) of the key files directly in a directory."""
    for name in _names(directory):
        path = os.path.join(directory, name)
        # Another rkt may be adding a key right now.
        if not _is_half_written(name) and os.path.isfile(path):
            yield path, name


def _prefix_files(base: str, image_name: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield (prefix, path, name) of the key files below prefix.d in lexical order.

    With an image name: only of directories whose path is a prefix of the name as a *string*, as
    rkt did: `example.com/ap` counts for `example.com/app`, but the first component must be equal.
    """
    if image_name is None:
        starts = _names(base)
    else:
        starts = [image_name.split("/", 1)[0]]
        if starts[0] in ("", ".", ".."):
            return
    for start in starts:
        yield from _walk(base, start, image_name)


def _walk(base: str, prefix: str, image_name: str | None) -> Iterator[tuple[str, str, str]]:
    directory = os.path.join(base, prefix)
    if image_name is not None and not image_name.startswith(prefix):
        return
    for name in _names(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            yield from _walk(base, f"{prefix}/{name}", image_name)
        elif os.path.isfile(path) and not _is_half_written(name):
            yield prefix, path, name


def _collect(
    found: dict[str, TrustedKey], path: str, name: str, *, prefix: str | None, masks: bool = True
) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEY_FILE + 1)
    except OSError as err:
        raise ConfigError(f'cannot read key file "{path}": {err.strerror}') from err
    if not data:
        if masks:
            found.pop(name, None)
        return
    if len(data) > _MAX_KEY_FILE:
        raise ConfigError(f'key file "{path}" is larger than {_MAX_KEY_FILE} bytes')
    try:
        key = public_keys(data)[0]
    except VerifyError as err:
        raise ConfigError(f'key file "{path}": {err.message}') from err
    if key.fingerprint != name:
        raise ConfigError(f'fingerprint mismatch: "{path}":"{key.fingerprint}"')
    found[name] = TrustedKey(name, path, prefix, key.packets, key.key_ids)


def _is_fingerprint(text: str) -> bool:
    return len(text) == 40 and is_made_of(text, _HEX)


def _is_half_written(text: str) -> bool:
    """Say whether a file is what a killed `rkt trust` left of a key."""
    fingerprint, _, rest = text.partition(".")
    number, dot, end = rest.partition(".")
    return _is_fingerprint(fingerprint) and is_made_of(number, DIGITS) and dot + end == ".tmp"
