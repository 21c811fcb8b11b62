"""Signatures checked by gpgv, with real keys made by gpg."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt.errors import CommandError, UntrustedError, VerifyError
from rkt.keystore.keys import TrustedKey
from rkt.keystore.openpgp import Verifier, inspect_keys, verify_file
from rkt.linux import proc
from rkt_testkit.keyring import Keyring
from rkt_testkit.probes import enforce

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from rkt.keystore.openpgp import Signer

DATA = os.urandom(100_000) * 25
PAST, LATER = "20200101T000000", "20200101T120000"


class Signers:
    """Keys in every state that a key can be in."""

    def __init__(self, ring: Keyring) -> None:
        self.ring = ring
        self.alice = ring.make("Alice (builds) <alice@example.com>")
        self.old = ring.make("Old <old@example.com>", expire="2d", faked=PAST)
        self.gone = ring.make("Gone <gone@example.com>")
        self.gone_signature = ring.sign(self.gone, DATA)
        self.gone_before = self.trusted(self.gone)
        ring.revoke(self.gone)

    def trusted(self, *fingerprints: str, prefix: str | None = "example.com") -> list[TrustedKey]:
        """Give keys as the keystore would."""
        keys = [inspect_keys(self.ring.export(one))[0] for one in fingerprints]
        return [TrustedKey(k.fingerprint, "", prefix, k.packets, k.key_ids) for k in keys]


@pytest.fixture(scope="module")
def signers() -> Iterator[Signers]:
    enforce(("gpg",))
    with Keyring() as ring:
        yield Signers(ring)


def check(keys: list[TrustedKey], signature: bytes, data: bytes = DATA) -> Signer:
    """Verify in pieces, as a download comes."""
    with Verifier(keys, signature) as verifier:
        for at in range(0, len(data), 70_001):
            verifier.feed(data[at : at + 70_001])
        return verifier.finish()


def refusal(keys: list[TrustedKey], signature: bytes, data: bytes = DATA) -> str:
    """Give the text of a refusal."""
    with pytest.raises(VerifyError) as caught:
        check(keys, signature, data)
    return caught.value.message


@pytest.mark.parametrize("armored", [True, False])
@pytest.mark.parametrize("digest", ["SHA256", "SHA512"])
def test_good_signature(signers: Signers, armored: bool, digest: str) -> None:
    signature = signers.ring.sign(signers.alice, DATA, armored=armored, digest=digest)
    signer = check(signers.trusted(signers.alice), signature)
    assert signer.fingerprint == signers.alice
    assert signer.identity == "Alice (builds) <alice@example.com>"
    assert signer.prefix == "example.com"


def test_changed_data(signers: Signers) -> None:
    signature = signers.ring.sign(signers.alice, DATA)
    keys = signers.trusted(signers.alice)
    key_id = signers.alice[-16:].upper()
    text = f'bad signature: the data is not what key {key_id} "Alice (builds) <alice@example.com>"'
    for data in (DATA + b"x", DATA[:-1], b"", DATA[:5000] + bytes([DATA[5000] ^ 1]) + DATA[5001:]):
        assert refusal(keys, signature, data).startswith(text)


def test_unknown_signer_is_named_before_any_data(signers: Signers) -> None:
    signature = signers.ring.sign(signers.alice, DATA)
    with pytest.raises(UntrustedError) as caught:
        Verifier(signers.trusted(signers.old), signature)
    assert caught.value.key_id == signers.alice[-16:].upper()
    assert "signature made by unknown entity" in caught.value.message


def test_expired_key(signers: Signers) -> None:
    signature = signers.ring.sign(signers.old, DATA, faked=LATER)
    text = refusal(signers.trusted(signers.old), signature)
    assert text.endswith('"Old <old@example.com>" has expired on 2020-01-03')


def test_revoked_key(signers: Signers) -> None:
    assert check(signers.gone_before, signers.gone_signature).fingerprint == signers.gone
    text = refusal(signers.trusted(signers.gone), signers.gone_signature)
    assert text.endswith('"Gone <gone@example.com>" has been revoked')


def test_expired_signature() -> None:
    with Keyring() as ring:
        maker = ring.make("Brief <brief@example.com>", faked=PAST)
        signature = ring.sign(maker, DATA, expire="1d", faked=LATER)
        key = inspect_keys(ring.export(maker))[0]
    trusted = TrustedKey(key.fingerprint, "", None, key.packets, key.key_ids)
    assert "has expired on 2020-01-02" in refusal([trusted], signature)


def test_digest_that_can_be_forged(signers: Signers) -> None:
    signature = signers.ring.sign(signers.alice, DATA, digest="SHA1")
    text = refusal(signers.trusted(signers.alice), signature)
    assert text == "the signature is over a SHA-1 digest, which can be forged"


def test_signature_over_text_does_not_count(signers: Signers) -> None:
    signature = signers.ring.sign(signers.alice, DATA, more=("--textmode",))
    text = refusal(signers.trusted(signers.alice), signature)
    assert text == "no valid signatures found in signature file"


def test_damaged_signature(signers: Signers) -> None:
    signature = bytearray(signers.ring.sign(signers.alice, DATA, armored=False))
    signature[-3] ^= 0xFF
    assert refusal(signers.trusted(signers.alice), bytes(signature)).startswith("bad signature")


def test_one_good_signature_of_several_is_enough(signers: Signers) -> None:
    old = signers.ring.sign(signers.old, DATA, armored=False, faked=LATER)
    good = signers.ring.sign(signers.alice, DATA, armored=False, digest="SHA256")
    wrong = signers.ring.sign(signers.alice, b"other", armored=False)
    keys = signers.trusted(signers.old, signers.alice)
    assert check(keys, old + wrong + good).fingerprint == signers.alice
    assert "has expired" in refusal(keys, old + wrong)


def test_subkey_signs_for_its_primary_key() -> None:
    with Keyring() as ring:
        primary = ring.make("With Subkey <sub@example.com>")
        subkey = ring.add_subkey(primary)
        signature = ring.sign(f"{subkey}!", DATA)
        key = inspect_keys(ring.export(primary))[0]
        assert key.subkeys == (subkey,)
        trusted = TrustedKey(key.fingerprint, "", None, key.packets, key.key_ids)
        assert check([trusted], signature).fingerprint == primary

        # A subkey that the primary key did not bind signs for nobody.
        stranger = ring.make("Stranger <stranger@example.com>")
        foreign = inspect_keys(ring.export(stranger))[0].packets
        body = foreign[2 : 2 + foreign[1]]
        stuffed = key.packets + bytes([0x80 | 14 << 2, len(body)]) + body
        bad = inspect_keys(stuffed)[0]
        assert stranger in bad.subkeys
        trusted = TrustedKey(bad.fingerprint, "", None, bad.packets, bad.key_ids)
        assert refusal([trusted], ring.sign(stranger, DATA))


def test_file(signers: Signers, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    signature = signers.ring.sign(signers.alice, DATA)
    assert verify_file(signers.trusted(signers.alice), signature, str(path)).prefix == "example.com"


def test_leaving_early_leaves_nothing(signers: Signers) -> None:
    before = set(os.listdir("/proc/self/fd"))
    signature = signers.ring.sign(signers.alice, DATA)
    with Verifier(signers.trusted(signers.alice), signature) as verifier:
        verifier.feed(DATA)
    assert set(os.listdir("/proc/self/fd")) == before
    with open("/proc/thread-self/children", encoding="ascii") as file:
        children = file.read().split()
    for pid in children:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            assert file.read().strip() != "gpgv"


def test_without_gpgv(signers: Signers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "find_program", lambda _: None)
    signature = signers.ring.sign(signers.alice, DATA)
    with pytest.raises(CommandError, match='"gpgv": no such program'):
        Verifier(signers.trusted(signers.alice), signature)
