"""`rkt trust`."""

from __future__ import annotations

from rkt import log
from rkt.cli.flags import Command, Flag
from rkt.config.insecure import InsecureOptions
from rkt.errors import EXIT_FAILURE, RktError, SchemaError, UsageError, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.fetch.http import Client

COMMAND = Command(
    "trust",
    "[--prefix=PREFIX] [--insecure-allow-http] [--skip-fingerprint-review] [--root] [PUBKEY]",
    description="""\
Adds keys to the local keystore: images whose names begin with the prefix (with --root: all
images) are trusted when such a key has signed them.

PUBKEY is a file or an https URL.  Without it, keys are found by meta discovery of the prefix.""",
    flags=(
        Flag("insecure-allow-http", "allow HTTP use for key discovery and/or retrieval",
             kind="bool"),
        Flag("prefix", "prefix to limit trust to"),
        Flag("root", "add root key without a prefix", kind="bool"),
        Flag("skip-fingerprint-review",
             "accept key(s) without reviewing them (the user should have done it)", kind="bool"),
    ),
)  # fmt: skip

_UNBOUNDED = """\
aborting due to implicit unbounded trust (root domain)
 - to trust the key for a specific prefix:
    rkt trust --prefix "example.com/foo" [PUBKEY]
    rkt trust --prefix "example.com/foo/*" [PUBKEY]
 - to trust the key for all images:
    rkt trust --root PUBKEY"""


def run(context: Context, args: Parsed) -> int:
    """Get keys, have them reviewed, store them."""
    prefix = args.string("prefix")
    is_root = args.flag("root")
    if not prefix and not is_root:
        if not args.words:
            raise UsageError("a prefix is needed, or --root and a key", command=COMMAND.name)
        log.info(_UNBOUNDED)
        return EXIT_FAILURE
    if prefix and is_root:
        raise RktError("--root and --prefix usage mutually exclusive")
    if is_root and not args.words:
        raise UsageError("--root needs a key: it cannot be discovered", command=COMMAND.name)
    if not is_root:
        prefix = _checked(prefix)
    insecure = context.insecure
    if insecure.image:
        raise RktError("could not get the keystore", hint="image verification is switched off")

    from rkt.fetch import trust
    from rkt.fetch.http import Client

    is_http = insecure.http or args.flag("insecure-allow-http")
    client = Client(InsecureOptions(http=is_http, tls=insecure.tls))
    locations = args.words or _discovered(client, prefix)
    if not locations:
        return EXIT_FAILURE
    review = trust.ACCEPT if args.flag("skip-fingerprint-review") else trust.ASK
    try:
        trust.add_keys(
            context.keystore(), client, locations, prefix=None if is_root else prefix,
            review=review,
        )  # fmt: skip
    except RktError as err:
        raise RktError("error adding keys", hint=err.hint) from _inner(err)
    return 0


def _checked(prefix: str) -> str:
    from rkt.schema.types import parse_ac_identifier

    if "://" in prefix:
        raise RktError("--prefix must not contain a URL scheme, omit https://")
    plain = prefix.removesuffix("/*")
    try:
        return parse_ac_identifier(plain)
    except SchemaError as err:
        raise RktError(f'--prefix "{prefix}" is not an image name') from err


def _discovered(client: Client, prefix: str) -> list[str]:
    """Discover where the keys are; says why and gives nothing if that fails."""
    from rkt.fetch.discovery import find_keys

    try:
        return find_keys(client, prefix)
    except RktError as err:
        # Without `rkt: `: the guide of rkt shows this very line.
        log.plain(f"Error determining key location: --prefix meta discovery error: {describe(err)}")
        return []


def _inner(err: RktError) -> RktError:
    """Fold an error and its root cause into one, so that both are shown after the context."""
    return RktError(describe(err))
