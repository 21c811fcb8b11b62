"""The kinds `paths` and `stage1`: where things are, and which stage1 image pods get by default.

rkt v1.30.0, rkt/config/paths.go and stage1.go.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rkt.config import files
from rkt.schema.struct import Struct
from rkt.schema.types import BadValue, parse_ac_identifier, quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.config.files import ConfigFile

SCHEMES = ("docker", "file", "http", "https")


class Paths(Struct, rename={"stage1_images": "stage1-images"}):
    """Directories; empty where nothing is configured."""

    data: str = ""
    stage1_images: str = ""


class Stage1(Struct):
    """The default stage1 image: by name and version in the store, and where it lies otherwise."""

    name: str = ""
    version: str = ""
    location: str = ""


def paths(layers: Sequence[str]) -> Paths:
    """Read the directories that the layers configure, the last one first.  Raises ConfigError."""
    merged = Paths()
    for layer in files.unique(layers):
        found = Paths()
        for file in files.load(layer, "paths.d"):
            one = files.decode(file, Paths)
            for value, known, what in (
                (one.data, found.data, "data directory"),
                (one.stage1_images, found.stage1_images, "stage1 images directory"),
            ):
                if value and not os.path.isabs(value):
                    raise files.parse_failure(file, f"{what} must be an absolute path")
                if value and known:
                    raise files.parse_failure(file, f"{what} is already specified")
            found = Paths(one.data or found.data, one.stage1_images or found.stage1_images)
        merged = Paths(found.data or merged.data, found.stage1_images or merged.stage1_images)
    return merged


def stage1(layers: Sequence[str]) -> Stage1:
    """Read which stage1 image is the default, the last layer first.  Raises ConfigError."""
    merged = Stage1()
    for layer in files.unique(layers):
        found = Stage1()
        for file in files.load(layer, "stage1.d"):
            one = files.decode(file, Stage1)
            _check(file, one, found)
            found = _over(one, found)
        merged = _over(found, merged)
    return merged


def _over(one: Stage1, other: Stage1) -> Stage1:
    named = one if one.name else other
    return Stage1(named.name, named.version, one.location or other.location)


def _check(file: ConfigFile, one: Stage1, found: Stage1) -> None:
    problem = ""
    if one.version and not one.name:
        problem = "default stage1 image version specified, but name is missing"
    elif one.name and not one.version:
        problem = "default stage1 image name specified, but version is missing"
    elif one.name and found.name:
        problem = "name and version of a default stage1 image are already specified"
    elif one.location and found.location:
        problem = "location of a default stage1 image is already specified"
    elif one.name:
        try:
            parse_ac_identifier(one.name)
        except BadValue as err:
            problem = f"invalid default stage1 image name {quote(one.name)}: {err}"
    problem = problem or _location_problem(one.location)
    if problem:
        raise files.parse_failure(file, problem)


def _location_problem(location: str) -> str:
    if not location or os.path.isabs(location):
        return ""
    from urllib.parse import urlsplit

    try:
        scheme = urlsplit(location).scheme
    except ValueError as err:
        return f"default stage1 image location is an invalid URL: {err}"
    if not scheme:
        return "default stage1 image location is either a relative path or a URL without scheme"
    if scheme not in SCHEMES:
        allowed = ", ".join(f'"{name}"' for name in SCHEMES)
        return (
            f'default stage1 image location URL has invalid scheme "{scheme}", allowed schemes '
            f"are {allowed}"
        )
    return ""
