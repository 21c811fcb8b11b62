"""What stage1-nspawn makes of an app for the pod's systemd, and how it reads its answers."""

from __future__ import annotations

import struct
from typing import cast

import pytest

from rkt.errors import RktError
from rkt.linux import sig
from rkt.stage1.app import spec
from rkt.stage1.app.volumes import Bind
from rkt.stage1.flavors import machine, unit, unitproperties
from rkt.stage1.flavors.nspawn import UnitChildren
from rkt.stage1.host import dbus


def test_the_version_is_read() -> None:
    assert machine.read_version(b"systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n") == 252
    assert machine.read_version(b"systemd 256.4 (256.4)") == 256
    assert machine.read_version(b"systemd 257~rc2 (257~rc2)") == 257
    assert machine.read_version(b"") == 0
    assert machine.read_version(b"busybox 1 2") == 0


@pytest.mark.parametrize(
    ("how", "what", "code"),
    [("exited", "0", 0), ("exited", "3", 3), ("killed", "TERM", -sig.SIGTERM),
     ("dumped", "SEGV", -sig.SIGSEGV), ("killed", "RTMIN+3", -(sig.SIGRTMIN + 3)),
     ("killed", "RTMIN", -sig.SIGRTMIN), ("killed", "nonsense", -sig.SIGKILL)],
)  # fmt: skip
def test_ends_are_read(how: str, what: str, code: int) -> None:
    assert machine.read_end(how, what) == code


def test_a_slice_is_not_inside_another() -> None:
    assert unitproperties.slice_of("a-b") == "app_a\\x2db.slice"
    assert unitproperties.slice_of("ab") == "app_ab.slice"


class Answers:
    """A pod's systemd that says one thing."""

    def __init__(self, result: str, pid: int, status: int) -> None:
        self.result = result
        self.numbers = {"ExecMainPID": pid, "ExecMainStatus": status}

    def start(self, *_: object) -> str:
        return self.result

    def number(self, _unit: str, name: str) -> int:
        return self.numbers[name]


@pytest.mark.parametrize(("result", "pid", "status", "text"), [
    ("done", 12, 0, ""),
    ("done", 0, 0, ""),  # it has ended and is forgotten
    ("failed", 12, 9, ""),  # it ran, and failed at once
    ("failed", 12, 203, "the pod's systemd could not execute its program"),
    ("failed", 0, 0, r"the pod's systemd could not start it \(failed, status 0\)"),
    ("canceled", 12, 9, r"the pod's systemd could not start it \(canceled, status 9\)"),
])  # fmt: skip
def test_an_app_that_fails_at_once_was_started(
    result: str, pid: int, status: int, text: str
) -> None:  # fmt: skip
    answers = cast("unit.Manager", Answers(result, pid, status))
    if not text:
        assert unit.start(answers, "a.service", [], ()) == pid
        return
    with pytest.raises(RktError, match=text):
        unit.start(answers, "a.service", [], ())


def test_limits_and_binds() -> None:
    plan = spec.AppPlan("a", "/nowhere")
    plan.resources = {
        "memory": {"limit": 1 << 20}, "cpu": {"period": 100000, "quota": 50000, "shares": 1024},
    }  # fmt: skip
    plan.binds = [Bind("/s", "/t", read_only=False), Bind("/u", "/dev", read_only=True)]
    found = {name: value for name, _, value in unitproperties.of_plan(plan, ["/m"], ["/r"])}
    assert found["MemoryMax"] == 1 << 20
    assert found["CPUQuotaPerSecUSec"] == 500_000
    assert found["CPUWeight"] == 39
    assert found["InaccessiblePaths"] == ["-+/m"]
    assert found["ReadOnlyPaths"] == ["-+/r"]
    assert found["BindPaths"] == [
        ("/proc", "/proc", 0, 1 << 14), ("/sys", "/sys", 0, 1 << 14),
        ("/rkt/volumes/a/0", "/t", 0, 1 << 14),
    ]  # fmt: skip
    assert found["BindReadOnlyPaths"] == [("/rkt/volumes/a/1", "/dev", 0, 1 << 14)]


