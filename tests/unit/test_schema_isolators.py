"""Isolators: the value of each name, and the rules on an app's set."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rkt.errors import SchemaError
from rkt.schema import codec, isolators
from rkt.schema.isolators import (
    CapabilitySet,
    CPUShares,
    Isolator,
    NoNewPrivileges,
    OOMScoreAdj,
    Resource,
    SeccompFilter,
    SELinuxContext,
    Sysctl,
    check_app_isolators,
)
from rkt.schema.types import BadValue, Quantity

Q = Quantity.parse


def decode(name: str, value: object) -> Isolator:
    data = json.dumps({"name": name, "value": value}).encode()
    return codec.decode(data, Isolator, "isolator")


def refused(text: str) -> pytest.RaisesExc[SchemaError]:
    return pytest.raises(SchemaError, match=f"^isolator: {re.escape(text)}$")


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("resource/cpu", {"request": "250m", "limit": "2"}, Resource(Q("250m"), Q("2"))),
        ("resource/cpu", {"limit": 2}, Resource(Q("2"), Q("2"))),
        ("resource/memory", {"limit": "1Gi"}, Resource(Q("1Gi"), Q("1Gi"))),
        ("resource/memory", {"limit": None, "default": False}, Resource()),
        (
            "resource/block-iops",
            {"default": True, "limit": "1k"},
            Resource(None, Q("1k"), default=True),
        ),
        (
            "os/linux/capabilities-retain-set",
            {"set": ["CAP_KILL"]},
            CapabilitySet(retain=True, names=("CAP_KILL",)),
        ),
        (
            "os/linux/capabilities-remove-set",
            {"SET": ["CAP_KILL"]},
            CapabilitySet(retain=False, names=("CAP_KILL",)),
        ),
        ("os/linux/no-new-privileges", True, NoNewPrivileges(value=True)),
        (
            "os/linux/seccomp-retain-set",
            {"set": ["@appc.io/all", "read"]},
            SeccompFilter(retain=True, names=("@appc.io/all", "read")),
        ),
        (
            "os/linux/seccomp-remove-set",
            {"set": ["reboot"], "errno": "ENOSYS"},
            SeccompFilter(retain=False, names=("reboot",), errno="ENOSYS"),
        ),
        (
            "os/linux/selinux-context",
            {"user": "u", "role": "r", "type": "t", "level": "s0:c1,c2"},
            SELinuxContext("u", "r", "t", "s0:c1,c2"),
        ),
        ("os/linux/cpu-shares", 1024, CPUShares(1024)),
        ("os/linux/oom-score-adj", -1000, OOMScoreAdj(-1000)),
        ("os/unix/sysctl", {"net.ipv4.tcp_x": "1"}, Sysctl({"net.ipv4.tcp_x": "1"})),
        ("example.com/unknown", {"any": [1]}, None),
    ],
)
def test_typed_values(name: str, value: object, typed: object) -> None:
    isolator = decode(name, value)
    assert isolator.typed() == typed
    assert json.loads(codec.encode(isolator)) == {"name": name, "value": value}


SECCOMP = "os/linux/seccomp-retain-set"
SELINUX = "os/linux/selinux-context"
REGEX = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("resource/cpu", {"default": True}, "default must be false"),
        ("resource/memory", {"default": True, "limit": "1G"}, "default must be false"),
        ("resource/cpu", {"limit": "1Q"}, f"limit: {REGEX}"),
        ("resource/cpu", {"limit": "1K"}, "limit: unable to parse quantity's suffix"),
        ("resource/cpu", {"request": "1.1.1"}, "request: unable to parse numeric part of quantity"),
        ("resource/cpu", {"limit": "-1"}, "limit: quantity must not be negative"),
        ("resource/cpu", {"limit": True}, "limit: expected `str`, got `bool`"),
        ("resource/cpu", {"default": "no"}, "default: expected `bool`, got `str`"),
        ("resource/cpu", "500m", "expected `object`, got `str`"),
        ("resource/cpu", None, "expected `object`, got `null`"),
        ("resource/block-bandwidth", {"limit": "1"}, "default must be true"),
        (
            "resource/network-bandwidth",
            {"default": True, "request": "1"},
            "request not supported by this resource, must be empty",
        ),
        ("os/linux/capabilities-retain-set", {"set": []}, "set must be non-empty"),
        ("os/linux/capabilities-remove-set", {}, "set must be non-empty"),
        ("os/linux/capabilities-remove-set", {"set": "a"}, "set: expected `array`, got `str`"),
        ("os/linux/capabilities-remove-set", {"set": [1]}, "set: expected `str`, got `int`"),
        ("os/linux/no-new-privileges", "true", "expected `bool`, got `str`"),
        (SECCOMP, {"set": []}, "set must be non-empty"),
        (
            SECCOMP,
            {"set": ["a"], "errno": "NOSYS"},
            "errno must start with an 'E' character, got NOSYS",
        ),
        (
            SECCOMP,
            {"set": ["a"], "errno": "Enosys"},
            "errno can only contain upper case or numeric characters, got Enosys",
        ),
        (SELINUX, {"user": "a:b"}, 'invalid user value "a:b"'),
        (SELINUX, {"user": "u"}, 'invalid role value ""'),
        (SELINUX, {"user": "u", "role": "r", "type": "t:t"}, 'invalid type value "t:t"'),
        (SELINUX, {"user": "u", "role": "r", "type": "t"}, 'invalid level value ""'),
        ("os/linux/cpu-shares", "10", "expected `int`, got `str`"),
        ("os/linux/cpu-shares", 1.5, "expected `int`, got `float`"),
        ("os/unix/sysctl", {"a": 1}, '"a": expected `str`, got `int`'),
    ],
)
def test_values_are_checked(name: str, value: Any, error: str) -> None:
    with refused(f"{name}: {error}"):
        decode(name, value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("os/linux/cpu-shares", 1, "must be between 2 and 262144, got 1"),
        ("os/linux/cpu-shares", 262145, "must be between 2 and 262144, got 262145"),
        ("os/linux/oom-score-adj", -1001, "must be between -1000 and 1000, got -1001"),
        ("os/linux/oom-score-adj", 1001, "must be between -1000 and 1000, got 1001"),
    ],
)
def test_ranges(name: str, value: int, text: str) -> None:
    with refused(f"{name} {text}"):
        decode(name, value)


def make(name: str) -> Isolator:
    if "capabilities" in name or "seccomp" in name:
        return Isolator(name, {"set": ["x"]})
    if "cpu-shares" in name or "oom" in name:
        return Isolator(name, 2)
    return Isolator(name, {"limit": "1"} if name.startswith("resource/") else {})


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("vendor/x",), 'invalid isolator: "vendor/x" is not known'),
        (
            (isolators.SECCOMP_RETAIN, isolators.SECCOMP_REMOVE),
            "isolators set contains incompatible types",
        ),
        (
            (isolators.SECCOMP_REMOVE, isolators.CPU, isolators.SECCOMP_RETAIN),
            "isolators set contains incompatible types",
        ),
        (
            (isolators.CPU_SHARES, isolators.CPU_SHARES),
            'isolators set contains too many instances of type os/linux/cpu-shares"',
        ),
        (
            (isolators.SECCOMP_RETAIN, isolators.SECCOMP_RETAIN),
            'isolators set contains too many instances of type os/linux/seccomp-retain-set"',
        ),
        (
            (isolators.SYSCTL, isolators.SYSCTL),
            'isolators set contains too many instances of type os/unix/sysctl"',
        ),
    ],
)
def test_set_rules(names: tuple[str, ...], error: str) -> None:
    with pytest.raises(BadValue, match=f"^{re.escape(error)}$"):
        check_app_isolators([make(name) for name in names])


def test_set_rules_leave_the_rest_to_the_executor() -> None:
    check_app_isolators(
        make(name)
        for name in (isolators.CAPS_RETAIN, isolators.CAPS_REMOVE, isolators.CPU, isolators.CPU)
    )


def test_constructors_make_checked_isolators() -> None:
    cpu = isolators.resource(isolators.CPU, Q("1.5"))
    assert cpu.value == {"request": "1500m", "limit": "1500m"}
    caps = isolators.capabilities(["CAP_KILL"], retain=False)
    assert caps.name == "os/linux/capabilities-remove-set"
    assert isolators.seccomp(["a"], retain=True, errno="EPERM").typed() == SeccompFilter(
        retain=True, names=("a",), errno="EPERM"
    )
    with pytest.raises(BadValue, match="set must be non-empty"):
        isolators.capabilities([""], retain=True)


def test_sysctl_keys_are_not_folded() -> None:
    assert decode("os/unix/sysctl", {"User": "1", "SET": "2"}).value == {"User": "1", "SET": "2"}
