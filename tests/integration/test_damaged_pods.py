"""Every command against pods of whose files one is missing, empty, garbage or something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import rkt_testkit
from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.damage import DAMAGES, copy, damage
from rkt_testkit.probes import needs, rkt_binary

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

pytestmark = [needs("root", "rkt", "overlay", "oci-runtime", "busybox"), pytest.mark.timeout(400)]

OPEN = "--insecure-options=image"
SECRET = "this-is-outside-of-the-pod"
OUTSIDE = ("secret", "manifest", "pod", "app/00000001")
SCRIPT = "echo out; echo err >&2; exit 3"
READERS = [
    ["list"], ["list", "--format=json"], ["status", "UUID"], ["status", "--format=json", "UUID"],
    ["cat-manifest", "UUID"], ["enter", "UUID", "/bin/true"], ["stop", "UUID"], ["logs", "UUID"],
    ["export", "UUID", "EXPORT"], ["stats"], ["events"],
]  # fmt: skip
GC = ["gc", "--grace-period=0s", "--expire-prepared=0s"]


def made(rkt: RktContext, kind: str) -> str:
    """Make a pod that ended, or one that was prepared; gives its UUID."""
    path = AciBuilder("example.com/app", exec=["/bin/sh", "-c", SCRIPT]).busybox()
    image = path.build(rkt.files).path
    if kind == "prepared":
        return rkt.rkt(OPEN, "prepare", "--pod-name=broken", image).stdout.strip()
    saved = f"{rkt.files}/uuid"
    flags = (f"--uuid-file-save={saved}", "--pod-name=broken", "--restart=on-failure:1")
    rkt.rkt(OPEN, "run", *flags, image, status=3)
    with open(saved) as file:
        return file.read()


def tried(rkt: RktContext, kind: str) -> tuple[str, list[dict[str, Any]]]:
    """Try everything; gives the pod's UUID and what was said."""
    uuid = made(rkt, kind)
    target, template = rkt.pod_dir(uuid), f"{rkt.files}/template"
    shutil.move(target, template)
    os.makedirs(f"{rkt.files}/outside/app")
    for name in OUTSIDE:
        with open(f"{rkt.files}/outside/{name}", "w") as file:
            file.write(f"{SECRET}\n")
    export = f"{rkt.files}/out.aci"
    readers = [[export if word == "EXPORT" else word for word in words] for words in READERS]
    order = {
        "launcher": rkt_binary(), "uuid": uuid, "target": target, "template": template,
        "outside": f"{rkt.files}/outside", "apps": ["app"], "pods": f"{rkt.data}/pods",
        "export": export, "readers": readers, "ends": [["rm", "UUID"], GC],
        "flags": [f"--dir={rkt.data}", f"--system-config={rkt.system}",
                  f"--local-config={rkt.local}"],
        "warm": [["list"], ["list", "--format=json"], ["events"], ["stats"], GC],
    }  # fmt: skip
    done = subprocess.run(
        [*rkt.enter_argv(), "python3", "-I", "-S", f"{rkt_testkit.__path__[0]}/damage.py"],
        input=json.dumps(order), capture_output=True, text=True, check=False, env=rkt.env,
        cwd=rkt.files,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for name in OUTSIDE:
        with open(f"{rkt.files}/outside/{name}") as file:
            assert file.read() == f"{SECRET}\n"
    return uuid, json.loads(done.stdout)


def faults(uuid: str, one: dict[str, Any]) -> list[str]:
    """Say what is wrong with an answer."""
    if "left" in one:
        return [f"it is still in {one['left']}"] if one["left"] else []
    found = []
    text = one["stdout"] + one["stderr"]
    found += [word for word in ("Traceback", "internal error", SECRET, "\x1b") if word in text]
    if one["status"] not in (0, 254):
        found.append(f"status {one['status']}")
    errors = [line for line in one["stderr"].splitlines()
              if line.startswith("rkt: ") and not line.startswith("rkt: warning: ")]  # fmt: skip
    name = one["command"][0]
    if one["status"] == 254 and name in ("status", "cat-manifest", "enter", "logs", "export"):
        if len(errors) != 1:
            found.append(f"{len(errors)} errors")
        elif uuid not in errors[0] and "Only exited pods" not in errors[0]:
            found.append("the error does not name the pod")
    if one["status"] == 254 and not errors:
        found.append("no error")
    return found


@pytest.mark.parametrize("kind", ["exited", "prepared"])
def test_each_file_of_a_pod_damaged(rkt: RktContext, kind: str) -> None:
    uuid, said = tried(rkt, kind)
    assert len({(one["place"], one["how"]) for one in said}) > 100
    wrong = [
        f"{one['place']} {one['how']}, {' '.join(one.get('command', ['removed']))}: {fault}\n"
        f"{one.get('stdout', '')[-300:]}{one.get('stderr', '')[-600:]}"
        for one in said
        for fault in faults(uuid, one)
    ]
    assert not wrong, f"{len(wrong)} of {len(said)} answers:\n" + "\n".join(wrong)


def started(rkt: RktContext, *flags: str) -> str:
    """Start a pod that sleeps; gives its UUID."""
    path = AciBuilder("example.com/app", exec=["/bin/sleep", "1000"]).busybox().build(rkt.files)
    return rkt.rkt(OPEN, "run", "--detach", path.path, *flags).stdout.strip()


def spoil(path: str, how: str) -> None:
    """Damage a file; `deep` is JSON that no reader can follow to its end."""
    if how == "deep":
        with open(path, "wb") as file:
            file.write(b"[" * 200_000)
    else:
        damage(path, how, outside="/etc")


@pytest.mark.parametrize(
    ("place", "commands"),
    [
        ("oci-state", ["enter", "attach", "stop"]),
        ("bundle/app/config.json", ["enter"]),
        ("stage1/rootfs/rkt/status/app.pid", ["enter"]),
        ("stage1/rootfs/rkt/iottymux/app/endpoints", ["attach"]),
    ],
)
def test_files_of_a_running_pod_damaged(rkt: RktContext, place: str, commands: list[str]) -> None:
    """What stage1 reads for a command must not hang it, whatever lies there."""
    uuid = started(rkt, "--stdin=stream")
    argv = {
        "enter": ["enter", uuid, "/bin/true"], "attach": ["attach", "--mode=list", uuid],
        "stop": ["stop", uuid],
    }  # fmt: skip
    with open(f"{rkt.pod_dir(uuid)}/oci-state") as file:
        supervisor = json.load(file)["supervisor"]
    # Its overlays are mounted for the pod alone.
    path = f"/proc/{supervisor}/root{rkt.pod_dir(uuid)}/{place}"
    for how in (*DAMAGES, "deep"):
        os.rename(path, f"{path}.kept")
        shutil.copy(f"{path}.kept", path)
        spoil(path, how)
        for command in commands:
            result = rkt.rkt(*argv[command], status=254, timeout=10)
            errors = [line for line in result.stderr.splitlines() if line.startswith("rkt: ")]
            assert len(errors) == (2 if command == "stop" else 1), (how, command, result.stderr)
            assert "internal error" not in result.stderr, (how, command)
            assert "root:" not in result.stdout + result.stderr, (how, command)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        os.rename(f"{path}.kept", path)
    rkt.rkt("stop", "--force", uuid)
    rkt.rkt("status", "--wait", uuid)


def test_files_of_a_killed_pod_damaged(rkt: RktContext) -> None:
    """Of such a pod its stage1 removes what there is left."""
    uuid = started(rkt)
    target, template = rkt.pod_dir(uuid), f"{rkt.files}/template"
    with open(f"{target}/oci-state") as file:
        os.kill(json.load(file)["supervisor"], signal.SIGKILL)
    rkt.rkt("status", "--wait", uuid)
    shutil.copytree(target, template, symlinks=True, ignore=shutil.ignore_patterns("control"))
    rkt.rkt("rm", uuid)
    for place in ("oci-state", "subcgroup", "net/state.json"):
        for how in (*DAMAGES, "deep"):
            copy(template, target)
            if place.startswith("net/"):
                os.makedirs(f"{target}/net", exist_ok=True)
                with open(f"{target}/{place}", "w") as file:
                    file.write("{}")
            spoil(f"{target}/{place}", how)
            status = 254 if place.startswith("net/") and how != "missing" else 0
            result = rkt.rkt("rm", uuid, status=status, timeout=10)
            assert "internal error" not in result.stderr, (place, how)
            if status:
                assert "its networks are not released yet" in result.stderr, (place, how)
                shutil.rmtree(rkt.pod_dir(uuid))
            assert rkt.rkt("list", "--no-legend").stdout.strip() == "", (place, how)