def test_paths_stay_open_when_asked_for() -> None:
    plan = spec.AppPlan("a", "/nowhere")
    plan.unprotected_paths = True
    names = {name for name, _, _ in unitproperties.of_plan(plan, ["/m"], ["/r"])}
    assert not names & {"InaccessiblePaths", "ReadOnlyPaths", "DevicePolicy"}


def test_a_filter_that_allows() -> None:
    plan = spec.AppPlan("a", "/nowhere")
    plan.seccomp = {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "syscalls": [
            {"names": ["read", "@system-service", "write:EPERM"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]},
            {"names": ["clone3", "read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }  # fmt: skip
    found = unitproperties.of_plan(plan, [], [])
    filters = [value for name, _, value in found if name == "SystemCallFilter"]
    assert filters == [(1, ["read", "clone"]), (0, ["clone3:38"])]
    assert ("SystemCallErrorNumber", "i", 1) in found
    assert ("RestrictNamespaces", "t", 0) in found


def test_a_filter_that_forbids() -> None:
    plan = spec.AppPlan("a", "/nowhere")
    plan.seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    found = unitproperties.of_plan(plan, [], [])
    assert ("SystemCallFilter", "(bas)", (0, ["mkdir"])) in found
    assert ("SystemCallErrorNumber", "i", 13) in found
    assert "RestrictNamespaces" not in {name for name, _, _ in found}


def test_the_command_is_not_expanded() -> None:
    plan = spec.AppPlan("a", "/nowhere")
    plan.args = ["/bin/x", "$A %n\n[Service]"]
    plan.env = ["HOME=/%h", "B=c"]
    plan.uid, plan.gid, plan.groups = 12, 13, [14]
    plan.capabilities = ["CAP_CHOWN", "CAP_SETUID"]
    properties = unitproperties.of_process(spec.process(plan), "a-1")
    found = {name: value for name, _, value in properties}
    assert found["ExecStartEx"] == [("/bin/x", plan.args, ["no-env-expand"])]
    assert found["Environment"] == plan.env
    unset = found["UnsetEnvironment"]
    assert isinstance(unset, list)
    assert "HOME" not in unset
    assert "USER" in unset
    assert (found["User"], found["Group"], found["SupplementaryGroups"]) == ("12", "13", ["14"])
    assert found["CapabilityBoundingSet"] == 0b10000001


def test_values_for_d_bus() -> None:
    message = dbus.encode(
        1, "", "/p", "i.f", "M", (("a(sv)", [("A", "as", ["x"]), ("B", "h", 0)]),), fds=1
    )
    (body,) = struct.unpack_from("<I", message, 4)
    assert message[-body:] == (
        b"\x28\0\0\0\0\0\0\0"
        b"\1\0\0\0A\0\2as\0\0\0\6\0\0\0\1\0\0\0x\0\0\0"
        b"\1\0\0\0B\0\1h\0\0\0\0\0\0\0\0"
    )  # fmt: skip
    assert b"\x09\1u\0\1\0\0\0" in message


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
def test_what_d_bus_cannot_carry(text: str) -> None:
    with pytest.raises(dbus.CallError, match="cannot send a text"):
        dbus.encode(1, "", "/p", "i.f", "M", (("s", text),))


def test_names_of_units_in_d_bus() -> None:
    assert unit._escaped("a-1.service") == "a_2d1_2eservice"


def test_an_end_may_come_before_the_number() -> None:
    told: list[int] = []
    kids = UnitChildren()
    kids._running.add(1)  # a command that starts something
    kids.report("a-1", 3)
    kids.key = "a-1"
    kids.adopt((1 << 31) - 1, told.append)
    kids.key = "a-2"
    kids.adopt((1 << 31) - 1, told.append)
    assert told == [3]
    kids.report_all()
    assert told == [3, -sig.SIGKILL]
