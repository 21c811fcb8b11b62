"""Stage1 images that are not rkt's own: a few lines of shell for each program."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import RktContext

P = "coreos.com/rkt/stage1/"


def stage1(
    rkt: RktContext, programs: Mapping[str, str], *, name: str = "example.com/odd",
    annotations: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None,
) -> Aci:  # fmt: skip
    """Build a stage1 image out of shell scripts."""
    builder = AciBuilder(name, labels=labels)
    del builder.manifest["app"]
    for program, text in programs.items():
        builder.script(program.replace("/", "-"), text)
    listed = {f"{P}{program}": f"/{program.replace('/', '-')}" for program in programs}
    listed.update({f"{P}{key}": value for key, value in (annotations or {}).items()})
    builder.manifest["annotations"] = [{"name": k, "value": v} for k, v in listed.items()]
    builder.directory("rkt").directory("rkt/status")
    return builder.build(rkt.files)


def pods(rkt: RktContext) -> list[str]:
    """Give the directories of all pods in all states."""
    base = f"{rkt.data}/pods"
    return [f"{s}/{pod}" for s in os.listdir(base) for pod in os.listdir(f"{base}/{s}")]
