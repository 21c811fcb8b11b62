"""Find images: in the store, and if the policy says so, from where they are published.

Light, because `run` of a stored image needs nothing but this; what talks to the network is in
rkt.fetch.fetcher, loaded when it is needed.
"""

from __future__ import annotations

from rkt import log
from rkt.errors import (
    AmbiguousName,
    FetchError,
    NotFound,
    SchemaError,
    UntrustedError,
    VerifyError,
    one_line,
)
from rkt.fetch.address import (
    DOCKER,
    FILE,
    HASH,
    LOCAL,
    URL,
    classify,
    docker_reference,
    is_foreign,
)
from rkt.fetch.options import NEVER, UPDATE, Options
from rkt.schema.textual import AppRef, host_arch, parse_app_string
from rkt.store.records import TRUSTED_LOCATION, VERIFIED, check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rkt.fetch.address import Address
    from rkt.fetch.fetcher import Fetcher
    from rkt.keystore.keys import Keystore
    from rkt.schema.image import Dependency
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

__all__ = ["Finder", "Options"]

_MAX_DEPENDENCIES = 256
_MAX_DEPTH = 32
_NO_SIGNATURES = (
    "signature verification for docker images is not supported (try --insecure-options=image)"
)
_TRUSTED = (VERIFIED, TRUSTED_LOCATION)


