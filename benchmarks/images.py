"""What is fetched: big images and layers, made alike at each run, and a registry that has them."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.sides import ENV

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.oci import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def registry(work: str, host: str) -> Iterator[None]:
    """Run Debian's registry with its files below `work`."""
    with open(f"{work}/registry.yml", "w", encoding="ascii") as file:
        file.write(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {work}/registry}}}}\n"
            f"http: {{addr: {host}}}\n"
        )
    server = subprocess.Popen(
        ["docker-registry", "serve", file.name], env=ENV, stderr=subprocess.DEVNULL
    )
    try:
        address, _, port = host.partition(":")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((address, int(port))):
                break
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def big_image(work: str, megabytes: int) -> str:
    """Make an image of files that compress about as well as programs do."""
    source = random.Random(4711)
    builder = AciBuilder("example.com/big")
    left = megabytes * 1_000_000
    for index, wanted in enumerate(sizes(source)):
        size = min(wanted, left)
        left -= size
        if size == 0:
            break
        half = source.randbytes(size // 2)
        if index % 50 == 0:
            builder.directory(f"d{index // 50}")
        builder.file(f"d{index // 50}/f{index}", half + b"text " * ((size - len(half)) // 5))
    return builder.build(f"{work}/big.aci").path


def big_layer(number: int) -> bytes:
    """Make a layer of 2 000 files, 40 MB, that compress about as well as programs do."""
    source = random.Random(number)
    wanted = [source.lognormvariate(8.5, 1.8) for _ in range(2000)]
    scale = 40_000_000 / sum(wanted)
    layer = Layer().directory("usr").directory(f"usr/l{number}")
    for index, one in enumerate(wanted):
        size = int(one * scale)
        if index % 40 == 0:
            layer.directory(f"usr/l{number}/d{index // 40}")
        half = source.randbytes(size // 2)
        layer.file(f"usr/l{number}/d{index // 40}/f{index}", half + b"text " * ((size // 2) // 5))
    return layer.tar()


def sizes(source: random.Random) -> Iterator[int]:
    """Give file sizes as they are found in images: many small, a few big."""
    while True:
        yield int(min(source.lognormvariate(10, 2), 20_000_000)) + 1
