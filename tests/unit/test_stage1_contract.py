"""The arguments of stage1's entrypoints and the manifests they read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rkt.errors import KernelError, RktError, SchemaError, UsageError
from rkt.stage1 import contract
from rkt.stage1.app import manifest

if TYPE_CHECKING:
    from pathlib import Path


def test_all_arguments_of_run() -> None:
    options = contract.parse_run(
        ["--debug", "--net=none,default:IP=1.2.3.4", "--net=host", "--interactive",
         "--private-users=1:2", "--mds-token=t", "--local-config=/l", "--hostname=h",
         "--dns-conf-mode=resolv=stage0,hosts=host", "--disable-capabilities-restriction",
         "--disable-paths", "--disable-seccomp=false", "--mutable=1", "--ipc=parent", "uuid"]
    )  # fmt: skip
    assert {name: getattr(options, name) for name in options.__slots__} == {
        "debug": True, "net": ["none", "default:IP=1.2.3.4", "host"], "interactive": True,
        "private_users": "1:2", "mds_token": "t", "local_config": "/l", "hostname": "h",
        "resolv": "stage0", "hosts": "host", "disable_capabilities": True, "disable_paths": True,
        "disable_seccomp": False, "mutable": True, "ipc": "parent", "uuid": "uuid",
    }  # fmt: skip


def test_defaults_of_run() -> None:
    options = contract.parse_run(["--net", "uuid"])
    assert (options.net, options.resolv, options.hosts, options.ipc) == (
        ["default"], "default", "default", "auto",
    )  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), [
    ([], "run: exactly one pod UUID is needed"),
    (["a", "b"], "run: exactly one pod UUID is needed"),
    (["--what", "u"], 'unknown argument "--what"'),
    (["--debug=maybe", "u"], 'invalid value "maybe" for --debug'),
    (["--ipc=shared", "u"], 'run: invalid value "shared" for --ipc'),
    (["--dns-conf-mode=resolv=odd", "u"], 'invalid value "resolv=odd" for --dns-conf-mode'),
    (["u", "--hostname"], "--hostname needs a value"),
])  # fmt: skip
def test_arguments_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        contract.parse_run(argv)
    assert caught.value.message == message


def test_the_end_of_the_flags() -> None:
    assert contract.split_flags(["--pid", "7", "--", "--x", "y"], ("pid",), ()) == (
        ["--x", "y"], [("pid", "7")],
    )  # fmt: skip


def _pod(directory: Path, pod: object, image: object) -> manifest.Pod:
    (directory / "pod").write_text(json.dumps(pod))
    info = directory / "appsinfo" / "a"
    info.mkdir(parents=True)
    (info / "manifest").write_text(json.dumps(image))
    return manifest.load(str(directory))


def test_the_pods_app_section_replaces_the_images(tmp_path: Path) -> None:
    image = {"name": "i", "app": {"exec": ["/i"], "user": "1", "group": "1",
             "workingDirectory": "/w"}, "annotations": [{"name": "n", "value": "v"}]}  # fmt: skip
    app = {"name": "a", "image": {"id": "x"}, "app": {"exec": ["/p"], "user": "0", "group": "0"}}
    pod = _pod(tmp_path, {"apps": [app], "volumes": None, "isolators": None}, image)
    found = pod.apps[0]
    assert (found.exec, found.user, found.cwd, found.image_name) == (["/p"], "0", "/", "i")
    assert found.image_annotations == {"n": "v"}


def test_an_app_without_a_section_takes_the_images(tmp_path: Path) -> None:
    image = {"name": "i", "app": {"exec": ["/i"], "user": "1", "group": "2"}}
    pod = _pod(tmp_path, {"apps": [{"name": "a", "image": {"id": "x"}}]}, image)
    assert (pod.apps[0].exec, pod.apps[0].group) == (["/i"], "2")


@pytest.mark.parametrize(("pod", "image", "message"), [
    ({"apps": []}, {}, "pod must contain at least one application"),
    ({"apps": None}, {}, "pod must contain at least one application"),
    ({"apps": {}}, {}, "pod manifest: apps: expected an array"),
    ({"apps": [1]}, {}, "pod manifest: apps: expected an array of objects"),
    ({"apps": [{"name": "../a"}]}, {}, 'pod manifest: $.apps[0]: invalid app name "../a"'),
    ({"apps": [{"name": "a"}]}, {},
     'app "a": no app section in the pod manifest or the image manifest'),
    ({"apps": [{"name": "a", "app": {"exec": [1]}}]}, {},
     'app "a": exec: expected an array of strings'),
    ({"apps": [{"name": "a", "app": {"exec": ["x\0y"]}}]}, {},
     'app "a": exec: expected an array of strings'),
    ({"apps": [{"name": "a", "app": {"exec": [], "user": 5}}]}, {},
     'app "a": user: expected a string'),
    ({"apps": [{"name": "a", "app": {"exec": ["x"]}}], "volumes": [{"name": "v", "kind": "odd"}]},
     {}, 'Volume v has invalid kind "odd"'),
    ({"apps": [{"name": "a", "app": {"exec": ["x"]}}],
      "volumes": [{"name": "v", "kind": "empty", "mode": "89"}]}, {},
     'pod manifest: invalid mode "89"'),
    ([], {}, "pod manifest: expected an object"),
])  # fmt: skip
def test_manifests_refused(tmp_path: Path, pod: object, image: object, message: str) -> None:
    with pytest.raises(RktError) as caught:
        _pod(tmp_path, pod, image)
    assert caught.value.message == message


def test_manifests_that_are_no_json_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    path.write_text("{")
    with pytest.raises(SchemaError, match=r"^x: Expecting property name"):
        manifest.read_json(str(path), "x")
    monkeypatch.setattr(manifest, "_LIMIT", 10)
    path.write_text(" " * 11)
    with pytest.raises(KernelError, match=r'^x: cannot read "[^"]*/m": File too large$'):
        manifest.read_json(str(path), "x")
