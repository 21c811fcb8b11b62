"""Isolators from the command line, merged over those of the image (rkt-cli section 5.2)."""

from __future__ import annotations

import errno

from rkt.errors import RktError, SchemaError
from rkt.linux import caps
from rkt.schema import isolators as iso
from rkt.schema.types import Quantity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rkt.stage0.request import AppRequest

_LEAST_MEMORY = 4096
_NANO = 10**9
_LEAST = {iso.MEMORY: _LEAST_MEMORY * _NANO, iso.CPU: _NANO // 1000}  # others: 1


def isolators(app: AppRequest, base: Sequence[iso.Isolator]) -> tuple[iso.Isolator, ...]:
    """Give an app's isolators: the image's, with those that flags replace."""
    given: list[iso.Isolator] = []
    replaced: set[str] = set()
    for flag, make in (("memory", _memory), ("cpu", _cpu), ("cpu-shares", _cpu_shares),
                       ("oom-score-adj", _oom_score_adj)):  # fmt: skip
        text = app.last(flag)
        if text is not None:
            try:
                isolator = make(text)
            except (SchemaError, ValueError) as err:
                raise RktError(f'invalid value in --{flag} flag "{text}"') from err
            given.append(isolator)
            replaced.add(isolator.name)
    retain, remove = app.last("caps-retain"), app.last("caps-remove")
    if retain is not None and remove is not None:
        raise RktError("error: cannot use both --caps-retain and --caps-remove on the same image")
    if retain is not None or remove is not None:
        text = retain if retain is not None else remove or ""
        given.append(_capabilities(text, retain=retain is not None))
        replaced |= {iso.CAPS_RETAIN, iso.CAPS_REMOVE}
    seccomp = app.last("seccomp")
    if seccomp is not None:
        given.append(_seccomp(seccomp))
        replaced |= {iso.SECCOMP_RETAIN, iso.SECCOMP_REMOVE}
    return (*(isolator for isolator in base if isolator.name not in replaced), *given)


def check(app: AppRequest) -> None:
    """Raise RktError for a flag whose value cannot be an isolator, whatever the image has."""
    isolators(app, ())


def refuse(owner: str, values: Iterable[iso.Isolator]) -> None:
    """Raise RktError for isolators that a manifest may have, but no app can run with."""
    values = tuple(values)
    if {iso.CAPS_RETAIN, iso.CAPS_REMOVE} <= {isolator.name for isolator in values}:
        raise RktError(f"{owner}: capabilities-retain-set and capabilities-remove-set exclude "
                       "each other")  # fmt: skip
    for isolator in values:
        problem = _problem(isolator)
        if problem:
            raise RktError(f"{owner}: {isolator.name}: {problem}")


def _problem(isolator: iso.Isolator) -> str:
    """Say what is wrong with a value that is of the right form; "" if nothing is."""
    value = isolator.typed()
    if isinstance(value, iso.CapabilitySet):
        return _unknown_capability(value.names)
    if isinstance(value, iso.SeccompFilter):
        return _unknown_errno(value.errno)
    limit = value.limit if isinstance(value, iso.Resource) else None
    if limit is not None and limit.nano() < _LEAST.get(isolator.name, _NANO):
        return f"limit of {limit} too low"
    return ""


def _unknown_capability(names: Iterable[str]) -> str:
    return next((f'unknown capability "{name}"' for name in names if name not in caps.NAMES), "")


def _unknown_errno(name: str | None) -> str:
    known = name is None or isinstance(getattr(errno, name, None), int)
    return "" if known else f'unknown errno "{name}"'


def _capabilities(text: str, *, retain: bool) -> iso.Isolator:
    names = text.split(",")
    problem = _unknown_capability(name for name in names if name)
    if problem:
        flag = "caps-retain" if retain else "caps-remove"
        raise RktError(f'invalid value in --{flag} flag "{text}": {problem}')
    return iso.capabilities(names, retain=retain)


def _memory(text: str) -> iso.Isolator:
    amount = Quantity.parse(text)
    if amount.bytes() < _LEAST_MEMORY:
        raise ValueError(f"memory limit of {amount.bytes()} bytes too low. Try a reasonable value, "
                         "such as --memory=16M")  # fmt: skip
    return iso.resource("resource/memory", amount)


def _cpu(text: str) -> iso.Isolator:
    amount = Quantity.parse(text)
    if 0 <= amount.nano() < _LEAST[iso.CPU]:
        raise ValueError(f"cpu limit of {amount} too low. Try a reasonable value, such as "
                         "--cpu=500m")  # fmt: skip
    return iso.resource(iso.CPU, amount)


def _cpu_shares(text: str) -> iso.Isolator:
    return iso.Isolator("os/linux/cpu-shares", _integer(text))


def _oom_score_adj(text: str) -> iso.Isolator:
    return iso.Isolator("os/linux/oom-score-adj", _integer(text))


def _integer(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()) or len(text) > 18:
        raise ValueError(f'"{text}" is not an integer')
    return int(text)


def _seccomp(text: str) -> iso.Isolator:
    names: list[str] = []
    values: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if equals:
            values[key] = value
        else:
            names.append(item)
    if values.get("mode") not in ("retain", "remove") or values.keys() - {"mode", "errno"}:
        raise RktError(f'invalid seccomp mode command-line override "{text}"')
    problem = _unknown_errno(values.get("errno") or None)
    try:
        if problem and values["errno"].startswith("E"):
            raise SchemaError(problem)
        return iso.seccomp(names, retain=values["mode"] == "retain", errno=values.get("errno"))
    except SchemaError as err:
        raise RktError(f'invalid seccomp command-line override "{text}"') from err
