"""Get an image from where it is published: signature first, then the archive, then into the store.

The archive is only parsed after its signature was found good, or after it is clear that nobody
knows the signer (then it is kept unverified, not unpacked) or that the user wants no check.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import (
    ArchiveError,
    DiscoveryError,
    FetchError,
    HTTPStatusError,
    KernelError,
    NotFound,
    RktError,
    SchemaError,
    UntrustedError,
    VerifyError,
    describe,
    one_line,
)
from rkt.fetch import discovery, trust
from rkt.fetch.download import Sink, download, exclusive, max_age
from rkt.fetch.http import Client, shown
from rkt.fetch.options import UPDATE
from rkt.image.ingest import can_own_files, ingest, settle
from rkt.keystore.openpgp import MAX_SIGNATURE, Signer, Verifier, signer_ids, verify_file
from rkt.schema.struct import Struct, field, replace
from rkt.store import layout
from rkt.store.records import SKIPPED, UNVERIFIED, VERIFIED, Remote, Verification

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rkt.fetch.options import Options
    from rkt.keystore.keys import Keystore, TrustedKey
    from rkt.schema.image import ImageManifest
    from rkt.schema.textual import AppRef
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_COPY = 1 << 20
_MISSING = (403, 404, 410)
"""What servers answer for a file that was never there; S3 says 403."""
_NO_SIGNATURE = "an image without a signature needs --insecure-options=image"


class _Wanted(Struct):
    """What an image must be: a name (None: any), labels, and labels that hold if present."""

    source: str
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    latest: bool = False


@contextmanager
def _refusing(source: str) -> Iterator[None]:
    """Name the image in what is said of its signature."""
    try:
        yield
    except VerifyError as err:
        where = one_line(shown(source))
        raise VerifyError(f'image "{where}" is refused: {err.message}', hint=err.hint) from err


class _OtherPrefix(Exception):
    """The signer is trusted, but not for images of this name."""


class Fetcher:
    """Fetches images into a store with the checks of one command."""

    def __init__(self, store: Store, keystore: Keystore, options: Options) -> None:
        self._store = store
        self._keystore = keystore
        self._options = options
        self._insecure = options.insecure
        read = options.credentials
        credentials = None if read is None else lambda url: read().headers(url)
        self._client = Client(options.insecure, credentials=credentials)
        self._offered: set[str] = set()
        self._warned = False

    # -- the three kinds of address

    def by_name(self, ref: AppRef, labels: Mapping[str, str], signature: str | None) -> ImageRecord:
        """Fetch by meta discovery; `labels` are those of the name with defaults added."""
        log.info(f"searching for app image {one_line(str(ref))}")
        try:
            endpoint = discovery.find_endpoint(self._client, ref.name, labels)
        except FetchError as err:
            raise DiscoveryError(f'discovery failed for "{ref.name}"', hint=err.hint) from err
        wanted = _Wanted(
            endpoint.image, ref.name, dict(ref.labels), dict(labels), "version" not in ref.labels
        )
        return self._remote(wanted, signature or endpoint.signature)

    def by_url(self, url: str, signature: str | None) -> ImageRecord:
        """Fetch an archive from a URL; its signature is beside it."""
        from urllib.parse import urlsplit, urlunsplit

        parts = urlsplit(url)
        beside = urlunsplit(parts._replace(path=parts.path.removesuffix(".aci") + ".aci.asc"))
        return self._remote(_Wanted(url), signature or beside)

    def by_file(self, path: str, signature: str | None) -> ImageRecord:
        """Take an archive from a file; its signature is beside it."""
        log.debug(f"using image from file {one_line(path)}")
        wanted = _Wanted(os.path.abspath(path))
        with ExitStack() as stack:
            stable = self._stable(path, stack)
            if self._insecure.image:
                self._warn_skipped()
                return self._ingest(stable, wanted, None, None)
            data = self._signature(signature or path.removesuffix(".aci") + ".aci.asc")
            if data is None:
                raise FetchError(
                    "the server wants the signature asked for later, which never comes"
                )
            with _refusing(path):
                signer = self._verify(self._keys(wanted, data), data, stable)
            return self._ingest(stable, wanted, data, signer)

    def verify_stored(self, record: ImageRecord) -> Signer:
        """Check a stored image's signature with the keys trusted now, and record the outcome.

        Raises UntrustedError or another VerifyError.
        """
        signature = self._store.signature(record.key)
        raw = None if signature is None else self._store.open_blob(record.key)
        if signature is None or raw is None:
            name = one_line(record.name)
            raise VerifyError(
                f'refusing to execute image "{name}": it was fetched without verification',
                hint=f"rkt fetch {one_line(record.source)} (or use --insecure-options=image)",
            )
        with raw:
            path = f"/proc/self/fd/{raw.fileno()}"
            signer = verify_file(self._keystore.keys_for(record.name), signature, path)
            settle(
                self._store, record, raw, unpack=can_own_files() and not record.unpacked
            )  # what was signed must be what has this name and this ID
        _say_verified(signer)
        self._store.set_verification(record.key, _verification(signer))
        return signer

    # -- over the network

    def _remote(self, wanted: _Wanted, signature: str) -> ImageRecord:
        url = wanted.source
        known = self._reusable(url)
        if known is not None and (self._is_current(known) or self._is_unchanged(known, url)):
            return self._use(known, wanted)
        log.info(f"fetching image from {one_line(shown(url))}")
        if self._insecure.image:
            self._warn_skipped()
        layout.ensure(self._store.data_dir)
        directory = f"{self._store.path}/partial"
        with exclusive(directory, url):
            now = self._reusable(url)
            if now is not None and (known is None or known.download_time < now.download_time):
                return self._use(now, wanted)  # another rkt has fetched it while we waited
            return self._download(wanted, signature, directory)

    def _download(self, wanted: _Wanted, location: str, directory: str) -> ImageRecord:
        signature: bytes | None = None
        keys: list[TrustedKey] = []
        if not self._insecure.image:
            signature = self._signature(location)
            if signature is not None:
                with _refusing(wanted.source):
                    keys = self._keys(wanted, signature)
        is_deferred = signature is None and not self._insecure.image
        with _Stream(keys, signature) as check, download(
            self._client, wanted.source, directory,
            sink=check, limit=self._options.max_image_size,
        ) as got:  # fmt: skip
            if is_deferred:
                signature = self._signature(location)
                if signature is None:
                    raise FetchError(f'"{one_line(location)}": the signature is still not there')
                with _refusing(wanted.source):
                    signer = self._verify(self._keys(wanted, signature), signature, got.path)
            else:
                with _refusing(wanted.source):
                    signer = check.finish()
            record = self._ingest(got.path, wanted, signature, signer)
            self._store.put_remote(
                Remote(shown(wanted.source), got.etag, got.max_age, time.time_ns(), record.key)
            )
        return record

    def _reusable(self, url: str) -> Remote | None:
        """Give an earlier download from a URL if its image would still do."""
        known = self._store.remote(shown(url))
        if known is None:
            return None
        try:
            record = self._store.get(known.key)
        except NotFound:
            return None
        if self._insecure.image or record.verification.status not in (SKIPPED, UNVERIFIED):
            return known
        # It can only be verified now if everything for that was kept.
        signed = self._store.signature(known.key) is not None
        return known if signed and self._store.blob_path(known.key) is not None else None

    def _is_current(self, known: Remote) -> bool:
        if self._options.pull_policy != UPDATE:
            return True
        age = time.time_ns() - known.download_time
        return 0 <= age < known.max_age * 10**9

    def _is_unchanged(self, known: Remote, url: str) -> bool:
        """Ask the server whether the image is still the one in the store."""
        if not known.etag:
            return False
        with self._client.open(url, {"If-None-Match": known.etag}) as reply:
            if reply.status != 304:
                return False
            age = max_age(reply)
        self._store.put_remote(replace(known, max_age=age, download_time=time.time_ns()))
        return True

    def _use(self, known: Remote, wanted: _Wanted) -> ImageRecord:
        url = wanted.source
        log.info(f"found image in local store, skipping fetching from {one_line(shown(url))}")
        record = self._store.get(known.key)
        if not self._insecure.image:
            _check(wanted, record.name, dict(record.labels))
        if self._insecure.image or record.verification.status not in (SKIPPED, UNVERIFIED):
            return record
        signature = self._store.signature(record.key) or b""
        self._keys(_Wanted(url, record.name), signature)
        try:
            self.verify_stored(record)
        except UntrustedError as err:
            _say_unverified(record.name, err.key_id)
        return self._store.get(record.key)

    # -- signatures and keys

    def _warn_skipped(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("signature verification has been disabled")

    def _signature(self, location: str) -> bytes | None:
        """Read a detached signature from a file or URL; None if the server asks to come later."""
        if not location.startswith(("https://", "http://")):
            path = location.removeprefix("file://")
            try:
                with open(path, "rb") as file:
                    return file.read(MAX_SIGNATURE + 1)
            except OSError as err:
                raise FetchError(
                    f'error opening signature file "{one_line(path)}": {err.strerror}',
                    hint=_NO_SIGNATURE if isinstance(err, FileNotFoundError) else None,
                ) from err
        log.plain(f"Downloading signature from {one_line(shown(location))}")
        try:
            with self._client.open(location) as reply:
                if reply.status == 202:
                    log.info("server requested deferring the signature download")
                    return None
                if reply.status != 200:
                    raise HTTPStatusError(reply.status, shown(location))
                return b"".join(reply.chunks(limit=MAX_SIGNATURE, deadline=60))
        except FetchError as err:
            is_missing = isinstance(err, HTTPStatusError) and err.status in _MISSING
            raise FetchError(
                "error downloading the signature file",
                hint=_NO_SIGNATURE if is_missing else err.hint,
            ) from err

    def _keys(self, wanted: _Wanted, signature: bytes) -> list[TrustedKey]:
        """Give the keys that may verify a signature, offering discovered ones if none does."""
        makers = {key_id.lower() for key_id in signer_ids(signature)}
        if wanted.name is None:
            return self._keystore.all_keys()
        keys = self._keystore.keys_for(wanted.name)
        if any(makers & key.key_ids for key in keys):
            return keys
        self._offer_keys(wanted.name)
        return self._keystore.keys_for(wanted.name)

    def _offer_keys(self, name: str) -> None:
        """Let the user trust the keys that the publisher of a name announces.  Never fails."""
        if name in self._offered:
            return
        self._offered.add(name)
        if self._keystore.has_prefix_key(name):
            log.info(f'keys already exist for prefix "{name}", not fetching again')
            return
        if self._insecure.tls and not self._insecure.pubkey:
            log.debug("not looking for keys over a connection without TLS verification")
            return
        if self._insecure.pubkey:
            log.info("signing keys may be downloaded from an insecure connection")
        try:
            locations = discovery.find_keys(self._client, name)
        except RktError as err:
            log.info(f"error determining key location: {describe(err)}")
            return
        https = all(location.startswith("https://") for location in locations)
        accept = self._options.trust_keys_from_https and https
        review = trust.ACCEPT if accept else trust.ASK_TERMINAL
        try:
            trust.add_keys(self._keystore, self._client, locations, prefix=name, review=review)
        except RktError as err:
            log.info(f"error adding keys: {describe(err)}")

    def _verify(self, keys: Sequence[TrustedKey], signature: bytes, path: str) -> Signer | None:
        """Check a file; None if nobody trusts the signer."""
        try:
            return verify_file(keys, signature, path)
        except UntrustedError:
            return None

    # -- into the store

    def _ingest(
        self, path: str, wanted: _Wanted, signature: bytes | None, signer: Signer | None
    ) -> ImageRecord:
        def expect(manifest: ImageManifest) -> None:
            if self._insecure.image:
                return
            if signer is not None:
                keys = self._keystore.keys_for(wanted.name or manifest.name)
                if all(key.fingerprint != signer.fingerprint for key in keys):
                    raise _OtherPrefix
                _say_verified(signer)
            _check(wanted, manifest.name, {one.name: one.value for one in manifest.labels})

        verification = Verification(SKIPPED, when=time.time_ns())
        if not self._insecure.image:
            verification = _verification(signer)
        try:
            record = ingest(
                self._store, path, source=shown(wanted.source), verification=verification,
                signature=signature, latest=wanted.latest, expect=expect,
                unpack=verification.status != UNVERIFIED,
            )  # fmt: skip
        except _OtherPrefix:
            return self._ingest(path, wanted, signature, None)
        except (ArchiveError, SchemaError) as err:
            where = one_line(shown(wanted.source))
            raise type(err)(f'image "{where}": {err.message}', hint=err.hint) from err
        if signature is not None and signer is None:
            key_id = signer_ids(signature)[0]
            if record.verification.status == UNVERIFIED:
                _say_unverified(record.name, key_id)
            else:
                log.warning(
                    f"the signature is by key {key_id}, which is not trusted for image "
                    f'"{one_line(record.name)}"; what verified it before still counts'
                )
        return record

    def _stable(self, path: str, stack: ExitStack) -> str:
        """Give a path to a file's content that nobody can change between check and use."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise FetchError(f'error opening ACI file "{one_line(path)}": not a regular file')
            if info.st_uid in (0, os.geteuid()) and not info.st_mode & 0o022:
                return f"/proc/self/fd/{fd}"
        except OSError as err:
            what = f'error opening ACI file "{one_line(path)}": {err.strerror}'
            raise FetchError(what) from err
        layout.ensure(self._store.data_dir)
        directory = f"{self._store.path}/partial"
        try:
            copy = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, copy)
            while os.sendfile(copy, fd, None, _COPY):
                pass
        except OSError as err:
            raise KernelError("cannot copy", err, path) from err
        return f"/proc/self/fd/{copy}"


