"""`rkt image rm`."""

from __future__ import annotations

from rkt import log
from rkt.cli import output
from rkt.cli.flags import Command
from rkt.cli.images import IMAGE, stored
from rkt.errors import NotFound, RktError, StoreError, UsageError, describe
from rkt.store.records import KEY_LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.stage0.usage import Remover
    from rkt.store.records import ImageRecord

COMMAND = Command(
    "image rm",
    "IMAGE...",
    description=f"""\
{IMAGE}

An image that a pod uses stays.  Layers that no other image has go with an image.""",
)


def run(context: Context, args: Parsed) -> int:
    """Remove images from the store."""
    if not args.words:
        raise UsageError("must provide at least one image ID", command="image rm")
    from rkt.stage0.usage import Remover

    store = context.store()
    with store.guard(exclusive=True):
        remover = Remover(store)
        records: dict[str, ImageRecord | str] = {}
        for word in args.words:
            key = word[:KEY_LENGTH]
            if len(key) == KEY_LENGTH and store.is_damaged(key):
                records[key] = key
                continue
            try:
                record = stored(context, word)
            except StoreError:
                raise
            except RktError as err:
                # The others are still to be removed; as in rkt this is no failure.
                log.info(describe(err))
            else:
                records[record.key] = record
        remove(remover, records.values())
    return 0


def remove(remover: Remover, records: Iterable[ImageRecord | str]) -> None:
    """Remove images one by one, say what became of each, raise RktError if some are left.

    Of those whose record cannot be read there is only the key.
    """
    removed = stale = failed = 0
    for record in records:
        key = record if isinstance(record, str) else record.key
        try:
            whole = remover.forget(key) if isinstance(record, str) else remover.remove(record)
        except NotFound:
            continue  # a layer that went with another one, which needed it
        except RktError as err:
            log.info(describe(err))
            if err.hint:
                log.plain(f"hint: {err.hint}")
            failed += 1
            continue
        log.info(f'successfully removed aci for imageID: "{key}"')
        output.line(f'successfully removed aci for image: "{key}"')
        removed += 1
        stale += not whole
    if removed:
        log.info(f"{removed} image(s) successfully removed")
    if stale:
        log.info(f"{stale} image(s) removed but left some stale files")
        log.plain("hint: rkt image gc, as root")
    if failed:
        log.info(f"{failed} image(s) cannot be removed")
        raise RktError("error(s) found while removing images")
