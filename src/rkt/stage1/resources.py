"""Resource isolators of an app (rkt-config 9) as OCI resources."""

from __future__ import annotations

import os

from rkt import log
from rkt.errors import RktError

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_IGNORED = ("resource/block-bandwidth", "resource/block-iops", "resource/network-bandwidth")
_PERIOD = 100000


def quantity(text: str, scale: int = 1) -> int:
    """Read a resource quantity times `scale`, rounded up.  Raises RktError."""
    digits = text.lstrip("+-")
    number = digits[: len(digits) - len(digits.lstrip("0123456789."))]
    suffix = digits[len(number) :]
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isdigit():
        raise RktError(f'unable to parse numeric part of quantity "{text}"')
    top, bottom = int(whole + fraction) * scale, int(f"1{'0' * len(fraction)}")
    if suffix in _BINARY:
        top <<= _BINARY[suffix]
    else:
        power = _power(suffix, text)
        top *= int(f"1{'0' * power}")
        bottom *= int(f"1{'0' * -power}")
    value = -(-top // bottom)
    return -value if text.startswith("-") else value


def _power(suffix: str, text: str) -> int:
    power = _DECIMAL.get(suffix)
    if power is None and suffix[:1] in ("e", "E") and suffix[1:].lstrip("+-").isdigit():
        power = int(suffix[1:]) if len(suffix) < 5 else None
    if power is None or abs(power) > 30:
        raise RktError(f'unable to parse quantity\'s suffix "{text}"')
    return power


def build(
    app: str, isolators: list[tuple[str, object]], controllers: set[str]
) -> dict[str, object]:
    """Give memory and cpu of OCI `linux.resources`; what the kernel has not is warned about."""
    memory: dict[str, object] = {}
    cpu: dict[str, object] = {}
    for name, value in isolators:
        if name in _IGNORED:
            log.warning(f'app "{app}": isolator "{name}" is not supported, ignored')
            continue
        controller = {"resource/memory": "memory", "resource/cpu": "cpu"}.get(name)
        if name == "os/linux/cpu-shares":
            controller = "cpu"
        if controller is None:
            continue
        if controller not in controllers:
            log.warning(f"{name} isolator set but support disabled in the kernel, skipping")
            continue
        if name == "os/linux/cpu-shares":
            if isinstance(value, int):
                cpu["shares"] = value
            continue
        limit = value.get("limit") if isinstance(value, dict) else None
        if not limit:
            continue
        if controller == "memory":
            memory["limit"] = quantity(str(limit))
        else:
            cpu["period"] = _PERIOD
            cpu["quota"] = max(quantity(str(limit), 1000) * _PERIOD // 1000, 1000)
    result: dict[str, object] = {}
    if memory:
        result["memory"] = memory
    if cpu:
        result["cpu"] = cpu
    return result


def oom_score_adj(
    app: str, isolators: list[tuple[str, object]], have: tuple[str, ...]
) -> int | None:
    """Give the wanted oom_score_adj; None, with a warning, when this process may not lower it."""
    for name, value in isolators:
        if name != "os/linux/oom-score-adj" or not isinstance(value, int):
            continue
        if "CAP_SYS_RESOURCE" not in have and value < _own_score():
            log.warning(f'app "{app}": no permission to lower oom_score_adj to {value}, ignored')
            return None
        return value
    return None


def _own_score() -> int:
    fd = os.open("/proc/self/oom_score_adj", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)
