"""OCI runtimes that take their time: what a busy machine does now and then, at will."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from rkt_testkit.probes import SEARCH

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

# Waits as long as the file is there that the test removes.
HOLD = 'touch "$held"; while [ -e "$held" ]; do sleep 0.02; done'
# Waits until the process that was started has ended, and the supervisor has collected it.
OUTLIVE = """\
"$real" "$@" || exit
while [ "$1" != --pid-file ]; do shift; done
while [ -e "/proc/$(cat "$2")" ]; do sleep 0.02; done
exit"""
# Waits until the file is gone in which it says what it has started: the pod has ended.
OUTLIVE_POD = """\
"$real" "$@" || exit
while [ "$1" != --pid-file ]; do shift; done
while [ -e "$2" ]; do sleep 0.02; done
exit"""


class Runtime:
    """A runtime of this machine, with something to do before it carries out one command."""

    def __init__(
        self, rkt: RktContext, command: str, script: str, names: tuple[str, ...] = ("crun", "runc")
    ) -> None:
        real = next(path for name in names if (path := shutil.which(name, path=SEARCH)))
        path, self._held = f"{rkt.files}/{os.path.basename(real)}", f"{rkt.files}/held"
        with open(path, "w", encoding="ascii") as file:
            file.write(
                f'#!/bin/sh\nreal={real} held={self._held}\ncase "$*" in *" {command} "*)\n'
                f'{script}\n;; esac\nexec "$real" "$@"\n'
            )
        os.chmod(path, 0o755)
        rkt.env["RKT_OCI_RUNTIME"] = path
        self._rkt = rkt

    def wait_until_held(self) -> None:
        """Wait until the command was begun and waits itself."""
        self._rkt.wait_for(lambda: os.path.exists(self._held))

    def release(self) -> None:
        """Let the command go on."""
        os.unlink(self._held)
