"""What the store knows of an image: its key, its record in the database, how it was verified."""

from __future__ import annotations

from rkt.errors import SchemaError, StoreError, one_line
from rkt.schema import codec
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NewType

    from rkt.schema.image import ImageManifest

    ImageKey = NewType("ImageKey", str)
    """`sha512-` and the first 64 hex digits of the hash of the uncompressed archive."""
else:
    ImageKey = str

PREFIX = "sha512-"
KEY_LENGTH = len(PREFIX) + 64
DEPS_PREFIX = "deps-" + PREFIX

UNVERIFIED = "unverified"
VERIFIED = "verified"
SKIPPED = "skipped"
TRUSTED_LOCATION = "trusted-location"
CONVERTED = "converted"
LAYER_PREFIXES = ("oci-layer/", "oci-layers/")
"""Names of images that are parts of converted ones; nobody runs them by name."""


class Verification(Struct):
    """How an image was verified, by whose key, and when (ns since 1970)."""

    status: str
    fingerprint: str = ""
    identity: str = ""
    prefix: str = ""
    when: int = 0


class ImageRecord(Struct):
    """What the store knows about an image; times in ns since 1970."""

    key: ImageKey
    digest: str
    name: str
    labels: tuple[tuple[str, str], ...]
    import_time: int
    last_used: int
    latest: bool
    size: int
    """Bytes of the uncompressed archive."""
    tree_size: int
    unpacked: bool
    source: str
    verification: Verification

    @property
    def is_layer(self) -> bool:
        """Say whether this is a part of converted images, of use only while one depends on it."""
        return self.name.startswith(LAYER_PREFIXES)

    def label(self, name: str) -> str | None:
        """Give a label's value."""
        return dict(self.labels).get(name)


class Remote(Struct):
    """Where an image was downloaded from and how long the answer may be cached (s; ns)."""

    url: str
    etag: str
    max_age: int
    download_time: int
    key: ImageKey


def image_key(digest: str) -> ImageKey:
    """Make the key out of a full hex digest."""
    return ImageKey(PREFIX + digest[:64])


def check_name(record: ImageRecord, manifest: ImageManifest) -> None:
    """Compare name and labels in the database with those in the image.  Raises StoreError."""
    labels = tuple((label.name, label.value) for label in manifest.labels)
    if (record.name, record.labels) != (manifest.name, labels):
        raise StoreError(
            f'image "{record.key}": the database of the store calls it "{one_line(record.name)}", '
            f'but with its labels it is another: "{one_line(manifest.name)}"'
        )


_ROW = (str, str, str, str, int, int, int, int, int, int, str, str, str, str, str, int)


class DamagedRecord(StoreError):
    """A row of the database cannot be read."""

    def __init__(self, key: object) -> None:
        is_key = isinstance(key, str) and len(key) == KEY_LENGTH and key[len(PREFIX) :].isalnum()
        super().__init__(
            f'image "{key}": its row in the database is damaged',
            hint=f"rkt image rm {key}" if is_key else None,
        )


def of_row(row: tuple[Any, ...]) -> ImageRecord:
    """Read a row of the table of images.  Raises DamagedRecord."""
    # SQLite keeps whatever a member of the group puts into a column.
    if tuple(map(type, row)) != _ROW or row[0] != image_key(row[1]):
        raise DamagedRecord(row[0])
    (key, digest, name, labels, imported, used, latest, size, tree_size, unpacked, source,
     *verification) = row  # fmt: skip
    try:
        pairs = codec.decode(labels.encode(), tuple[tuple[str, str], ...], "labels")
    except (SchemaError, UnicodeEncodeError) as err:
        raise DamagedRecord(key) from err
    return ImageRecord(
        key, digest, name, pairs, imported, used, bool(latest), size, tree_size, bool(unpacked),
        source, Verification(*verification),
    )  # fmt: skip
