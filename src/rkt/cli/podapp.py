"""What the commands about one app of a pod share."""

from __future__ import annotations

from contextlib import contextmanager

from rkt.cli.flags import Flag
from rkt.cli.uuids import find_pod
from rkt.errors import KernelError, RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.pod.lifecycle import Pod

APP = Flag("app", "name of the app within the specified pod")


def given_pod(context: Context, args: Parsed) -> Pod:
    """Open the pod that a command is about."""
    if not args.words:
        raise RktError("must provide the pod UUID")
    if len(args.words) > 1:
        raise RktError("only one pod UUID can be given")
    return find_pod(context, args.words[0])


def given_app(args: Parsed, what: str) -> str:
    """Give the app that a command is about; `what` is said to be done to it."""
    name = args.string("app")
    if not name:
        raise RktError(f"must provide the app to {what}", hint="--app=NAME")
    return name


@contextmanager
def saying(context: str) -> Iterator[None]:
    """Put what was being done before an error's text; it keeps its hint."""
    try:
        yield
    except RktError as err:
        raise RktError(context, hint=err.hint) from err


@contextmanager
def exit_code(code: int) -> Iterator[None]:
    """Let errors end the command with an exit code of their own (rkt-cli section 1.2)."""
    try:
        yield
    except RktError as err:
        err.exit_code = code
        raise
    except PermissionError as err:
        failure = KernelError("cannot open", err, str(err.filename))
        failure.exit_code = code
        raise failure from err
