"""Whether an image is in the store with all that it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkt.errors import NotFound

if TYPE_CHECKING:
    from rkt.store.images import Store


def is_whole(store: Store, key: str) -> bool:
    """Say whether a converted image is in the store with all that it depends on."""
    todo = [key]
    seen: set[str] = set()
    try:
        while todo:
            one = todo.pop()
            if one in seen:
                continue
            seen.add(one)
            for dependency in store.outline(one).manifest.dependencies:
                todo.append(store.resolve(dependency.image_id or ""))
    except NotFound:
        return False
    return True
