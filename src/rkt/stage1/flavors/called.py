"""The command line of our own programs that stage1 calls as it does an OCI runtime."""

from __future__ import annotations

from rkt import quickjson
from rkt.errors import RktError, UsageError, describe
from rkt.linux import atomic
from rkt.stage1 import contract, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_VALUES = ("root", "log", "log-format", "bundle", "pid-file", "console-socket", "process",
           "preserve-fds")  # fmt: skip
_SWITCHES = ("detach", "force")


def guarded(program: str, serve: Callable[[str, str, dict[str, str]], int], argv: list[str]) -> int:
    """Run a program's body with verb, container ID and flags; gives its exit status.

    A failure becomes its line on stderr, an entry in the file that `--log` names, and status 254.
    """
    return launch.guarded(lambda words: _call(program, serve, words), argv)


def _call(program: str, serve: Callable[[str, str, dict[str, str]], int], argv: list[str]) -> int:
    words, flags = contract.split_flags(argv[1:], (*_VALUES, *_SWITCHES), _SWITCHES)
    values = dict(flags)
    verb, ident = words if len(words) == 2 else ("", "")
    if "/" in ident or "root" not in values or verb not in ("run", "exec", "delete"):
        raise UsageError(f"{program}: usage: {program} --root DIR run|exec|delete [FLAGS] ID")
    try:
        return serve(verb, ident, values)
    except RktError as err:
        if "log" in values:
            entry = quickjson.dumps({"level": "error", "msg": describe(err)})
            atomic.write_file(values["log"], entry.encode(), durable=False)
        raise
