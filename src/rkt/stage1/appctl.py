"""The entrypoints `app/add`, `app/start`, `app/stop` and `app/rm`: ask the pod's supervisor.

Each is this program under a name of its own: `app-add` and so on.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import UsageError
from rkt.stage1 import contract, launch
from rkt.stage1.streams import control

_PREFIX = "app-"
_PATIENCE = 120.0  # for what does not wait for an app's end


def main(argv: list[str]) -> int:
    """Carry out one operation on an app."""
    return launch.guarded(_main, argv)


def _main(argv: list[str]) -> int:
    name = os.path.basename(argv[0])
    operation = name.removeprefix(_PREFIX)
    rest, flags = contract.split_flags(argv[1:], ("debug", "app", "uuid"), ("debug",))
    values = dict(flags)
    if rest or not values.get("app") or operation not in ("add", "start", "stop", "rm"):
        raise UsageError(f"{name}: usage: {name} [--debug] --app=NAME")
    log.configure(debug=values.get("debug") == "true")
    patience = None if operation in ("stop", "rm") else _PATIENCE
    control.call({"op": operation, "app": values["app"]}, timeout=patience)
    return 0
