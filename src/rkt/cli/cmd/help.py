"""`rkt help`: answered in rkt.cli.main; this declares it."""

from __future__ import annotations

from rkt.cli.flags import Command

COMMAND = Command("help", "[COMMAND]", description="Shows the help of rkt or of a command.")
