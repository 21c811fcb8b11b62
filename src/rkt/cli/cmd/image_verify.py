"""`rkt image verify`."""

from __future__ import annotations

import os

from rkt import log
from rkt.cli import output
from rkt.cli.flags import Command, Flag
from rkt.cli.images import IMAGE, stored
from rkt.errors import RktError, StoreError, UsageError, describe, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.stage0.usage import Usage
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

COMMAND = Command(
    "image verify",
    "--all | IMAGE...",
    description=f"""\
{IMAGE}

Puts the archive of each image together again and compares its hash with the image ID, compares
type, mode, owner, size, links, times and extended attributes of every file with the archive, and
rendered trees with the images they are made of.  What is damaged is made anew if the store still
has all that is needed and no pod uses it.""",
    flags=(Flag("all", "verify all images of the store", kind="bool"),),
)


def run(context: Context, args: Parsed) -> int:
    """Check stored images; report each damaged one."""
    if args.flag("all") == bool(args.words):
        raise UsageError("either --all or images are needed", command=COMMAND.name)
    from rkt.stage0 import usage

    store = context.store()
    damaged = 0
    if args.flag("all"):
        problems: list[str] = []
        records = store.list(problems=problems)
        damaged += len(problems)
        for problem in problems:
            log.info(problem)
    else:
        records = [stored(context, word) for word in args.words]
    used = usage.find(store.data_dir)
    for record in records:
        try:
            _verify(store, used, record)
        except RktError as err:
            # The others are still to be looked at; the exit code tells.
            log.info(describe(err))
            if err.hint:
                log.plain(f"hint: {err.hint}")
            damaged += 1
    if damaged:
        raise RktError(f"{damaged} image(s) not verified")
    return 0


def _verify(store: Store, used: Usage, record: ImageRecord) -> None:
    from rkt.image import verify

    name = one_line(record.name)
    try:
        verify.verify(store, record)
    except StoreError as err:
        if not record.unpacked or os.geteuid() != 0:
            raise _lost(err, record) from err
        log.info(f"tree cache verification failed for image {name}: {err.message};  rebuilding...")
        _may_replace(used, record.key)
        try:
            verify.rebuild(store, record)
            verify.verify(store, record)
        except RktError as again:
            raise _lost(again, record) from again
    output.line(f'successfully verified checksum for image: "{name}" ("{record.key}")')
    if os.geteuid() == 0:
        if record.unpacked and store.mend_manifest(record.key):
            log.info(f'image "{name}": restored the copy of its manifest that is for the group')
        _verify_rendered(store, used, record)


def _verify_rendered(store: Store, used: Usage, record: ImageRecord) -> None:
    from rkt.image import verify

    try:
        tree = verify.rendered(store, record.key)
    except RktError as err:  # an image that cannot be rendered has no tree
        log.debug(describe(err))
        return
    if tree is None:
        return
    try:
        verify.verify_rendered(store, record.key)
    except StoreError as err:
        name = one_line(record.name)
        log.info(f"tree cache verification failed for image {name}: {err.message};  rebuilding...")
        _may_replace(used, tree)
        verify.render_again(store, record.key)
        verify.verify_rendered(store, record.key)


def _may_replace(used: Usage, tree: str) -> None:
    pods = sorted(used.trees.get(tree, ()))
    if pods:
        raise StoreError(
            f'tree "{tree}" cannot be replaced while pods use it: {", ".join(pods)}',
            hint=f"rkt rm {' '.join(pods)}",
        )


def _lost(err: RktError, record: ImageRecord) -> StoreError:
    if "is damaged" not in err.message:
        return StoreError(err.message)
    source = one_line(record.source)
    return StoreError(
        err.message, hint=f"rkt image rm {record.key}, then fetch it again from {source}"
    )
