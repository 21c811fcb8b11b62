"""Decompression is bounded: what one step gives, and what a decoder may ask of the machine."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random

import pytest
import zstandard

from rkt.errors import ArchiveError
from rkt.image import zstd
from rkt.image.archive import CHUNK, decompress, detect

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPED = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
MIXED = b"".join(random.Random(1).randbytes(n) + bytes(3 * n) for n in (10, 300_000, 70_000, 1))


def packed(data: bytes, *, log: int = 23, size: bool = False, checksum: bool = True) -> bytes:
    params = zstandard.ZstdCompressionParameters(
        window_log=log, write_checksum=checksum, write_content_size=size
    )
    compressor = zstandard.ZstdCompressor(compression_params=params)
    if size:
        return compressor.compress(data)
    writer = compressor.compressobj()
    return writer.compress(data) + writer.flush()


def unpacked(data: bytes, *, step: int = 4096) -> bytes:
    file = io.BytesIO(data)
    return b"".join(zstd.decompress(lambda: file.read(step)))


def frame(*blocks: bytes, window: int = 13 << 3) -> bytes:
    """Write a frame of given blocks; its window has 8 MiB."""
    return MAGIC + bytes([0, window]) + b"".join(blocks)


def block(kind: int, size: int, data: bytes, *, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + data


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [True, False])
def test_frames(size: bool, checksum: bool, step: int) -> None:
    short = [packed(data, size=size, checksum=checksum) for data in (b"", b"x" * 300, b"end")]
    data = SKIPPED + short[1] + SKIPPED + short[0] + short[2] + SKIPPED
    assert unpacked(data, step=step) == b"x" * 300 + b"end"
    if step > 1:
        assert unpacked(packed(MIXED, size=size, checksum=checksum), step=step) == MIXED


def test_a_frame_to_be_skipped_may_come_first() -> None:
    """As parallel compressors write it."""
    assert detect(SKIPPED + packed(b"x")) == "zstd"
    assert b"".join(decompress(io.BytesIO(SKIPPED + packed(MIXED)))) == MIXED


CUT = packed(MIXED, size=True)


@pytest.mark.parametrize(("data", "cause"), [
    (CUT[:2], "unexpected end of file"),
    (CUT[:5], "unexpected end of file"),
    (CUT[:8], "unexpected end of file"),
    (CUT[:-1], "unexpected end of file"),
    (CUT[:5000], "unexpected end of file"),
    (SKIPPED[:-1], "unexpected end of file"),
    (SKIPPED[:6], "unexpected end of file"),
    (CUT + b"tail", "what follows a frame is none"),
    (frame(block(3, 0, b"", last=True)), "a block that cannot be"),
    (frame(block(1, (128 << 10) + 1, b"x", last=True)), "a block that cannot be"),
    (frame(block(2, 9, b"\xff" * 9, last=True)), "zstd decompressor error: "),
    (CUT[:-1] + bytes([CUT[-1] ^ 1]), "zstd decompressor error: Restored data doesn't match"),
    (MAGIC + b"\x08\x68" + block(0, 0, b"", last=True), "zstd decompressor error: "),
    (MAGIC + b"\x01\x68\x07" + block(0, 0, b"", last=True), "zstd decompressor error: Dict"),
])  # fmt: skip
def test_damage(data: bytes, cause: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        unpacked(data)
    assert caught.value.message.startswith(f"zstd data of the archive is damaged: {cause}")


def test_any_damage_is_an_archive_error() -> None:
    dice = random.Random(3)
    whole = packed(MIXED[:40_000] * 4)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data) if dice.random() < 0.5 else 30)] = dice.randrange(256)
        try:
            unpacked(bytes(data))
        except ArchiveError as err:
            assert err.message.startswith("zstd data of the archive ")


BOMB = 64 << 20


@pytest.mark.parametrize(("kind", "data"), [
    ("zstd of one byte a block",
     frame(*[block(1, 128 << 10, b"\0")] * (BOMB >> 17), block(0, 0, b"", last=True))),
    ("zstd", packed(bytes(BOMB))),
    ("gzip", gzip.compress(bytes(BOMB))),
    ("gzip of many members", gzip.compress(bytes(BOMB >> 4)) * 16),
    ("bzip2", bz2.compress(bytes(BOMB))),
    ("xz", lzma.compress(bytes(BOMB), preset=0)),
], ids=lambda one: one if isinstance(one, str) else "")  # fmt: skip
def test_a_step_gives_no_more_than_a_chunk(kind: str, data: bytes) -> None:
    assert len(data) < 256 << 10, f"{kind}: all of it is read at once"
    sizes = [len(chunk) for chunk in decompress(io.BytesIO(data))]
    assert sum(sizes) == BOMB
    assert max(sizes) <= CHUNK


def xz(size: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}]
    return lzma.compress(MIXED, filters=filters)


def test_bounds_of_memory() -> None:
    assert b"".join(decompress(io.BytesIO(xz(64 << 20)))) == MIXED  # as of `xz -9`
    with pytest.raises(ArchiveError) as caught:
        list(decompress(io.BytesIO(xz(96 << 20))))
    assert caught.value.message == (
        "xz data of the archive needs more memory than the 72 MiB that are allowed"
    )
    assert caught.value.hint == 'compress it again with "xz -9" or less'
    assert b"".join(decompress(io.BytesIO(packed(MIXED, log=26)))) == MIXED
    large = MAGIC + b"\xe0" + (200 << 20).to_bytes(8, "little")  # all of it is one segment
    for data, needed in (packed(MIXED, log=27), 128), (frame(window=255), 3932160), (large, 200):
        with pytest.raises(ArchiveError) as caught:
            list(decompress(io.BytesIO(data)))
        assert caught.value.message == (
            f"zstd data of the archive needs a window of {needed} MiB: at most 64 MiB are allowed"
        )
        assert caught.value.hint == 'compress it again with "zstd -19" or less, without "--long"'
