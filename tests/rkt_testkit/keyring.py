"""Real OpenPGP keys for tests: made by gpg in a directory of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Keyring:
    """A GNUPGHOME below /tmp (its socket's path must be short); its keys have no passphrase."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="rktgpg")
        os.chmod(self.home, 0o700)

    def __enter__(self) -> Keyring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.gpgconf("--kill", "all")
        self.gpgconf("--remove-socketdir")  # where a session has /run/user/UID
        shutil.rmtree(self.home, ignore_errors=True)

    def gpgconf(self, *args: str) -> None:
        """Run gpgconf on this home."""
        subprocess.run(["gpgconf", "--homedir", self.home, *args], check=False, capture_output=True)

    def gpg(self, *args: str, data: bytes = b"", faked: str = "") -> bytes:
        """Run gpg on this home, at a faked time (20200101T000000) if given."""
        clock = ["--faked-system-time", faked] if faked else []
        done = subprocess.run(
            ["gpg", "--homedir", self.home, "--batch", "--yes", "--no-tty", "--quiet",
             "--pinentry-mode", "loopback", "--passphrase", "", *clock, *args],
            input=data, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(self, identity: str, *, expire: str = "0", faked: str = "") -> str:
        """Make a key that signs; gives its fingerprint in lower case."""
        self.gpg("--quick-gen-key", identity, "ed25519", "sign", expire, faked=faked)
        listing = self.gpg("--with-colons", "--list-keys", f"={identity}").decode()
        found = re.findall(r"^fpr:+([0-9A-F]{40}):", listing, re.M)
        return str(found[-1]).lower()

    def add_subkey(self, fingerprint: str) -> str:
        """Give a key a subkey that signs; gives the subkey's fingerprint."""
        self.gpg("--quick-add-key", fingerprint, "ed25519", "sign", "0")
        listing = self.gpg("--with-colons", "--list-keys", fingerprint).decode()
        return str(re.findall(r"^fpr:+([0-9A-F]{40}):", listing, re.M)[-1]).lower()

    def export(self, *fingerprints: str, armored: bool = True) -> bytes:
        """Give the public keys as one file."""
        return self.gpg(*(["--armor"] if armored else []), "--export", *fingerprints)

    def sign(
        self,
        fingerprint: str,
        data: bytes,
        *,
        armored: bool = True,
        digest: str = "SHA512",
        faked: str = "",
        expire: str = "",
        more: tuple[str, ...] = (),
    ) -> bytes:
        """Make a detached signature over the data."""
        args = ["--digest-algo", digest, "--local-user", fingerprint]
        if expire:
            args += ["--default-sig-expire", expire]
        if armored:
            args.append("--armor")
        return self.gpg(*args, *more, "--detach-sign", data=data, faked=faked)

    def revoke(self, fingerprint: str) -> None:
        """Revoke a key with the certificate that gpg made along with it."""
        path = f"{self.home}/openpgp-revocs.d/{fingerprint.upper()}.rev"
        with open(path, "rb") as file:
            certificate = file.read().replace(b":-----BEGIN", b"-----BEGIN")
        self.gpg("--import", data=certificate)
