"""UUID arguments, also from a file (rkt-cli section 1.6)."""

from __future__ import annotations

from rkt.cli.flags import Flag
from rkt.errors import EXIT_FAILURE, AmbiguousName, NotFound, RktError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

_LONGEST = 64  # a pod's name has 63 characters at most
UUID_FILE = Flag("uuid-file", "read pod UUID from file instead of argument")


def given_uuids(args: Parsed, command: str, *, file_status: int = EXIT_FAILURE) -> list[str]:
    """Give the UUIDs, or beginnings of UUIDs, that a command is about: at least one.

    `file_status` is the exit status when the file with them cannot be read.
    """
    path = args.string("uuid-file")
    if path and args.words:
        raise UsageError("--uuid-file and UUID arguments exclude each other", command=command)
    if path:
        return [_first_word(path, file_status)]
    if not args.words:
        raise UsageError("a pod UUID is needed", command=command)
    return args.words


def _first_word(path: str, status: int) -> str:
    """Read what a file has in place of a UUID on the command line."""
    failure = RktError("unable to resolve UUID from file")
    failure.exit_code = status
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(4096).strip()
    except OSError as err:
        raise failure from err
    if len(text) > _LONGEST or not (text.isascii() and text.isprintable()):
        raise failure from RktError(f'"{path}": this is no UUID')
    return text


def given_uuid(args: Parsed, command: str, *, file_status: int = EXIT_FAILURE) -> str:
    """Give the one UUID that a command is about."""
    uuids = given_uuids(args, command, file_status=file_status)
    if len(uuids) > 1:
        raise UsageError("only one pod UUID can be given", command=command)
    return uuids[0]


def find_pod(context: Context, word: str, failure: str = "problem retrieving pod") -> Pod:
    """Open the pod that a word stands for; an error begins with what failed."""
    from rkt.pod import lifecycle

    try:
        return lifecycle.find(context.data_dir, word)
    except (NotFound, AmbiguousName) as err:
        raise type(err)(failure, hint=err.hint) from err
