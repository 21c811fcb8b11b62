"""What the image commands have in common: images as arguments, output directories."""

from __future__ import annotations

import os

from rkt.errors import FetchError, NotFound, RktError, UsageError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.cli.context import Context
    from rkt.cli.flags import Parsed
    from rkt.store.records import ImageRecord

_OWN = ("cas", "pods")
"""What rkt keeps in its data directory."""
IMAGE = "IMAGE is an image ID, a unique beginning of one, or an image name."


def given_image(context: Context, args: Parsed, command: str) -> ImageRecord:
    """Find the one stored image that a command is about."""
    if len(args.words) != 1:
        raise UsageError("exactly one image is needed", command=command)
    return stored(context, args.words[0])


def stored(context: Context, word: str) -> ImageRecord:
    """Find an image in the store, by ID, name or where it came from."""
    try:
        return context.finder("never").find(word, dependencies=False)
    except FetchError as err:
        if isinstance(err.__cause__, NotFound):
            raise NotFound(f'cannot find image "{one_line(word)}"') from err
        raise


def check_output(context: Context, path: str, *, overwrite: bool) -> str:
    """Say where a directory is to be written.  Raises RktError if something must not be lost."""
    target = os.path.realpath(path)
    if target == "/":
        raise RktError("this would delete your root filesystem. Refusing.")
    if f"{context.data_dir}/".startswith(f"{target}/"):
        raise RktError("this would delete rkt's data directory. Refusing.")
    if any(f"{target}/".startswith(f"{context.data_dir}/{name}/") for name in _OWN):
        raise RktError("this would damage rkt's data directory. Refusing.")
    if os.path.lexists(target):
        if not overwrite:
            raise RktError("output directory exists (try --overwrite)")
        if not os.path.isdir(target):
            raise RktError(f'"{path}" is not a directory')
        _refuse_mounts(target)
    return target


def _refuse_mounts(target: str) -> None:
    from rkt.linux import mounts

    for mount in mounts.table():
        if f"{mount.point}/".startswith(f"{target}/"):
            where = one_line(mount.point)
            raise RktError(f'this would delete what is mounted at "{where}". Refusing.')
