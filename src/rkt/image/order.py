"""An image and its dependencies as a flat list: what lies over what.  appc.md section 6."""

from __future__ import annotations

from rkt.errors import NotFound, RenderError
from rkt.schema.struct import Struct
from rkt.store.records import DEPS_PREFIX, ImageKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.schema.image import Dependency, Outline
    from rkt.store.images import Store

MAX_ELEMENTS = 4096
"""Images in one flattened list: a few images can ask for exponentially many."""


class Element(Struct):
    """One image of a flattened list, uppermost first."""

    key: ImageKey
    has_whitelist: bool
    """Files that its whitelist does not name are left out."""
    ancestor: ImageKey | None
    """The ancestor nearest to the root with a whitelist: what that does not name is left out."""
    name: str


def dependency_order(store: Store, key: ImageKey) -> list[Element]:
    """Flatten an image and its dependencies; in the list upper images come before lower ones.

    An image occurs once for each path that leads to it.  Raises RenderError for a dependency that
    is not in the store, for a cycle, and for a list that grows without reason.
    """
    order: list[Element] = []
    stack: list[tuple[ImageKey, tuple[ImageKey, ...], ImageKey | None]] = [(key, (), None)]
    outlines: dict[ImageKey, Outline] = {}
    while stack:
        current, ancestors, inherited = stack.pop()
        if current in ancestors:
            raise RenderError(f'image "{current}" depends on itself')
        if len(order) >= MAX_ELEMENTS:
            raise RenderError(f'image "{key}" has more than {MAX_ELEMENTS} dependencies')
        outline = outlines.get(current)
        if outline is None:
            outline = outlines[current] = store.outline(current)
        manifest = outline.manifest
        order.append(Element(current, outline.has_whitelist, inherited, manifest.name))
        path = (*ancestors, current)
        own = current if outline.has_whitelist else None
        # Popped from the end: the last dependency comes first, its own ones right behind it.
        for dependency in manifest.dependencies or ():
            stack.append((_resolve(store, manifest.name, dependency), path, inherited or own))
    return order


def _resolve(store: Store, parent: str, dependency: Dependency) -> ImageKey:
    name = dependency.image_name
    if dependency.image_id:
        try:
            key = store.resolve(dependency.image_id)
        except NotFound as err:
            raise RenderError(
                f'dependency "{name}" of image "{parent}" with ID "{dependency.image_id}" '
                "is not in the local store",
                hint=f"rkt fetch {name}",
            ) from err
        if store.get(key).name != name:
            raise RenderError(
                f'dependency "{name}" of image "{parent}": '
                f'the image with ID "{key}" has the name "{store.get(key).name}"'
            )
        return key
    labels = {label.name: label.value for label in dependency.labels or ()}
    record = store.find(name, labels)
    if record is None:
        text = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"
        raise RenderError(
            f'dependency of image "{parent}": cannot find aci satisfying name: "{name}" '
            f"and labels: {text} in the local store",
            hint=f"rkt fetch {name}",
        )
    return record.key


def tree_id(order: list[Element]) -> str:
    """Give the ID of the tree that a flattened list of images makes."""
    import hashlib

    text = ",".join(element.key for element in order)
    return DEPS_PREFIX + hashlib.sha512(text.encode()).hexdigest()[:64]
