"""Read the outer form of OpenPGP data: ASCII armor, packets, keys, signatures (RFC 4880).

Nothing here decides whether a signature holds: that is gpgv's work.  What is read here only says
which key a file contains and which key a signature claims to be from.
"""

from __future__ import annotations

import binascii

from rkt.errors import VerifyError
from rkt.schema.struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_KEYS = 64
"""Primary keys that one file may hold."""
_MAX_PACKETS = 20_000

_SIGNATURE, _SECRET, _PUBLIC, _SECRET_SUB = 2, 5, 6, 7
_MARKER, _TRUST, _USER_ID, _SUBKEY = 10, 12, 13, 14
_WEAK_DIGESTS = {1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"}
_STRONG_DIGESTS = {8: "SHA-256", 9: "SHA-384", 10: "SHA-512", 11: "SHA-224"}
_ISSUER, _ISSUER_FINGERPRINT = 16, 33


class PublicKey(Struct):
    """One transferable public key: a primary key with its subkeys and user IDs."""

    fingerprint: str
    subkeys: tuple[str, ...]
    identities: tuple[str, ...]
    packets: bytes

    @property
    def armored(self) -> bytes:
        """Give this key alone in ASCII armor."""
        return armor(self.packets)

    @property
    def key_ids(self) -> frozenset[str]:
        """Give the 64-bit key IDs that signatures of this key may name."""
        return frozenset(fpr[-16:] for fpr in (self.fingerprint, *self.subkeys))


class Signature(Struct):
    """One signature packet: who it claims to be from and how it was made."""

    key_id: str
    digest: str
    packet: bytes

    @property
    def is_weak(self) -> bool:
        """Say whether the digest can be forged (or is unknown)."""
        return self.digest not in _STRONG_DIGESTS.values()


def dearmor(data: bytes) -> bytes:
    """Give the binary form of armored or binary OpenPGP data; several armor blocks are joined."""
    if b"-----BEGIN PGP " not in data:
        return data
    parts: list[bytes] = []
    lines = iter(data.replace(b"\r\n", b"\n").split(b"\n"))
    for line in lines:
        if not line.startswith(b"-----BEGIN PGP "):
            continue
        if b"PRIVATE KEY" in line:
            raise VerifyError("the file holds a secret key, not a public key")
        for header in lines:  # "Version: …" and the like, ended by an empty line
            if not header.strip():
                break
        body: list[bytes] = []
        for raw in lines:
            text = raw.strip()
            if text.startswith(b"-----END PGP "):
                break
            if not text.startswith(b"="):  # the checksum only guards against e-mail gateways
                body.append(text)
        else:
            raise VerifyError("the ASCII armor has no end line")
        try:
            parts.append(binascii.a2b_base64(b"".join(body), strict_mode=True))
        except binascii.Error as err:
            raise VerifyError("the ASCII armor is not base64") from err
    return b"".join(parts)


def armor(packets: bytes) -> bytes:
    """Put a public key in ASCII armor."""
    text = binascii.b2a_base64(packets, newline=False)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    check = b"=" + binascii.b2a_base64(_crc24(packets).to_bytes(3, "big"), newline=False)
    head, tail = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    return b"\n".join([head, b"", *lines, check, tail, b""])


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def split(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, body, whole packet) of each packet.  Raises VerifyError on any damage."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MAX_PACKETS:
            raise VerifyError(f"more than {_MAX_PACKETS} OpenPGP packets")
        tag, start, length = _header(data, at)
        end = start + length
        if end > len(data):
            raise VerifyError("the OpenPGP data is cut short")
        yield tag, data[start:end], data[at:end]
        at = end


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Give tag, start of the body and its length."""
    first = data[at]
    if not first & 0x80:
        raise VerifyError("this is not OpenPGP data")
    rest = data[at + 1 : at + 6]
    if first & 0x40:
        tag, octet = first & 0x3F, rest[0] if rest else 0
        if octet < 192:
            size, length = 1, octet
        elif octet < 224 and len(rest) >= 2:
            size, length = 2, ((octet - 192) << 8) + rest[1] + 192
        elif octet == 255:
            size, length = 5, int.from_bytes(rest[1:5], "big")
        else:
            raise VerifyError("an OpenPGP packet of no definite length")
    else:
        tag, kind = (first >> 2) & 0x0F, first & 3
        if kind == 3:
            raise VerifyError("an OpenPGP packet of no definite length")
        size = 1 << kind
        length = int.from_bytes(rest[:size], "big")
    if len(rest) < size:
        raise VerifyError("the OpenPGP data is cut short")
    return tag, at + 1 + size, length


def fingerprint(body: bytes) -> str:
    """Give the fingerprint of a version 4 public key packet: 40 lower-case hex digits."""
    if not body or body[0] != 4:
        version = body[0] if body else "none"
        raise VerifyError(f"an OpenPGP key of version {version} is not supported (only version 4)")
    header = b"\x99" + len(body).to_bytes(2, "big") if len(body) < 65536 else b""
    if not header:
        raise VerifyError("an OpenPGP key packet is too long")
    import hashlib  # only where a key is read: it costs 3 ms

    return hashlib.sha1(header + body, usedforsecurity=False).hexdigest()


def public_keys(data: bytes) -> list[PublicKey]:
    """Give the public keys in binary or armored data.  Raises VerifyError if there is none."""
    groups: list[list[tuple[int, bytes, bytes]]] = []
    for tag, body, packet in split(dearmor(data)):
        if tag in (_SECRET, _SECRET_SUB):
            raise VerifyError("the file holds a secret key, not a public key")
        if tag in (_MARKER, _TRUST):
            continue
        if tag == _PUBLIC:
            groups.append([])
            if len(groups) > MAX_KEYS:
                raise VerifyError(f"the file holds more than {MAX_KEYS} keys")
        elif not groups:
            raise VerifyError("the file does not begin with a public key")
        groups[-1].append((tag, body, packet))
    if not groups:
        raise VerifyError("the file holds no public key")
    return [_public_key(group) for group in groups]


def _public_key(group: list[tuple[int, bytes, bytes]]) -> PublicKey:
    identities = [body.decode("utf-8", "replace") for tag, body, _ in group if tag == _USER_ID]
    return PublicKey(
        fingerprint(group[0][1]),
        tuple(fingerprint(body) for tag, body, _ in group if tag == _SUBKEY),
        tuple(dict.fromkeys(identities)),
        b"".join(packet for _, _, packet in group),
    )


def signatures(data: bytes) -> list[Signature]:
    """Give the detached signatures over binary data in binary or armored data, in order."""
    found: list[Signature] = []
    for tag, body, packet in split(dearmor(data)):
        if tag == _SIGNATURE:
            signature = _signature(body, packet)
            if signature is not None:
                found.append(signature)
    return found


def _signature(body: bytes, packet: bytes) -> Signature | None:
    """Read a signature packet; None if it is of a kind that cannot sign an image."""
    if len(body) < 10:
        return None
    if body[0] == 3 and body[1] == 5:
        kind, key_id, digest = body[2], body[7:15].hex(), body[16] if len(body) > 16 else 0
    elif body[0] == 4:
        hashed = 6 + int.from_bytes(body[4:6], "big")
        unhashed = hashed + 2 + int.from_bytes(body[hashed : hashed + 2], "big")
        kind, digest = body[1], body[3]
        key_id = _issuer(body[6:hashed]) or _issuer(body[hashed + 2 : unhashed])
    else:
        return None
    # Only kind 0 signs bytes: a signature over text (1) lets line ends be changed.
    if kind != 0 or len(key_id) != 16:
        return None
    name = _STRONG_DIGESTS.get(digest) or _WEAK_DIGESTS.get(digest) or f"digest {digest}"
    return Signature(key_id, name, packet)


def _issuer(area: bytes) -> str:
    """Find the issuer's key ID in an area of subpackets; empty if it is not there."""
    at = 0
    while at < len(area):
        size = area[at]
        at += 1
        if size == 255:
            size = int.from_bytes(area[at : at + 4], "big")
            at += 4
        elif size >= 192:
            size = ((size - 192) << 8) + (area[at] if at < len(area) else 0) + 192
            at += 1
        if size == 0:
            return ""
        kind, value = area[at : at + 1], area[at + 1 : at + size]
        if kind and kind[0] & 0x7F in (_ISSUER, _ISSUER_FINGERPRINT) and len(value) >= 8:
            return value[-8:].hex()
        at += size
    return ""
