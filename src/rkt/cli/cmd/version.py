"""`rkt version`."""

from __future__ import annotations

import os
import sys

from rkt import __version__, const
from rkt.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "version", "", description="Prints the versions of rkt and of its parts.", words=False
)


def run(_context: Context | None, _args: Parsed | None) -> int:
    """Print the version lines."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    machine = os.uname()
    sys.stdout.write(
        f"rkt Version: {__version__}\n"
        f"appc Version: {const.APPC_VERSION}\n"
        f"Python Version: {python}\n"
        f"Python OS/Arch: {machine.sysname.lower()}/{machine.machine}\n"
        "Features: -TPM -SDJOURNAL\n"
    )
    return 0
