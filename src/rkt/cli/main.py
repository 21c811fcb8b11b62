"""From argv to an exit code: find the command, load only its module, turn exceptions to text."""

from __future__ import annotations

import os
import sys

from rkt import const, errors, log
from rkt.cli.table import ALIASES, COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

    from rkt.cli.flags import Command, Parsed
    from rkt.cli.table import Entry


_KEPT_OUT = 'only root and members of the group "rkt" may do this, some of it root alone'


def main(argv: Sequence[str], *, lib_dir: str = const.LIB_DIR) -> int:
    """Run one command line and give its exit code.  Nothing raised by a command gets past here.

    `lib_dir` is where this installation keeps its own parts (stage1 images); the launcher knows it.
    """
    _have_streams()
    try:
        status = _dispatch(list(argv), lib_dir)
        _flush()
        return status
    except errors.UsageError as err:
        log.info(errors.describe(err, debug=log.is_debug()))
        _help_after(err)
        return err.exit_code
    except errors.RktError as err:
        _report(err)
        return err.exit_code
    except KeyboardInterrupt:
        _die_of_sigint()
    except _Ended as end:
        _die_of(end.number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EXIT_FAILURE
    except OSError as err:
        # A file or the kernel said no where the code had nothing better to say.
        _report(_of_no_directory(err))
    except Exception as err:  # noqa: BLE001 - our bug: no traceback unless asked for
        log.info(errors.internal(err))
        if log.is_debug():
            _trace(err)
        elif not errors.shortage(err):
            log.plain("hint: run the command again with --debug")
    return errors.EXIT_FAILURE


def leave(status: int) -> NoReturn:
    """End the process without the interpreter's unwinding, which takes as long as its start."""
    try:
        sys.stdout.flush()
    except OSError:
        status = errors.EXIT_FAILURE
    try:
        sys.stderr.flush()
    except OSError:
        pass
    os._exit(status)  # noqa: TID251 - nothing is left to unwind


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        raise errors.KernelError("cannot write the output", err) from err


def _have_streams() -> None:
    """Put /dev/null where the caller closed a stream: else the next file opened would be it."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _of_no_directory(err: OSError) -> Exception:
    """Name what is missing where no path can be made absolute."""
    try:
        os.getcwd()
    except FileNotFoundError:
        if err.filename is None:
            return errors.KernelError("the current directory does not exist any more", err)
    return err


def _report(err: BaseException) -> None:
    log.info(errors.describe(err, debug=log.is_debug()))
    hint = getattr(err, "hint", None)
    if hint:
        log.plain(f"hint: {hint}")
    if log.is_debug():
        _trace(err)


def _trace(err: BaseException) -> None:
    import traceback

    log.plain("".join(traceback.format_exception(err)).rstrip())


class _Ended(BaseException):
    """A signal asks rkt to end: unwinds as Ctrl-C does, so that nothing half-written is left."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _unwind_when_asked_to_end() -> None:
    from rkt.linux import sig

    # A caller that blocks signals, or ignores the ends of its children, does not mean rkt and what
    # rkt becomes: these would never hear that they are to end, or how their children did.
    sig.pthread_sigmask(sig.SIG_SETMASK, ())
    sig.signal(sig.SIGCHLD, sig.SIG_DFL)

    def end(number: int, _frame: object) -> None:
        sig.end_by_default()  # a second one ends rkt at once
        raise _Ended(number)

    for number in sig.ENDING:
        if sig.getsignal(number) == sig.SIG_DFL:  # nohup has SIGHUP ignored
            sig.signal(number, end)


def _die_of_sigint() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _die_of(signal.SIGINT)


def _die_of(number: int) -> None:
    """Send a signal to this process, once what it did so far can be read."""
    try:
        sys.stdout.flush()
    except OSError:
        pass
    os.kill(os.getpid(), number)


def _help_after(err: errors.UsageError) -> None:
    if err.command is None:
        log.plain("Run 'rkt --help' for usage.")
        return
    from rkt.cli import helptext

    sys.stdout.write(helptext.of_command(err.command))


def _dispatch(argv: list[str], lib_dir: str) -> int:
    if argv == ["version"]:  # answered before anything else is loaded
        from rkt.cli.cmd import version

        return version.run(None, None)
    before, name, after = _split(argv)
    if name is None:
        return _no_command(before)
    if name == "help":
        return _help(after)
    entry = COMMANDS[name]
    # Not by importlib, which takes a while to load itself.
    module = __import__(f"rkt.cli.cmd.{entry.module}", fromlist=("COMMAND",))
    command: Command = module.COMMAND

    from rkt.cli.context import GLOBAL_FLAGS
    from rkt.cli.flags import HelpAsked, parse

    try:
        parsed = parse(command, [*before, *after], GLOBAL_FLAGS)
    except HelpAsked:
        from rkt.cli import helptext

        sys.stdout.write(helptext.of_command(name))
        return 0
    try:
        return _run(module, entry, parsed, lib_dir)
    except errors.UsageError as err:
        err.command = err.command or name
        raise


def _run(module: ModuleType, entry: Entry, parsed: Parsed, lib_dir: str) -> int:
    from rkt.cli.context import Context

    context = Context(parsed, os.environ, lib_dir=lib_dir)
    log.configure(debug=context.debug)
    if entry.root and os.geteuid() != 0:
        raise errors.RktError("cannot run as unprivileged user")
    _unwind_when_asked_to_end()
    try:
        status: int = module.run(context, parsed)
    except errors.RktError as err:
        if _is_kept_out(err, context.data_dir):
            err.hint = err.hint or _KEPT_OUT
        raise
    except PermissionError as err:
        if not _is_kept_out(err, context.data_dir):
            raise
        failure = errors.KernelError("cannot open", err, str(err.filename))
        failure.hint = _KEPT_OUT
        raise failure from err
    return status


def _is_kept_out(err: BaseException | None, data_dir: str) -> bool:
    """Say whether a failure is that an ordinary user may not go into the data directory."""
    while err is not None and not isinstance(err, PermissionError):
        err = err.__cause__
    inside = err is not None and f"{err.filename}/".startswith(f"{data_dir}/")
    return inside and not os.access(data_dir, os.X_OK)  # a member comes in; root always does


def _split(argv: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Separate global flags, the command's full name and the rest."""
    index = 0
    while index < len(argv) and argv[index].startswith("-"):
        flag = argv[index]
        index += 1
        if "=" not in flag and _takes_value(flag):
            index += 1
    before, rest = argv[:index], argv[index:]
    if not rest:
        return before, None, []
    name = _resolve(rest[0], list({key.split()[0]: None for key in COMMANDS}))
    if name in COMMANDS:
        return before, name, rest[1:]
    if len(rest) == 1 or rest[1].startswith("-"):
        return before, "help", [name, *rest[1:]]
    return before, _child(name, rest[1]), rest[2:]


def _child(family: str, word: str) -> str:
    names = [key.split()[1] for key in (*COMMANDS, *ALIASES) if key.startswith(f"{family} ")]
    name = f"{family} {_resolve(word, names, parent=family)}"
    return ALIASES.get(name, name)


def _resolve(word: str, names: list[str], *, parent: str = "") -> str:
    if word in names:
        return word
    matches = [name for name in names if word and name.startswith(word)]
    if len(matches) == 1:
        return matches[0]
    where = f"rkt {parent}".strip()
    if matches:
        choices = ", ".join(matches)
        raise errors.UsageError(f'ambiguous command "{word}" for "{where}": {choices}')
    raise errors.UsageError(f'unknown command "{word}" for "{where}"')


def _takes_value(word: str) -> bool:
    from rkt.cli.context import GLOBAL_FLAGS

    return any(f"--{flag.name}" == word and flag.bare is None for flag in GLOBAL_FLAGS)


def _no_command(before: list[str]) -> int:
    from rkt.cli import helptext

    if "--help" in before or "-h" in before:
        sys.stdout.write(helptext.of_rkt())
        return 0
    if "--version" in before:
        from rkt.cli.cmd import version

        return version.run(None, None)
    if before:
        from rkt.cli.context import GLOBAL_FLAGS
        from rkt.cli.flags import check

        check(before, GLOBAL_FLAGS)
    log.info("missing command")
    sys.stdout.write(helptext.of_rkt())
    return errors.EXIT_USAGE_BARE


def _without_flags(words: list[str]) -> list[str]:
    """Give the words that are no global flags; none when help is asked for once more."""
    from rkt.cli.context import GLOBAL_FLAGS
    from rkt.cli.flags import Command, HelpAsked, parse

    try:
        return parse(Command("help", ""), words, GLOBAL_FLAGS).words
    except HelpAsked:
        return []
    except errors.UsageError as err:
        err.command = None  # whose help would it be?
        raise


def _help(after: list[str]) -> int:
    from rkt.cli import helptext

    words = [word for word in after if not word.startswith("-")]
    if words != after:
        words = _without_flags(after) or words
    if not words:
        sys.stdout.write(helptext.of_rkt())
        return 0
    name = _resolve(words[0], list({key.split()[0]: None for key in COMMANDS}))
    if name not in COMMANDS and len(words) > 1:
        name = _child(name, words[1])
    sys.stdout.write(helptext.of_command(name))
    return 0
