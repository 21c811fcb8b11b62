"""The kinds `paths` and `stage1`, and what `rkt config` makes of all kinds."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from rkt.cli.main import main
from rkt.config import settings
from rkt.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOCATION = "default stage1 image location"


def put(layer: Path, name: str, /, **content: object) -> str:
    """Write a configuration file; gives its path."""
    path = layer / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = name.partition(".d/")[0]
    path.write_text(json.dumps({"rktKind": kind, "rktVersion": "v1", **content}))
    path.chmod(0o600)
    return str(path)


def test_later_layers_win_field_by_field(tmp_path: Path) -> None:
    put(tmp_path / "a", "paths.d/1.json", data="/a", **{"stage1-images": "/images"})
    put(tmp_path / "b", "paths.d/1.json", data="/b")
    layers = (str(tmp_path / "a"), str(tmp_path / "b"), "")
    assert settings.paths(layers) == settings.Paths("/b", "/images")
    put(tmp_path / "a", "stage1.d/1.json", name="x.com/s", version="1", location="/s.aci")
    put(tmp_path / "b", "stage1.d/1.json", location="https://x.com/s.aci")
    assert settings.stage1(layers) == settings.Stage1("x.com/s", "1", "https://x.com/s.aci")


def test_nothing_configured(tmp_path: Path) -> None:
    assert settings.paths((str(tmp_path),)) == settings.Paths()
    assert settings.stage1((str(tmp_path),)) == settings.Stage1()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"data": "var"}, "data directory must be an absolute path"),
        ({"stage1-images": "var"}, "stage1 images directory must be an absolute path"),
    ],
)
def test_bad_paths(tmp_path: Path, content: dict[str, object], cause: str) -> None:
    path = put(tmp_path, "paths.d/1.json", **content)
    with pytest.raises(ConfigError) as caught:
        settings.paths((str(tmp_path),))
    assert caught.value.message == f'cannot get configuration: failed to parse "{path}": {cause}'


def test_paths_twice_in_a_directory(tmp_path: Path) -> None:
    put(tmp_path, "paths.d/1.json", data="/a")
    path = put(tmp_path, "paths.d/2.json", data="/b")
    with pytest.raises(ConfigError, match="data directory is already specified") as caught:
        settings.paths((str(tmp_path),))
    assert path in caught.value.message


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"version": "1"}, "default stage1 image version specified, but name is missing"),
        ({"name": "a"}, "default stage1 image name specified, but version is missing"),
        ({"name": "A!", "version": "1"}, ('invalid default stage1 image name "A!": ACIdentifier '
         'must contain only lower case alphanumeric characters plus "-._~/"')),
        ({"location": "x.aci"},
         f"{LOCATION} is either a relative path or a URL without scheme"),
        ({"location": "ftp://x/y"}, (f'{LOCATION} URL has invalid scheme "ftp", allowed schemes '
         'are "docker", "file", "http", "https"')),
        ({"location": "http://[x/"}, f"{LOCATION} is an invalid URL: Invalid IPv6 URL"),
    ],
)  # fmt: skip
def test_bad_stage1(tmp_path: Path, content: dict[str, object], cause: str) -> None:
    path = put(tmp_path, "stage1.d/1.json", **content)
    with pytest.raises(ConfigError) as caught:
        settings.stage1((str(tmp_path),))
    assert caught.value.message == f'cannot get configuration: failed to parse "{path}": {cause}'


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "s", "paths.d/1.json", data=str(tmp_path / "data"))
    put(
        tmp_path / "l", "auth.d/1.json", type="oauth", credentials={"token": "<t>"},
        domains=["b.com", "a.com"],
    )  # fmt: skip
    args = [f"--system-config={tmp_path}/s", f"--local-config={tmp_path}/l"]
    assert main([*args, "config", "--pretty-print=false"], lib_dir="/lib/rkt") == 0
    text = capsys.readouterr().out
    assert '"token":"\\u003ct\\u003e"' in text
    shown = json.loads(text)["stage0"]
    assert [(e["rktKind"], e.get("domains")) for e in shown] == [
        ("auth", ["a.com"]), ("auth", ["b.com"]), ("paths", None), ("stage1", None),
    ]  # fmt: skip
    assert shown[2]["data"] == os.path.realpath(tmp_path / "data")
    assert shown[2]["stage1-images"] == "/lib/rkt/stage1-images"
    assert main([*args, "--dir=/tmp", "config"], lib_dir="/lib/rkt") == 0
    assert '\t\t\t"data": "/tmp"' in capsys.readouterr().out
    assert main([*args, "config", "x"], lib_dir="/lib/rkt") == 254
    assert "rkt: no arguments are expected" in capsys.readouterr().err


def test_a_broken_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, "stage1.d/1.json", location="x")
    assert main([f"--local-config={tmp_path}", "config"], lib_dir="/lib/rkt") == 254
    assert capsys.readouterr().err == (
        f'rkt: cannot get configuration: failed to parse "{path}": {LOCATION} is either a relative '
        "path or a URL without scheme\n"
    )
