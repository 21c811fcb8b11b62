"""How images are looked for, and what is checked."""

from __future__ import annotations

from rkt.config.insecure import InsecureOptions
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rkt.config.auth import Credentials

NEW, UPDATE, NEVER = "new", "update", "never"
"""Pull policies: the stored image if there is one; ask the remote; the store only."""


class Options(Struct):
    """The settings of one command for all its images."""

    pull_policy: str = NEW
    insecure: InsecureOptions = InsecureOptions()
    trust_keys_from_https: bool = False
    credentials: Callable[[], Credentials] | None = None
    """Reads the configuration when somebody needs a password."""
    max_image_size: int = 32 << 30
    """Bytes of an archive as it comes over the network."""
