"""A stage1 whose programs for the apps of a running pod crash, fail, or are not there."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.foreign import pods, stage1
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rkt_testkit.context import RktContext

pytestmark = needs("root", "overlay", "busybox")

OPEN = "--insecure-options=image"
CRASH = "kill -SEGV $$"
_BASE = {
    "run": "echo $$ >pid; ln -s ready stage1/rootfs/rkt/supervisor-status; echo up; "
           "exec sleep 1000",
    "enter": "exit 0", "gc": "exit 0", "stop": 'kill "$(cat pid)"',
    **{f"app/{name}": "exit 0" for name in ("add", "rm", "start", "stop")},
}  # fmt: skip
_STARTED = ': >"stage1/rootfs/rkt/status/${1#--app=}-started"'


@pytest.fixture(autouse=True)
def _collect(rkt: RktContext) -> Iterator[None]:
    """Collect what a test leaves: a foreign stage1's mounts are the host's, and stay until gc."""
    yield
    for path in pods(rkt):
        end(rkt, os.path.basename(path))
    for _ in range(2):
        rkt.rkt("gc", "--grace-period=0s")


def end(rkt: RktContext, uuid: str) -> None:
    """Stop a pod."""
    rkt.rkt("stop", uuid)
    rkt.wait_for(lambda: rkt.pod_state(uuid) == "exited")


def sandbox(rkt: RktContext, programs: Mapping[str, str | None]) -> tuple[str, str]:
    """Start a pod without apps on such a stage1; gives its UUID, and an image for apps."""
    image = AciBuilder("example.com/app", exec=["/bin/true"]).busybox().build(rkt.files)
    key = rkt.rkt(OPEN, "fetch", image.path).stdout.strip()
    chosen = {name: text for name, text in {**_BASE, **programs}.items() if text is not None}
    aci = stage1(rkt, chosen)
    pod = rkt.spawn(OPEN, "app", "sandbox", f"--stage1-path={aci.path}")
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    return uuid, key


def listed(rkt: RktContext, uuid: str) -> list[str]:
    """Give the names of the apps of a pod."""
    return rkt.rkt("app", "list", "--no-legend", uuid).stdout.split()[::2]


FAILURES = {
    "crash": (CRASH, "SIGSEGV"), "words": ("echo words of its own >&2; exit 7", "words of its own"),
    "silence": ("exit 7", "exited with status 7"),
}  # fmt: skip
"""Programs, and what is to be read of them."""
WAYS = pytest.mark.parametrize(
    ("program", "text"), [*FAILURES.values(), (None, "not found")], ids=[*FAILURES, "none"]
)


@pytest.mark.parametrize(("program", "text"), FAILURES.values(), ids=FAILURES)
def test_an_app_that_cannot_be_added_is_not_there(rkt: RktContext, program: str, text: str) -> None:
    uuid, key = sandbox(rkt, {"app/add": program, "app/rm": program})
    failed = rkt.rkt(OPEN, "app", "add", uuid, key, "--name=one", status=254)
    assert text in failed.stderr
    assert listed(rkt, uuid) == []
    assert not os.path.exists(f"{rkt.data}/pods/run/{uuid}/appsinfo/one")
    assert rkt.pod_state(uuid) == "running"


@WAYS
@pytest.mark.parametrize("step", ["start", "stop", "rm"])
def test_an_app_whose_program_fails_stays(
    rkt: RktContext, step: str, program: str | None, text: str
) -> None:
    uuid, key = sandbox(rkt, {"app/start": _STARTED, f"app/{step}": program})
    rkt.rkt(OPEN, "app", "add", uuid, key, "--name=one")
    if step == "stop":
        rkt.rkt("app", "start", uuid, "--app=one")
    failed = rkt.rkt("app", step, uuid, "--app=one", status=254)
    expected = f'entrypoint "app/{step}" not found' if program is None else text
    assert expected in failed.stderr
    assert listed(rkt, uuid) == ["one"]
    assert rkt.pod_state(uuid) == "running"


def test_a_program_that_cannot_be_run_does_not_keep_the_others(rkt: RktContext) -> None:
    uuid, _ = sandbox(rkt, {})
    program = f"{rkt.pod_dir(uuid)}/stage1/rootfs/stop"
    os.chmod(f"{rkt.root()}{program}", 0o644)
    failed = rkt.rkt("stop", uuid, "nosuch", status=254)
    os.chmod(f"{rkt.root()}{program}", 0o755)
    assert failed.stderr == (
        f'rkt: error stopping "{uuid}": "{program}": Permission denied\n'
        'rkt: cannot get pod: no matches found for "nosuch"\n'
        "rkt: failed to stop 2 pod(s)\n"
    )


@WAYS
def test_attach(rkt: RktContext, program: str | None, text: str) -> None:
    uuid, key = sandbox(rkt, {"attach": program})
    rkt.rkt(OPEN, "app", "add", uuid, key, "--name=one")
    status = {CRASH: -signal.SIGSEGV, None: 254}.get(program, 7)
    failed = rkt.rkt("attach", "--app=one", uuid, status=status)
    if program is None:
        assert 'stage1 image "example.com/odd": entrypoint "attach" not found' in failed.stderr
    elif status == 7:
        assert (text in failed.stderr) == ("words" in text)
