"""`rkt completion`."""

from __future__ import annotations

from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed

COMMAND = Command(
    "completion",
    "SHELL",
    description="""\
Prints a script for bash, zsh or fish, which then completes commands, flags and their values,
UUIDs and names of pods, names of apps, and names and IDs of images.

For this session:    source <(rkt completion bash)
In bash, for good:   rkt completion bash > /etc/bash_completion.d/rkt
In zsh, for good:    rkt completion zsh > "${fpath[1]}/_rkt"
In fish, for good:   rkt completion fish > ~/.config/fish/completions/rkt.fish""",
    flags=(Flag("words", "say what may replace the last of the words", kind="bool", hidden=True),),
)


def run(_context: Context, args: Parsed) -> int:
    """Print a shell's script, or what may come next."""
    if args.flag("words"):
        _answer(args)
        return 0
    if not args.words:
        raise UsageError("shell type is not specified", command="completion")
    if len(args.words) > 1:
        raise UsageError("too many arguments, only shell type is expected", command="completion")
    from rkt.cli.shells import SCRIPTS

    script = SCRIPTS.get(args.words[0])
    if script is None:
        raise UsageError(f"'{args.words[0]}' shell is not supported", command="completion")
    output.write(script)
    return 0


def _answer(args: Parsed) -> None:
    from rkt.cli.complete import candidates
    from rkt.errors import one_line

    given = {name: values[-1] for name, values in args.values.items() if name != "words"}
    for text, about in candidates(args.words, given):
        output.line(f"{one_line(text)}\t{one_line(about)}")
