"""Enter a running pod, and stop one: its stage1 knows how."""

from __future__ import annotations

import os
import sys

from rkt.errors import CommandError, KernelError, PodStateError, RktError
from rkt.linux import proc, sig
from rkt.stage0.entrypoint import Stage1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from rkt.pod.lifecycle import Pod


def enter(pod: Pod, app: str, command: Sequence[str]) -> NoReturn:
    """Replace this process by stage1's enter program, which becomes the command inside the app."""
    pid = pod.pid()
    if pid is None:
        raise PodStateError(f'pod "{pod.uuid}" has not started yet',
                            hint="wait until its apps run, then enter again")  # fmt: skip
    program = Stage1(pod).program("enter")
    os.chdir(pod.path)
    sys.stdout.flush()
    try:
        sig.end_by_default()
        os.execv(program, [program, f"--pid={pid}", f"--appname={app}", "--", *command])
    except OSError as err:
        raise KernelError("cannot execute the enter program of stage1", err, program) from err


def stop(pod: Pod, *, force: bool) -> None:
    """Ask a running pod to stop, or kill it with `force`; raises RktError if stage1 cannot."""
    stage1 = Stage1(pod)
    name = stage1.manifest.name
    program = stage1.program("stop", missing=f"rkt stop not implemented for pod's stage1: {name}")
    argv = [program, *(["--force"] if force else []), pod.uuid]
    try:
        proc.run(argv, cwd=pod.path)
    except CommandError as err:
        raise RktError(f'error stopping "{pod.uuid}"') from err
