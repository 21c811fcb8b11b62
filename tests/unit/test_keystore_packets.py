"""The outer form of OpenPGP data: armor, packets; hostile input."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import VerifyError
from rkt.keystore import packets
from rkt.keystore.openpgp import MAX_KEY_DATA, MAX_SIGNATURE, inspect_keys, signer_ids


def packet(tag: int, body: bytes) -> bytes:
    """Make a packet with a five-octet length."""
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4, "big") + body


KEY = packet(6, b"\x04" + b"k" * 50)
SECOND = packet(6, b"\x04" + b"m" * 50)
USER = packet(13, b"Some One <some@example.com>")


def test_key_with_identities_and_subkeys() -> None:
    (key,) = packets.public_keys(KEY + USER + packet(14, b"\x04" + b"s" * 40) + packet(12, b"t"))
    assert len(key.fingerprint) == 40
    assert key.identities == ("Some One <some@example.com>",)
    assert len(key.subkeys) == 1
    assert key.key_ids == {key.fingerprint[-16:], key.subkeys[0][-16:]}
    assert packets.public_keys(key.armored) == [key]


def test_several_keys_in_one_file_in_order() -> None:
    keys = packets.public_keys(KEY + USER + SECOND)
    assert [len(key.identities) for key in keys] == [1, 0]
    armors = keys[0].armored + b"some words between\n" + keys[1].armored
    assert packets.public_keys(armors) == keys


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file holds no public key"),
        (b"hello", "this is not OpenPGP data"),
        (USER, "the file does not begin with a public key"),
        (packet(5, b"\x04secret"), "the file holds a secret key, not a public key"),
        (packet(6, b"\x05" + b"k" * 50), "an OpenPGP key of version 5 is not supported"),
        (KEY[:-1], "the OpenPGP data is cut short"),
        (bytes([0xC6, 224]), "an OpenPGP packet of no definite length"),
        (b"\x9b\x01", "an OpenPGP packet of no definite length"),
        (b"\x99\x01", "the OpenPGP data is cut short"),
        (packet(6, b"\x04" + bytes(65536)), "an OpenPGP key packet is too long"),
        (KEY * 65, "the file holds more than 64 keys"),
        (KEY + packet(12, b"") * 20_000, "more than 20000 OpenPGP packets"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabcd\n", "the ASCII armor has no end line"),
        (
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
            "the ASCII armor is not base64",
        ),
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "the file holds a secret key"),
        (bytes(MAX_KEY_DATA + 1), "the key file is larger than"),
    ],
)
def test_bad_key_files(data: bytes, text: str) -> None:
    with pytest.raises(VerifyError) as caught:
        inspect_keys(data)
    assert text in caught.value.message


def signature(*, kind: int = 0, digest: int = 10, issuer: bytes = b"\x09\x10ABCDEFGH") -> bytes:
    """Make a version 4 signature packet without a signature in it."""
    head = bytes([4, kind, 22, digest, 0, 0]) + len(issuer).to_bytes(2, "big") + issuer
    return packet(2, head + b"xx" + bytes(32))


def test_signatures_name_their_makers() -> None:
    old = packet(2, bytes([3, 5, 0]) + b"TIME" + b"12345678" + bytes([1, 8]) + bytes(32))
    by_fingerprint = signature(issuer=bytes([22, 33, 4]) + b"f" * 12 + b"FINGERPR")
    assert signer_ids(signature() + old + by_fingerprint) == [
        b"ABCDEFGH".hex().upper(), b"12345678".hex().upper(), b"FINGERPR".hex().upper(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no valid signatures found in signature file"),
        (KEY, "no valid signatures found in signature file"),
        (b"junk", "no valid signatures found in signature file: this is not OpenPGP data"),
        (signature(kind=1), "no valid signatures found in signature file"),
        (signature(issuer=b""), "no valid signatures found in signature file"),
        (signature(digest=2), "the signature is over a SHA-1 digest, which can be forged"),
        (signature(digest=1), "the signature is over a MD5 digest, which can be forged"),
        (signature(digest=77), "the signature is over a digest 77 digest"),
        (bytes(MAX_SIGNATURE + 1), "the signature file is larger than"),
    ],
)
def test_unusable_signatures(data: bytes, text: str) -> None:
    with pytest.raises(VerifyError) as caught:
        signer_ids(data)
    assert text in caught.value.message


@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer_or_a_verify_error(data: bytes) -> None:
    armored = b"-----BEGIN PGP X-----\n\n" + base64.b64encode(data) + b"\n-----END PGP X-----\n"
    for text in (data, KEY + data, armored, signature() + data):
        for read in (inspect_keys, signer_ids):
            try:
                read(text)
            except VerifyError as err:
                assert err.message


@given(st.binary(max_size=60))
def test_any_subpackets_give_an_answer(area: bytes) -> None:
    packets.signatures(signature(issuer=area))