class _Stream(Sink):
    """Feeds gpgv with a download; without a signature, or without its key, it checks nothing."""

    def __init__(self, keys: Sequence[TrustedKey], signature: bytes | None) -> None:
        self._keys = keys
        self._signature = signature
        self._verifier: Verifier | None = None

    def __enter__(self) -> _Stream:
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        if self._verifier is not None:
            self._verifier.close()

    def restart(self) -> None:
        """Begin the check again."""
        if self._verifier is not None:
            self._verifier.close()
        self._verifier = None
        if self._signature is not None:
            try:
                self._verifier = Verifier(self._keys, self._signature)
            except UntrustedError as err:
                log.debug(err.message)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Hand the next bytes to gpgv."""
        if self._verifier is not None:
            self._verifier.feed(chunk)

    def finish(self) -> Signer | None:
        """Give the signer, None if nobody trusts it.  Raises VerifyError for a bad signature."""
        return None if self._verifier is None else self._verifier.finish()


def _verification(signer: Signer | None) -> Verification:
    if signer is None:
        return Verification(UNVERIFIED, when=time.time_ns())
    return Verification(
        VERIFIED, signer.fingerprint, signer.identity, signer.prefix or "", time.time_ns()
    )


def _check(wanted: _Wanted, name: str, labels: Mapping[str, str]) -> None:
    """Compare what was asked for with what came (appc.md §7.3)."""
    if wanted.name is not None and name != wanted.name:
        raise FetchError(
            "error when reading the app name: "
            f'"{wanted.name}" expected but "{one_line(name)}" found'
        )
    for label, value in {**wanted.defaults, **wanted.labels}.items():
        found = labels.get(label)
        if found is None and label in wanted.labels:
            raise FetchError(f'requested label "{label}" not provided by the image manifest')
        if found is not None and found != value:
            raise FetchError(
                f'requested value for label "{label}": "{value}" differs from fetched aci label '
                f'value: "{one_line(found)}"'
            )


def _say_verified(signer: Signer) -> None:
    log.info("signature verified:")
    log.plain(f"  {one_line(signer.identity)}")


def _say_unverified(name: str, key_id: str) -> None:
    shown_name = one_line(name)
    log.warning(
        f'image "{shown_name}" is stored unverified: it is signed by key {key_id}, which is not '
        f"trusted for it; to trust it run: rkt trust --prefix={shown_name}"
    )
