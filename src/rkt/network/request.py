"""Which networks a pod asks for: the value of --net (rkt-config 3.1)."""

from __future__ import annotations

from rkt.errors import NetworkError

HOST = "host"
NONE = "none"
ALL = "all"
_MAX = 32


class Wanted:
    """A network that was asked for by name, with the arguments for its plugins."""

    __slots__ = ("args", "name")

    def __init__(self, name: str, args: str = "") -> None:
        self.name = name
        self.args = args


def parse(text: str) -> list[Wanted]:
    """Read `NAME[:ARG=VALUE[;ARG=VALUE...]][,NAME2...]`.  Raises NetworkError."""
    found: dict[str, Wanted] = {}
    for item in text.split(","):
        wanted = _parse_one(item)
        if wanted.name in found:
            raise NetworkError(f'found duplicate netname "{wanted.name}"')
        found[wanted.name] = wanted
    for name in (HOST, NONE):
        if name in found and len(found) > 1:
            raise NetworkError(f'network "{name}" cannot be combined with other networks')
    if len(found) > _MAX:
        raise NetworkError(f"{len(found)} networks, at most {_MAX} are possible")
    return list(found.values())


def _parse_one(item: str) -> Wanted:
    name, colon, args = item.partition(":")
    if not name:
        raise NetworkError("netname must not be empty")
    if not colon:
        return Wanted(name)
    if name in (HOST, NONE, ALL):
        raise NetworkError(f'arguments are not supported by special netname "{name}"')
    # A colon is part of an IPv6 address in a value, anywhere else it is one too many.
    pairs = [pair.partition("=") for pair in args.split(";")]
    if not all(key and equals and ":" not in key for key, equals, _ in pairs) or "\0" in args:
        words = " ".join(args.split(":"))
        raise NetworkError(f'network "{name}" provided with invalid arguments: [{words}]')
    return Wanted(name, args)


def is_own(names: list[str]) -> bool:
    """Say whether a pod that asks for these has interfaces besides the loopback."""
    return not any(name in (HOST, NONE) for name in names)
