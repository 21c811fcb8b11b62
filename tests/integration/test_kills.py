"""SIGKILL at random moments: the store stays valid, and the same command succeeds when repeated."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.oci import Image, Layer
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = needs("root", "namespaces", "rkt", "busybox")

KILLS = 50
NAME = "example.com/top"


def images(rkt: RktContext) -> list[str]:
    base = AciBuilder("example.com/base").busybox()
    for number in range(300):
        base.file(f"d{number % 20}/f{number}", os.urandom(3000))
    top = AciBuilder(NAME).file("etc/top", b"top").file("d1/f1", b"other")
    top.manifest["dependencies"] = [{"imageName": "example.com/base"}]
    return [builder.build(rkt.files).path for builder in (base, top)]


def converted(rkt: RktContext) -> str:
    """Make an image of layers, of which something is deleted."""
    layers = [Layer().directory("./") for _ in range(3)]
    for number in range(240):
        layers[number % 3].file(f"d{number % 20}/g{number}", os.urandom(3000))
    layers.append(Layer().whiteout("d0/g0").link("link", "d1/g1"))
    return "oci:" + Image(layers).write(f"{rkt.files}/layers")


@pytest.mark.timeout(300)
def test_kills_at_random_moments(rkt: RktContext) -> None:
    seed = int(os.environ.get("RKT_TEST_SEED", time.time_ns() % 10**6))
    chance = random.Random(seed)
    rendered = f"{rkt.files}/rendered"
    commands = {
        "fetch": (
            "--insecure-options=image",
            "fetch",
            "--pull-policy=new",
            *images(rkt),
            converted(rkt),
        ),
        "render": ("image", "render", "--overwrite", NAME, rendered),
        "rm": ("image", "rm", NAME, "example.com/base", "layers"),
        "gc": ("image", "gc", "--grace-period=0s"),
    }
    lengths = {}
    for name in ("fetch", "render", "rm", "fetch", "gc"):
        begun = time.monotonic()
        rkt.rkt(*commands[name])
        lengths[name] = time.monotonic() - begun
    killed = 0
    while killed < KILLS:
        for name in ("fetch", "render", chance.choice(("rm", "gc"))):
            # Nothing happens while the interpreter starts: that part is not worth a kill.
            moment = chance.uniform(0.4, 1.05) * lengths[name]
            process = rkt.spawn(*commands[name])
            time.sleep(moment)
            process.kill()
            process.communicate()
            killed += process.returncode == -9
            what = f"seed {seed}, {name} killed after {moment:.4f} s"
            for again in (("image", "verify", "--all"), commands[name]):
                result = rkt.rkt(*again, status=None)
                assert result.status == 0, f"{what}: {again[:2]}:\n{result.stderr}"
            if name == "render":
                assert os.path.exists(f"{rendered}/rootfs/bin/busybox"), what
    assert "example.com" not in rkt.rkt("image", "list").stdout
    rkt.rkt(*commands["gc"])
    for kind in ("tree", "split", "blob", "sig", "manifest", "trust", "tmp", "imagelocks"):
        assert os.listdir(f"{rkt.data}/cas/{kind}") == [], f"seed {seed}: {kind}"
