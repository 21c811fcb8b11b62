"""What every entrypoint shares: its errors become one line and exit status 254.

An entrypoint runs in the pod directory with the standard library only; imports are paid for at each
start of a pod, so nothing here or below may load typing, argparse, subprocess or dataclasses.
"""

from __future__ import annotations

import os
import sys

from rkt import log
from rkt.errors import EXIT_FAILURE, RktError, describe, internal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def guarded(body: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run an entrypoint's body; turn a failure into its line on stderr and status 254."""
    os.umask(0o022)  # what is made for the apps has to be open to their users, whoever calls
    try:
        return body(argv)
    except RktError as err:
        _report(err)
        if err.hint:
            log.plain(f"hint: {err.hint}")
    except OSError as err:
        _report(err)
    except Exception as err:  # noqa: BLE001 - the last resort of a program: say it, exit 254
        log.info(internal(err))
        if log.is_debug():
            import traceback

            traceback.print_exc()
    return EXIT_FAILURE


def leave(status: int) -> NoReturn:
    """End the process without the interpreter's unwinding, which takes as long as its start."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(status)


def _report(err: BaseException) -> None:
    log.info(describe(err, debug=log.is_debug()))
