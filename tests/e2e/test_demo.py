"""The demo is a test too: it fails when any of its steps does not do what it should."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rkt_testkit.probes import REPOSITORY, needs

pytestmark = needs("root", "namespaces", "overlay", "oci-runtime", "gpg", "openssl", "apt", "rkt")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo_does_the_main_job() -> None:
    done = subprocess.run(
        [sys.executable, os.path.join(REPOSITORY, "scripts/demo.py")],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    story = done.stdout + done.stderr
    assert done.returncode == 0, story
    assert "The demo succeeded" in done.stdout
    assert "FAILED" not in story
    assert "\x1b" not in story, "colour without a terminal"
