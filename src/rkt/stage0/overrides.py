"""Isolators from the command line, merged over those of the image (rkt-cli section 5.2)."""

from __future__ import annotations

from rkt.errors import RktError, SchemaError
from rkt.schema import isolators as iso
from rkt.schema.types import Quantity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rkt.stage0.request import AppRequest

_LEAST_MEMORY = 4096


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
        given.append(iso.capabilities(text.split(","), retain=retain is not None))
        replaced |= {iso.CAPS_RETAIN, iso.CAPS_REMOVE}
    seccomp = app.last("seccomp")
    if seccomp is not None:
        given.append(_seccomp(seccomp))
        replaced |= {iso.SECCOMP_RETAIN, iso.SECCOMP_REMOVE}
    return (*(isolator for isolator in base if isolator.name not in replaced), *given)


def check(app: AppRequest) -> None:
    """Raise RktError for a flag whose value cannot be an isolator, whatever the image has."""
    isolators(app, ())


def _memory(text: str) -> iso.Isolator:
    amount = Quantity.parse(text)
    if amount.bytes() < _LEAST_MEMORY:
        raise ValueError(f"memory limit of {amount.bytes()} bytes too low. Try a reasonable value, "
                         "such as --memory=16M")  # fmt: skip
    return iso.resource("resource/memory", amount)


def _cpu(text: str) -> iso.Isolator:
    return iso.resource("resource/cpu", Quantity.parse(text))


def _cpu_shares(text: str) -> iso.Isolator:
    return iso.Isolator("os/linux/cpu-shares", _integer(text))


def _oom_score_adj(text: str) -> iso.Isolator:
    return iso.Isolator("os/linux/oom-score-adj", _integer(text))


def _integer(text: str) -> int:
    if not text.lstrip("-").isdecimal() or len(text) > 18:
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
    try:
        return iso.seccomp(names, retain=values["mode"] == "retain", errno=values.get("errno"))
    except SchemaError as err:
        raise RktError(f'invalid seccomp command-line override "{text}"') from err