class Finder:
    """Finds images by name, ID, file or URL, together with the images they depend on."""

    def __init__(self, store: Store, keystore: Keystore, options: Options) -> None:
        self._store = store
        self._keystore = keystore
        self._options = options
        self._made: Fetcher | None = None

    def find(
        self, address: str, *, signature: str | None = None, dependencies: bool = True
    ) -> ImageRecord:
        """Give the stored image that an address stands for, fetching it first if need be.

        `signature` is a file or URL to take instead of the usual place; without `dependencies` the
        image may lack some that it needs to run.  Raises NotFound or one of the FetchErrors.  An
        image that is refused is not stored; one whose dependencies cannot all be had is, and so are
        those that were: the next attempt need not fetch them again.
        """
        found = classify(address)
        if found.kind == HASH:
            return self._by_id(found.text)
        if found.kind == DOCKER or found.kind in LOCAL:
            return self._by_conversion(found, address)
        if found.kind == FILE:
            record = self._fetcher().by_file(found.text, signature)
        elif found.kind == URL:
            record = self._by_url(found.text, signature)
        else:
            try:
                ref = parse_app_string(found.text)
            except SchemaError as err:
                raise FetchError(f'invalid image string "{one_line(address)}"') from err
            record = self._by_name(ref, signature)
        if dependencies:
            self._find_dependencies(record, [], set())
        return record

    def require_trusted(self, record: ImageRecord) -> ImageRecord:
        """Make sure that an image and its dependencies may be executed, and are unpacked.

        An unverified one is checked again with the keys that are trusted now, as root also one
        that somebody else says to have verified.  Raises UntrustedError naming the missing key, or
        VerifyError.
        """
        wanted = [str(record.key)]
        usable: set[str] = set()
        while missing := [key for key in wanted if key not in usable]:
            for key in missing:
                self._make_usable(key)
            usable.update(missing)
            # Only now their manifests are those that were verified.
            wanted = self._with_dependencies(record)
        self._store.pin(record.key, frozenset(wanted))
        return self._store.get(record.key)

    def _make_usable(self, key: str) -> None:
        proof = self._store.proof(key)
        is_trusted = proof is not None and proof.status in _TRUSTED
        if not is_trusted and not self._options.insecure.image:
            if is_foreign(self._store.get(key).source):
                raise VerifyError(_NO_SIGNATURES)
            self._verify_again(self._store.get(key))
        record = self._store.get(key)
        if not record.unpacked:
            from rkt.image.ingest import ensure_unpacked

            record = ensure_unpacked(self._store, key)
        check_name(record, self._store.manifest(key))

    def _verify_again(self, record: ImageRecord) -> None:
        try:
            self._fetcher().verify_stored(record)
        except UntrustedError as err:
            name = one_line(record.name)
            raise UntrustedError(
                f'refusing to execute image "{name}", which is not verified: '
                f"it is signed by key {err.key_id}, which is not trusted for it",
                key_id=err.key_id,
                hint=f"rkt trust --prefix={name}",
            ) from err

    def _with_dependencies(self, record: ImageRecord) -> list[str]:
        if not self._store.manifest(record.key).dependencies:
            return [record.key]
        from rkt.image.order import dependency_order

        keys = [str(item.key) for item in dependency_order(self._store, record.key)]
        return list(dict.fromkeys((record.key, *keys)))

    def _by_id(self, prefix: str) -> ImageRecord:
        try:
            return self._store.get(self._store.resolve(prefix))
        except (NotFound, AmbiguousName) as err:
            raise type(err)(f'cannot resolve image ID "{prefix}"') from err

    def _by_url(self, url: str, signature: str | None) -> ImageRecord:
        if self._options.pull_policy != NEVER:
            return self._fetcher().by_url(url, signature)
        from rkt.fetch.http import shown

        known = self._store.remote(shown(url))
        if known is None:
            raise _nothing(f'URL "{one_line(url)}"', "no image from there in the local store")
        return self._store.get(known.key)

    def _by_conversion(self, found: Address, text: str) -> ImageRecord:
        """Find a docker or OCI image; its layers come with it."""
        is_local = found.kind in LOCAL
        if not is_local and self._options.pull_policy != UPDATE:
            reference = docker_reference(found.text)
            known = self._store.remote(f"docker://{reference}")
            if known is not None and self._is_whole(known.key):
                log.debug(f"using image from local store for docker image {reference}")
                return self._store.get(known.key)
            if self._options.pull_policy == NEVER:
                raise _nothing(
                    f'URL "{one_line(text)}"', "no image from there in the local store",
                    kind="docker image",
                )  # fmt: skip
        if not self._options.insecure.image:
            raise FetchError(_NO_SIGNATURES)
        if is_local:
            from rkt.fetch.layout import LocalFetcher

            return LocalFetcher(self._store).fetch(found, text)
        from rkt.fetch.docker import DockerFetcher

        fetcher = DockerFetcher(self._store, self._options)
        return fetcher.fetch(text, docker_reference(found.text))

    def _is_whole(self, key: str) -> bool:
        from rkt.image.whole import is_whole

        return is_whole(self._store, key)

    def _by_name(self, ref: AppRef, signature: str | None) -> ImageRecord:
        labels = {"os": "linux", "arch": host_arch(), **ref.labels}
        if self._options.pull_policy != UPDATE:
            record = self._stored(ref, labels)
            if record is not None:
                log.debug(f"using image from local store for image name {one_line(str(ref))}")
                return record
        if self._options.pull_policy == NEVER:
            listed = ", ".join(f'{name}="{value}"' for name, value in labels.items())
            cause = f'cannot find aci satisfying name: "{ref.name}" and labels: {listed}'
            raise _nothing(f'image name "{ref}"', f"{cause} in the local store")
        return self._fetcher().by_name(ref, labels, signature)

    def _stored(self, ref: AppRef, labels: Mapping[str, str]) -> ImageRecord | None:
        """Look in the store: the host's own kind first, then an image for any kind of host."""
        record = self._store.find(ref.name, labels)
        if record is not None:
            return record
        record = self._store.find(ref.name, ref.labels)
        if record is None:
            return None
        is_other = any(record.label(name) not in (None, value) for name, value in labels.items())
        return None if is_other else record

    def _find_dependencies(self, record: ImageRecord, chain: list[str], seen: set[str]) -> None:
        """Find what an image depends on, and so on; by the same policy as the image."""
        manifest = self._store.manifest(record.key)
        if not manifest.dependencies:
            return
        name = one_line(record.name)
        if len(chain) >= _MAX_DEPTH:
            raise FetchError(f'image "{name}": dependencies deeper than {_MAX_DEPTH} levels')
        for dependency in manifest.dependencies:
            if is_foreign(record.source) and not self._has(dependency):
                raise FetchError(
                    f'image "{name}": one of its layers is no longer in the store',
                    hint=f"rkt fetch {one_line(record.source)}",
                )
            child = self._dependency(dependency, name)
            if child.key in (*chain, record.key):
                raise FetchError(f'image "{name}": it depends on "{child.name}", which needs it')
            if child.key in seen:
                continue
            seen.add(child.key)
            if len(seen) > _MAX_DEPENDENCIES:
                raise FetchError(f'image "{name}": more than {_MAX_DEPENDENCIES} dependencies')
            self._find_dependencies(child, [*chain, record.key], seen)

    def _has(self, dependency: Dependency) -> bool:
        try:
            self._store.resolve(dependency.image_id or "")
        except NotFound:
            return False
        return True

    def _dependency(self, dependency: Dependency, parent: str) -> ImageRecord:
        ref = AppRef(
            dependency.image_name, {label.name: label.value for label in dependency.labels}
        )
        wanted = dependency.image_id or ""
        record: ImageRecord | None = None
        if wanted:
            try:
                record = self._store.get(self._store.resolve(wanted))
            except NotFound:
                pass
        if record is None:
            record = self._by_name(ref, None)
        if wanted and not f"sha512-{record.digest}".startswith(wanted):
            raise FetchError(
                f'image "{parent}": its dependency "{ref}" must have ID {wanted}, '
                f"but the one found is sha512-{record.digest[:64]}"
            )
        return record

    def _fetcher(self) -> Fetcher:
        if self._made is None:
            from rkt.fetch.fetcher import Fetcher

            self._made = Fetcher(self._store, self._keystore, self._options)
        return self._made


def _nothing(what: str, cause: str, *, kind: str = "image") -> FetchError:
    err = FetchError(
        f"unable to fetch {kind} from {what}: either image was not found in the store or store was "
        "disabled and fetching from remote yielded nothing or it was disabled"
    )
    err.__cause__ = NotFound(cause)
    return err
