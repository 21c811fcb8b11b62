"""Files of the project that must agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

import rkt
from rkt_testkit.probes import REPOSITORY


def read(name: str) -> str:
    with open(os.path.join(REPOSITORY, name), encoding="utf-8") as file:
        return file.read()


def test_one_version() -> None:
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == rkt.__version__


def pinned(name: str) -> dict[str, str]:
    text = read(f"requirements/{name}.txt")
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))
    assert text.count("--hash=sha256:") >= len(pins) > 0
    return pins


def test_what_is_installed_is_what_is_tested() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    names = {re.split("[>=<]", text)[0] for text in project["dependencies"]}
    runtime, dev = pinned("runtime"), pinned("dev")
    assert names <= runtime.keys()
    assert runtime.items() <= dev.items()


def test_help_lists_the_targets() -> None:
    done = subprocess.run(
        ["make", "-s", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"env", "demo", "test", "bench", "install", "lint", "unit", "clean"} <= listed


def test_scripts_parse() -> None:
    directory = os.path.join(REPOSITORY, "scripts")
    scripts = [f"{directory}/{name}" for name in os.listdir(directory) if "." not in name]
    for script in [*scripts, os.path.join(REPOSITORY, ".ci/run")]:
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK), script
