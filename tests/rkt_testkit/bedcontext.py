"""The fixture `rkt` on a machine with systemd, for tests whose commands run to their end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from rkt_testkit.context import PATIENCE, TIMEOUT, Result, RktContext
from rkt_testkit.probes import SEARCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rkt_testkit.bed import Bed

IMAGES = "/usr/local/lib/rkt/stage1-images"


class BedContext(RktContext):
    """Runs each command in a transient service of the machine, with directories of its own.

    The machine's network and `/run` are shared by all tests; leaks are for the fixture `bed`.
    """

    def __init__(self, bed: Bed, flavor: str) -> None:
        self.bed = bed
        self.top = tempfile.mkdtemp(prefix="rkt-test-", dir=bed.files)
        os.chmod(self.top, 0o755)
        self.data = self._mkdir("data")
        self.system = self._mkdir("system")
        self.local = self._mkdir("local")
        self.tmp = self._mkdir("tmp")
        self.files = self._mkdir("files")
        self.env = {"PATH": SEARCH, "LANG": "C.UTF-8", "TMPDIR": self.tmp}
        self.pods = set()
        self._running = []
        self.use_stage1(flavor)

    def use_stage1(self, flavor: str) -> None:
        """Give all pods this stage1, as it is installed on the machine."""
        os.makedirs(f"{self.local}/stage1.d")
        location = f"{IMAGES}/stage1-{flavor}.aci"
        with open(f"{self.local}/stage1.d/stage1.json", "w", encoding="ascii") as file:
            json.dump({"rktKind": "stage1", "rktVersion": "v1", "location": location}, file)

    def argv(self, *args: str) -> list[str]:
        """Give the words of `rkt ARGS`, to be given to `run`."""
        return ["rkt", f"--dir={self.data}", f"--system-config={self.system}",
                f"--local-config={self.local}", *args]  # fmt: skip

    def run(
        self, argv: list[str], *, input: str = "",  # noqa: A002
        env: Mapping[str, str] | None = None, timeout: float = TIMEOUT,
    ) -> Result:  # fmt: skip
        """Run any command to its end."""
        words = self.bed.argv(
            "systemd-run", "--pipe", "--wait", "--collect", "--quiet", "--property=Delegate=yes",
            f"--working-directory={self.files}",
            *(f"--setenv={name}={value}" for name, value in {**self.env, **(env or {})}.items()),
            "--", *(word.replace("$", "$$") for word in argv),
        )  # fmt: skip
        saved = {"PATH": SEARCH, "LANG": "C.UTF-8"}
        return _run(words, input, saved, timeout)

    @property
    def holder(self) -> int:
        """The process that holds the namespaces."""
        return self.bed.pid

    def close(self, *, check: bool = True, patience: float = PATIENCE) -> None:
        """Collect all pods, assert that nothing is left of them, remove the directories."""
        for _ in range(2):
            self.rkt("gc", "--grace-period=0s", status=0 if check else None)
        self.wait_for(lambda: not (check and self.bed.leaked()), timeout=patience)
        with open(f"/proc/{self.bed.pid}/mountinfo", encoding="utf-8") as file:
            left = [line.split()[4] for line in file if f"{self.top}/data" in line]
        shutil.rmtree(self.top, ignore_errors=True)
        assert not (check and left), f"mounts are left on the machine: {left}"


def _run(argv: list[str], text: str, env: dict[str, str], timeout: float) -> Result:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, errors="replace", check=False, env=env,
        timeout=timeout,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)
