"""Check signatures with gpgv, fed while the data arrives.

gpgv's exit status alone accepts expired keys, so its status lines decide (DESIGN §4).
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rkt.errors import CommandError, KernelError, UntrustedError, VerifyError
from rkt.keystore.packets import PublicKey, public_keys, signatures
from rkt.linux import proc
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rkt.keystore.keys import TrustedKey
    from rkt.keystore.packets import Signature

MAX_SIGNATURE = 256 << 10
MAX_KEY_DATA = 1 << 20
_MAX_CHECKS = 4
"""Signatures of one file that are tried at the same time."""
_CHUNK = 1 << 20
_MAX_STATUS = 64 << 10

NO_SIGNATURE = "no valid signatures found in signature file"
_DIGEST_NAMES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}


class Signer(Struct):
    """Who made a signature that holds."""

    fingerprint: str
    identity: str
    prefix: str | None


def inspect_keys(data: bytes) -> list[PublicKey]:
    """Read a key file, armored or binary, with one key or several.

    Raises VerifyError if it holds no public key or is not what it should be.
    """
    if len(data) > MAX_KEY_DATA:
        raise VerifyError(f"the key file is larger than {MAX_KEY_DATA} bytes")
    return public_keys(data)


def signer_ids(signature: bytes) -> list[str]:
    """Give the key IDs (16 upper-case hex digits) that a signature file claims to be from.

    Raises VerifyError if it holds no usable signature.
    """
    return [found.key_id.upper() for found in _usable(signature)]


def _usable(signature: bytes) -> list[Signature]:
    if len(signature) > MAX_SIGNATURE:
        raise VerifyError(f"the signature file is larger than {MAX_SIGNATURE} bytes")
    try:
        found = signatures(signature)
    except VerifyError as err:
        raise VerifyError(f"{NO_SIGNATURE}: {err.message}") from err
    if not found:
        raise VerifyError(NO_SIGNATURE)
    strong = [one for one in found if not one.is_weak]
    if not strong:
        raise _weak(found[0].digest)
    return strong


def _weak(digest: str) -> VerifyError:
    return VerifyError(f"the signature is over a {digest} digest, which can be forged")


class Verifier:
    """Check data against a detached signature file while the data arrives.

    Raises UntrustedError at once when no signature names one of the keys.  `feed` never fails:
    the verdict is `finish`'s.  With `path` gpgv reads that file itself, and nothing is fed.  Use it
    as a context manager: leaving it ends gpgv.
    """

    def __init__(
        self, keys: Sequence[TrustedKey], signature: bytes, *, path: str | None = None
    ) -> None:
        found = _usable(signature)
        tries: list[tuple[TrustedKey, Signature]] = []
        for one in found:
            tries += [(key, one) for key in keys if one.key_id in key.key_ids]
        if not tries:
            key_id = found[0].key_id.upper()
            raise UntrustedError(
                f"signature made by unknown entity: key {key_id} is not trusted", key_id=key_id
            )
        self._checks: list[_Check] = []
        try:
            for key, one in tries[:_MAX_CHECKS]:
                self._checks.append(_Check(key, one, path))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Hand over the next piece of the data."""
        for check in self._checks:
            check.feed(chunk)

    def finish(self) -> Signer:
        """Give the signer of the data fed so far.  Raises VerifyError if no signature holds."""
        failure: VerifyError | None = None
        signer: Signer | None = None
        for check in self._checks:
            try:
                signer = signer or check.finish()
            except VerifyError as err:
                failure = failure or err
        self.close()
        if signer is not None:
            return signer
        raise failure or VerifyError(NO_SIGNATURE)

    def close(self) -> None:
        """End what is still running; harmless after `finish`."""
        for check in self._checks:
            check.close()


def verify_file(keys: Sequence[TrustedKey], signature: bytes, path: str) -> Signer:
    """Check a file against a detached signature."""
    with Verifier(keys, signature, path=path) as verifier:
        return verifier.finish()


