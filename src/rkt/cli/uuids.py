"""UUID arguments, also from a file (rkt-cli section 1.6)."""

from __future__ import annotations

from rkt.cli.flags import Flag
from rkt.errors import RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.flags import Parsed

UUID_FILE = Flag("uuid-file", "read pod UUID from file instead of argument")


def given_uuids(args: Parsed, command: str) -> list[str]:
    """Give the UUIDs, or beginnings of UUIDs, that a command is about: at least one."""
    path = args.string("uuid-file")
    if path and args.words:
        raise UsageError("--uuid-file and UUID arguments exclude each other", command=command)
    if path:
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                return [file.read(4096).strip()]
        except OSError as err:
            raise RktError("unable to resolve UUID from file") from err
    if not args.words:
        raise UsageError("a pod UUID is needed", command=command)
    return args.words


def given_uuid(args: Parsed, command: str) -> str:
    """Give the one UUID that a command is about."""
    uuids = given_uuids(args, command)
    if len(uuids) > 1:
        raise UsageError("only one pod UUID can be given", command=command)
    return uuids[0]
