"""Settings of one run: global flags and environment, resolved once and passed on explicitly."""

from __future__ import annotations

import os
import sys

from rkt import const
from rkt.cli.flags import Flag, converted
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rkt.cli.flags import Parsed
    from rkt.config.auth import Credentials
    from rkt.config.insecure import InsecureOptions
    from rkt.config.settings import Paths, Stage1
    from rkt.fetch.finder import Finder
    from rkt.keystore.keys import Keystore
    from rkt.store.images import Store

GLOBAL_FLAGS = (
    Flag("debug", "print out more debug information to stderr", kind="bool"),
    Flag("dir", "rkt data directory", default=const.DATA_DIR),
    Flag("insecure-options", "comma-separated list of security features to disable. "
         'Allowed values: "none", "image", "tls", "ondisk", "http", "pubkey", "capabilities", '
         '"paths", "seccomp", "all-fetch", "all-run", "all"', default="none"),
    Flag("insecure-skip-verify", "skip image signature and TLS verification (the same as "
         "--insecure-options=image,tls)", kind="bool"),
    Flag("local-config", "local configuration directory", default=const.LOCAL_CONFIG_DIR),
    Flag("system-config", "system configuration directory", default=const.SYSTEM_CONFIG_DIR),
    Flag("trust-keys-from-https", "automatically trust gpg keys fetched from https", kind="bool"),
    Flag("user-config", "user configuration directory"),
    Flag("stage1-image", "image to use as stage1: a path, an https URL or a name", hidden=True),
    Flag("help", "help for the command", kind="bool", short="h", hidden=True),
)  # fmt: skip


class Context:
    """The settings of this run and the objects made from them, each made when first asked for."""

    def __init__(self, parsed: Parsed, env: Mapping[str, str], *, lib_dir: str) -> None:
        self.env = env
        self.lib_dir = lib_dir
        self.debug = parsed.flag("debug")
        self.system_config = parsed.string("system-config")
        self.local_config = parsed.string("local-config")
        self.user_config = parsed.string("user-config")
        self.layers = (self.system_config, self.local_config, self.user_config)
        self._paths: Paths | None = None
        given = parsed.string("dir")
        if not parsed.given("dir"):
            given = self._configured_paths("data") or given
        self.data_dir = self._directory(given)
        self.trust_keys_from_https = parsed.flag("trust-keys-from-https")
        self.stage1_image = parsed.string("stage1-image")
        self._insecure_text = parsed.string("insecure-options")
        self._skip_verify = parsed.flag("insecure-skip-verify")
        self._insecure: InsecureOptions | None = None
        if parsed.given("insecure-options"):  # a misspelt one is an error even where none matters
            self._insecure = self._read_insecure()
        self._store: Store | None = None
        self._credentials: Credentials | None = None

    @staticmethod
    def _directory(path: str) -> str:
        if not path:
            raise UsageError('"" is not a valid directory')
        return os.path.realpath(path)

    def _configured_paths(self, field: str) -> str:
        """Give a configured directory; nothing is loaded where no layer configures any."""
        if self._paths is None:
            if not any(layer and os.path.lexists(f"{layer}/paths.d") for layer in self.layers):
                return ""
            from rkt.config import settings

            self._paths = settings.paths(self.layers)
        value: str = getattr(self._paths, field)
        return value

    @property
    def stage1_images(self) -> str:
        """The directory of the stage1 images that are trusted because of where they lie."""
        return self._configured_paths("stage1_images") or f"{self.lib_dir}/stage1-images"

    @property
    def program_dir(self) -> str:
        """The directory of rkt's own executable."""
        return os.path.dirname(os.path.realpath(sys.argv[0]))

    def stage1_settings(self) -> Stage1 | None:
        """Give the configured default stage1 image, None if there is none."""
        if not any(layer and os.path.lexists(f"{layer}/stage1.d") for layer in self.layers):
            return None
        from rkt.config import settings

        return settings.stage1(self.layers)

    @property
    def insecure(self) -> InsecureOptions:
        """The checks that the user switched off."""
        if self._insecure is None:
            self._insecure = self._read_insecure()
        return self._insecure

    def _read_insecure(self) -> InsecureOptions:
        from rkt.config.insecure import InsecureOptions

        options = converted("insecure-options", self._insecure_text, InsecureOptions.parse)
        assert isinstance(options, InsecureOptions)
        return options.without_verification() if self._skip_verify else options

    def load_services(self) -> None:
        """Make the libraries of long-running services importable; no other command sees them."""
        sys.path.append(f"{self.lib_dir}/services")

    def store(self) -> Store:
        """Open the image store of the data directory."""
        if self._store is None:
            from rkt.store.images import Store

            self._store = Store(self.data_dir)
        return self._store

    def keystore(self) -> Keystore:
        """Open the trusted keys of the configuration directories."""
        from rkt.keystore.keys import Keystore

        return Keystore(system=self.system_config, local=self.local_config)

    def credentials(self) -> Credentials:
        """Read the credentials of the configuration directories."""
        if self._credentials is None:
            from rkt.config.auth import Credentials

            self._credentials = Credentials(self.layers, self.env)
        return self._credentials

    def finder(self, pull_policy: str) -> Finder:
        """Make the finder of images with this run's checks."""
        from rkt.fetch.finder import Finder, Options

        options = Options(pull_policy, self.insecure, self.trust_keys_from_https, self.credentials)
        return Finder(self.store(), self.keystore(), options)