class _Check:
    """One gpgv: one signature packet, one key, both in memory files so nothing can be left."""

    def __init__(self, key: TrustedKey, signature: Signature, path: str | None) -> None:
        self._key = key
        self._data = self._status = -1
        self._pid = 0
        program = proc.find_program("gpgv")
        if program is None:
            raise CommandError('"gpgv": no such program, signatures cannot be checked', status=127)
        try:
            self._start(program, key.packets, signature.packet, path)
        except BaseException:
            self.close()
            raise

    def _start(self, program: str, keyring: bytes, signature: bytes, path: str | None) -> None:
        with ExitStack() as stack:
            ring = _memory_file(stack, "rkt-keyring", keyring)
            signed = _memory_file(stack, "rkt-signature", signature)
            if path is None:
                data_out, self._data = os.pipe()
                _widen(self._data)
            else:
                data_out = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, data_out)
            self._status, status_in = os.pipe()
            stack.callback(os.close, status_in)
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, null)
            argv = [
                program, "--homedir", "/nonexistent", "--keyring", f"/dev/fd/{ring}",
                "--status-fd", "1", f"/dev/fd/{signed}", "-",
            ]  # fmt: skip
            try:
                self._pid = proc.spawn(
                    argv, env=proc.BASE_ENV, stdio=(data_out, status_in, null), keep=(ring, signed)
                )
            except OSError as err:
                raise KernelError("starting", err, program) from err

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        view = memoryview(chunk)
        while view and self._data >= 0:
            try:
                view = view[os.write(self._data, view) :]
            except BrokenPipeError:  # gpgv has seen enough; its status says why
                self._close_data()

    def finish(self) -> Signer:
        self._close_data()
        status = b""
        while piece := os.read(self._status, 4096):
            status += piece
            if len(status) > _MAX_STATUS:
                break
        self.close()
        return _verdict(status.decode("utf-8", "replace"), self._key)

    def close(self) -> None:
        self._close_data()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        if self._pid > 0:
            # Without input gpgv ends by itself; nobody reads its status now.
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _close_data(self) -> None:
        if self._data >= 0:
            os.close(self._data)
            self._data = -1


def _memory_file(stack: ExitStack, name: str, data: bytes) -> int:
    fd = os.memfd_create(name)
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _widen(fd: int) -> None:
    """Let the writer run ahead of gpgv; a smaller pipe only costs time."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _CHUNK)
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.EBUSY):
            raise


def _verdict(text: str, key: TrustedKey) -> Signer:
    """Turn gpgv's status lines (GnuPG doc/DETAILS) into a signer or a failure."""
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.removeprefix("[GNUPG:] ").split(" ")
        said.setdefault(words[0], words[1:])
    short = key.fingerprint[-16:].upper()
    for word, what in _FAILURES.items():
        if word in said:
            who = " ".join(said[word][1:])
            raise VerifyError(what.format(key=short, who=f' "{who}"' if who else ""))
    for word, what, stamp in (
        ("EXPKEYSIG", 'the signing key {} "{}" has expired{}', said.get("KEYEXPIRED", [])[-1:]),
        ("EXPSIG", 'the signature by key {} "{}" has expired{}', said.get("VALIDSIG", [])[3:4]),
    ):
        if word in said:
            raise VerifyError(what.format(short, " ".join(said[word][1:]), _date(stamp)))
    if "ERRSIG" in said:
        raise VerifyError(f"the signature by key {short} cannot be checked: {_reason(said)}")
    valid, good = said.get("VALIDSIG"), said.get("GOODSIG")
    if valid is None or good is None or len(valid) < 10:
        raise VerifyError(NO_SIGNATURE)
    if valid[7] in _DIGEST_NAMES:
        raise _weak(_DIGEST_NAMES[valid[7]])
    if valid[9].lower() != key.fingerprint:
        raise VerifyError(f"the signature is by key {valid[9]}, not by {key.fingerprint}")
    return Signer(key.fingerprint, " ".join(good[1:]), key.prefix)


_FAILURES = {
    "BADSIG": "bad signature: the data is not what key {key}{who} signed",
    "REVKEYSIG": "the signing key {key}{who} has been revoked",
}


def _reason(said: dict[str, list[str]]) -> str:
    code = said["ERRSIG"][5] if len(said["ERRSIG"]) > 5 else ""
    if code == "9":
        return "the key has no such (sub)key that may sign"
    return "its algorithm is not supported" if code == "4" else f"gpgv reports error {code}"


def _date(stamps: list[str]) -> str:
    stamp = "".join(stamps)
    return time.strftime(" on %Y-%m-%d", time.gmtime(int(stamp))) if stamp.isdigit() else ""
