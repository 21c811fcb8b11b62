"""OCI configurations: pure functions of what was resolved about an app."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from rkt.errors import RktError
from rkt.linux import caps, selinux
from rkt.stage1.app import capabilities, environment, resources, seccomp, spec, syscalls
from rkt.stage1.app.volumes import Bind

if TYPE_CHECKING:
    from pathlib import Path


def _config(plan: spec.AppPlan, **more: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"init_pid": 7, "joined": {"pid", "uts", "ipc"}, "shm": "/shm"}
    # through JSON: what the runtime will read
    return cast("dict[str, Any]", json.loads(json.dumps(spec.build(plan, **(defaults | more)))))


@pytest.fixture
def plan() -> spec.AppPlan:
    made = spec.AppPlan("a", "/root/of/a")
    made.args = ["/bin/a", "b"]
    made.env = ["A=b"]
    made.capabilities = ["CAP_CHOWN", "CAP_KILL"]
    made.cgroup = "/rkt-u/a"
    return made


def test_the_process(plan: spec.AppPlan) -> None:
    plan.groups = [5]
    assert _config(plan)["process"] == {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [5]},
        "args": ["/bin/a", "b"],
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {name: ["CAP_CHOWN", "CAP_KILL"]
                         for name in ("bounding", "effective", "permitted")},
        "noNewPrivileges": False,
    }  # fmt: skip


def test_who_is_not_root_has_only_a_bounding_set(plan: spec.AppPlan) -> None:
    plan.uid, plan.gid, plan.oom_score_adj, plan.no_new_privileges = 10, 20, 30, True
    plan.selinux_label, plan.selinux_mount_label = "a:b:c", "d:e:f"
    config = _config(plan)
    process = config["process"]
    assert (process["selinuxLabel"], config["linux"]["mountLabel"]) == ("a:b:c", "d:e:f")
    assert process["capabilities"] == {
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": [], "permitted": [],
    }  # fmt: skip
    assert process["user"] == {"uid": 10, "gid": 20, "additionalGids": []}
    assert (process["oomScoreAdj"], process["noNewPrivileges"]) == (30, True)


@pytest.mark.parametrize(("joined", "paths"), [
    ({"pid", "uts", "ipc", "network"},
     {"pid": "/proc/7/ns/pid", "ipc": "/proc/7/ns/ipc", "uts": "/proc/7/ns/uts",
      "network": "/proc/7/ns/net"}),
    ({"pid", "uts"}, {"pid": "/proc/7/ns/pid", "uts": "/proc/7/ns/uts"}),
])  # fmt: skip
def test_namespaces(plan: spec.AppPlan, joined: set[str], paths: dict[str, str]) -> None:
    spaces = _config(plan, joined=joined)["linux"]["namespaces"]
    assert {s["type"]: s["path"] for s in spaces if "path" in s} == paths
    assert [s["type"] for s in spaces if "path" not in s] == ["mount", "cgroup"]


def test_mounts_and_what_a_user_puts_over_them(plan: spec.AppPlan) -> None:
    device = Bind("/dev/kvm", "/dev/own", read_only=True, recursive=False)
    device.device = ("c", 10, 232)
    plan.binds = [
        Bind("/host/sys", "/sys", read_only=False),
        Bind("/data", "/data", read_only=True),
        Bind("/one", "/two", read_only=True, recursive=False),
        device,
    ]
    config = _config(plan)
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert list(mounts) == [
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/data", "/two", "/dev/own",
    ]  # fmt: skip
    assert mounts["/dev/shm"]["source"] == "/shm"
    assert mounts["/sys"]["source"] == "/host/sys"
    assert mounts["/data"]["options"] == ["rbind", "rslave", "ro", "rro"]
    assert mounts["/two"]["options"] == ["bind", "slave", "ro"]
    assert not [path for path in config["linux"]["maskedPaths"] if path.startswith("/sys")]
    assert config["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 232, "access": "r"},
    ]


def test_protected_paths_and_their_end(plan: spec.AppPlan) -> None:
    linux = _config(plan)["linux"]
    assert {"/sys/fs", "/proc/kcore"} <= set(linux["maskedPaths"])
    assert {"/proc/sysrq-trigger", "/sys/devices"} <= set(linux["readonlyPaths"])
    plan.unprotected_paths = True
    config = _config(plan)
    assert config["linux"]["maskedPaths"] == config["linux"]["readonlyPaths"] == []
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in next(m for m in config["mounts"] if m["destination"] == "/sys")["options"]


def test_the_console_is_never_the_hosts(plan: spec.AppPlan) -> None:
    [console] = _config(plan)["linux"]["devices"]
    assert (console["path"], console["major"], console["minor"]) == ("/dev/console", 1, 3)
    plan.terminal, plan.console_size = True, (24, 80)
    config = _config(plan)
    assert config["linux"]["devices"] == []
    assert config["process"]["consoleSize"] == {"height": 24, "width": 80}


def test_handlers_run_as_root_without_a_terminal(plan: spec.AppPlan) -> None:
    plan.uid, plan.gid, plan.terminal, plan.console_size = 10, 20, True, (1, 1)
    changed: Any = spec.handler(spec.build(plan, init_pid=1, joined=set(), shm=""), plan, ["/h"])
    process = changed["process"]
    assert (process["args"], process["terminal"], process["env"]) == (["/h"], False, ["A=b"])
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": []}
    assert process["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_KILL"]
    assert changed["root"] == {"path": "/root/of/a", "readonly": False}


# Capabilities


def test_default_capabilities_are_rkts_fourteen() -> None:
    chosen = capabilities.select([], have=caps.NAMES, unrestricted=False)
    assert len(chosen) == 14
    assert sum(1 << caps.NAMES.index(name) for name in chosen) == 0xA80425FB


def test_retain_remove_and_all(capsys: pytest.CaptureFixture[str]) -> None:
    have = tuple(name for name in caps.NAMES if name != "CAP_SYS_RESOURCE")
    retain = (capabilities.RETAIN, {"set": ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]})
    remove = (capabilities.REMOVE, {"set": ["CAP_KILL", "CAP_SYS_ADMIN"]})
    assert capabilities.select([retain], have=have, unrestricted=False) == ["CAP_SYS_ADMIN"]
    assert capsys.readouterr().err == (
        "rkt: warning: capabilities that rkt itself has not are left out: CAP_SYS_RESOURCE\n"
    )
    left = capabilities.select([remove], have=have, unrestricted=False)
    assert len(left) == 13 and "CAP_KILL" not in left
    assert capabilities.select([remove], have=have, unrestricted=True) == list(have)


@pytest.mark.parametrize(("isolators", "message"), [
    ([(capabilities.RETAIN, {"set": []})],
     'isolator "os/linux/capabilities-retain-set": set must be non-empty'),
    ([(capabilities.RETAIN, {"set": ["CAP_MAGIC"]})],
     'isolator "os/linux/capabilities-retain-set": unknown capability "CAP_MAGIC"'),
    ([(capabilities.RETAIN, {"set": ["CAP_KILL"]}), (capabilities.REMOVE, {"set": ["CAP_KILL"]})],
     "capabilities-retain-set and capabilities-remove-set exclude each other"),
])  # fmt: skip
def test_capabilities_refused(isolators: list[tuple[str, object]], message: str) -> None:
    with pytest.raises(RktError) as caught:
        capabilities.select(isolators, have=caps.NAMES, unrestricted=False)
    assert caught.value.message == message


def test_available_capabilities() -> None:
    assert capabilities.available("Name:\tx\nCapBnd:\t0000000000000021\n") == (
        "CAP_CHOWN", "CAP_KILL",
    )  # fmt: skip


# Seccomp


def _actions(result: dict[str, object] | None) -> dict[str, str]:
    assert result is not None
    found: dict[str, str] = {}
    for rule in cast("list[dict[str, Any]]", result["syscalls"]):
        if not rule.get("args"):
            found.update(dict.fromkeys(rule["names"], rule["action"]))
    return found


def _build(*isolators: tuple[str, object], caps: list[str] | None = None) -> Any:
    return seccomp.build(list(isolators), capabilities=caps or [], machine="x86_64")


def test_a_whitelist() -> None:
    result = _build((seccomp.RETAIN, {"set": ["read", "clone"], "errno": "EACCES"}))
    assert (result["defaultAction"], result["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 13)
    actions = _actions(result)
    assert {actions[name] for name in ("read", "clone", "rseq", "execve")} == {"SCMP_ACT_ALLOW"}
    assert actions["clone3"] == "SCMP_ACT_ERRNO"
    assert "mkdir" not in actions
    assert result["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_calls_that_a_filter_forbids() -> None:
    calls = ("getpid", "recvmsg", "dup3")
    narrow = _build((seccomp.RETAIN, {"set": ["read", "dup3"]}))
    assert seccomp.forbidden(narrow, calls) == ["recvmsg"]
    wide = _build((seccomp.REMOVE, {"set": ["getpid"]}))
    assert seccomp.forbidden(wide, calls) == ["getpid"]
    assert seccomp.forbidden(_build(), (*calls, "execve", "close")) == []


def test_a_whitelist_without_errno_kills() -> None:
    assert _build((seccomp.RETAIN, {"set": ["read"]}))["defaultAction"] == "SCMP_ACT_KILL_PROCESS"


def test_a_whitelist_may_name_a_newer_call() -> None:
    actions = _actions(_build((seccomp.RETAIN, {"set": ["clone3"]})))
    assert actions["clone3"] == "SCMP_ACT_ALLOW"


def test_a_blacklist() -> None:
    result = _build((seccomp.REMOVE, {"set": ["@rkt/default-blacklist", "mkdir"]}))
    assert result["defaultAction"] == "SCMP_ACT_ALLOW"
    actions = _actions(result)
    assert len(actions) == 53
    assert set(actions.values()) == {"SCMP_ACT_KILL_PROCESS"}


def test_all_and_empty() -> None:
    assert _build((seccomp.RETAIN, {"set": ["@appc.io/all", "read"]})) is None
    assert _build((seccomp.REMOVE, {"set": ["@appc.io/empty"]})) == _build()


def test_groups_of_systemd_are_known_and_others_ignored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "read" in _actions(_build((seccomp.RETAIN, {"set": ["@other/x", "read"]})))
    blocked = _actions(_build((seccomp.REMOVE, {"set": ["@systemd/clock", "@systemd/no-such"]})))
    assert {"adjtimex", "settimeofday"} <= blocked.keys()
    # Whoever misspells one must not believe that it holds.
    assert capsys.readouterr().err.splitlines() == [
        f'rkt: warning: seccomp wildcard "{name}" is unknown, it is ignored'
        for name in ("@other/x", "@systemd/no-such")
    ]
    for name in ("clock", "default-whitelist", "mount", "network-io", "obsolete", "privileged",
                 "process", "raw-io"):  # fmt: skip
        assert _actions(_build((seccomp.REMOVE, {"set": [f"@systemd/{name}"]})))


def test_a_misspelt_call_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    # Whoever misspells one must not believe that it holds; one of ARM's is none of ours.
    names = ["mkdir", "mkdirr", "arm_fadvise64_64", "\x1b[m"]
    assert set(names) == _actions(_build((seccomp.REMOVE, {"set": names}))).keys()
    assert capsys.readouterr().err.splitlines() == [
        f'rkt: warning: seccomp: system call "{name}" is unknown, it is ignored'
        for name in ("mkdirr", r"\x1b[m")
    ]
    _build((seccomp.REMOVE, {"set": [f"call{n}" for n in range(100)]}))
    assert capsys.readouterr().err.splitlines()[10:] == [
        "rkt: warning: seccomp: 90 more system calls are unknown"
    ]


@pytest.mark.parametrize(("value", "message"), [
    ({"set": []}, "set must be non-empty"),
    (None, "set must be non-empty"),
    ({"set": ["read"], "errno": "EMAGIC"}, 'unknown errno "EMAGIC"'),
    ({"set": ["read"], "errno": "errorcode"}, 'unknown errno "errorcode"'),
])  # fmt: skip
def test_seccomp_refused(value: object, message: str) -> None:
    with pytest.raises(RktError) as caught:
        _build((seccomp.RETAIN, value))
    assert caught.value.message == f'isolator "{seccomp.RETAIN}": {message}'


PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [
        {"names": ["read", "keyctl"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}},
        {"names": ["add_key"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": []}},
        {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A"]}},
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
         "excludes": {"caps": ["CAP_A"]}},
        {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"names": ["past"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8}]},
    ],
}  # fmt: skip


def test_a_distribution_profile_is_evaluated() -> None:
    without = seccomp.evaluate(dict(PROFILE), [], "x86_64")
    assert _actions(without) == {
        "read": "SCMP_ACT_ALLOW", "chroot": "SCMP_ACT_ERRNO", "past": "SCMP_ACT_ALLOW",
    }  # fmt: skip
    assert (without["defaultErrnoRet"], len(cast("list[object]", without["syscalls"]))) == (38, 4)
    assert _actions(seccomp.evaluate(dict(PROFILE), ["CAP_A"], "x86_64"))["chroot"] == (
        "SCMP_ACT_ALLOW"
    )
    assert "arm_only" in _actions(seccomp.evaluate(dict(PROFILE), [], "armv7l"))


def test_a_damaged_profile_gives_way_to_rkts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "seccomp.json"
    path.write_text('{"defaultAction": "x", "syscalls": 7}')
    monkeypatch.setattr(seccomp, "DISTRIBUTION_PROFILES", (str(path), str(tmp_path / "none")))
    result = seccomp.default([], "x86_64")
    assert (result["defaultAction"], result["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert len(_actions(result)) == 309
    assert "cannot be used as seccomp profile" in capsys.readouterr().err
    assert "set_tls" in _actions(seccomp.default([], "aarch64"))


def test_the_lists_do_not_contradict_each_other() -> None:
    known = set(syscalls.WHITELIST.split()) | set(syscalls.BLACKLIST.split())
    assert not known & set(syscalls.NEWER.split())
    assert (len(syscalls.WHITELIST.split()), len(syscalls.BLACKLIST.split())) == (309, 52)


# Environment


def test_the_image_wins_over_defaults_and_rkt_over_the_image() -> None:
    env = environment.build("a", [("PATH", "/p"), ("AC_APP_NAME", "no"), ("X", "a=b")])
    assert (env["PATH"], env["AC_APP_NAME"], env["X"]) == ("/p", "a", "a=b")
    assert (env["USER"], env["HOME"], env["SHELL"], env["container"]) == (
        "root", "/root", "/bin/sh", "rkt",
    )  # fmt: skip
    assert "TERM" not in env and "AC_METADATA_URL" not in env
    more = environment.build("a", [], terminal="xterm", metadata_url="http://h/t")
    assert (more["TERM"], more["AC_METADATA_URL"]) == ("xterm", "http://h/t")


def test_the_environment_file_has_a_line_each() -> None:
    assert environment.as_file({"A": "b c", "N": "x\ny", "E": ""}) == b"A=b c\nE=\n"
    assert environment.as_list({"A": "b=c"}) == ["A=b=c"]


# Resources


@pytest.mark.parametrize(("text", "scale", "value"), [
    ("16M", 1, 16000000), ("16Mi", 1, 16 << 20), ("1G", 1, 10**9), ("0.5Gi", 1, 1 << 29),
    ("500m", 1000, 500), ("2", 1000, 2000), ("1.0001", 1000, 1001), ("12e6", 1, 12000000),
    ("1E3", 1, 1000), ("5E", 1, 5 * 10**18), ("1n", 1, 1), ("-1", 1, -1), (".5k", 1, 500),
])  # fmt: skip
def test_quantities(text: str, scale: int, value: int) -> None:
    assert resources.quantity(text, scale) == value


@pytest.mark.parametrize("text", ["", "M", "1K", "1.2.3", "1e", "1e999", "x", "1 M"])
def test_quantities_refused(text: str) -> None:
    with pytest.raises(RktError, match=r"^unable to parse "):
        resources.quantity(text)


def test_resource_isolators(capsys: pytest.CaptureFixture[str]) -> None:
    isolators: list[tuple[str, object]] = [
        ("resource/memory", {"request": "1M", "limit": "2Mi"}),
        ("resource/cpu", {"limit": "1500m"}),
        ("os/linux/cpu-shares", 512),
        ("resource/block-iops", {"default": True, "limit": "10"}),
        ("resource/memory", {"request": "1M", "limit": "3Mi"}),
        ("os/linux/no-new-privileges", True),
    ]
    unenforced = resources.Unenforced()
    found = resources.limits(isolators, {"memory", "cpu"}, unenforced)
    assert resources.as_oci(found) == {
        "memory": {"limit": 2 << 20}, "cpu": {"period": 100000, "quota": 150000, "shares": 512},
    }  # fmt: skip
    resources.limits(isolators[:1], set(), unenforced)
    unenforced.other('app "a"', "resource/network-bandwidth", "why")
    unenforced.tell()
    assert capsys.readouterr().err == (
        "rkt: warning: resource/block-iops, resource/memory isolator set but support disabled in "
        "the kernel, skipping; isolators that cannot be enforced are ignored: "
        'app "a": resource/network-bandwidth (why)\n'
    )
    resources.Unenforced().tell()
    assert capsys.readouterr().err == ""


def test_limits_beyond_what_the_kernel_can_count() -> None:
    isolators: list[tuple[str, object]] = [
        (name, {"limit": "1e30"})
        for name in ("resource/memory", "resource/cpu", "resource/block-bandwidth",
                     "resource/block-iops")
    ]  # fmt: skip
    found = resources.limits(isolators, {"memory", "cpu", "io"}, resources.Unenforced())
    assert found.memory == found.block_bytes == (1 << 63) - 1
    assert found.block_ops == (1 << 32) - 1
    assert found.cpu == 1 << 30


def test_a_pods_limits_bound_those_of_its_apps() -> None:
    pod, app = resources.Limits(), resources.Limits()
    pod.memory, pod.cpu = 100, 2000
    app.memory, app.block_ops = 200, 7
    bounded = app.within(pod)
    assert (bounded.memory, bounded.cpu, bounded.block_ops) == (100, None, 7)


def test_throttled_disks(tmp_path: Path) -> None:
    for name, size, number in (("sda", "100", "8:0"), ("loop0", "0", "7:0"), ("ram0", "9", "1:0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(f"{size}\n")
        (tmp_path / name / "dev").write_text(f"{number}\n")
    assert resources.disks(str(tmp_path)) == [(8, 0)]
    assert resources.disks(str(tmp_path / "none")) == []


def test_kernel_parameters_of_namespaces_only(capsys: pytest.CaptureFixture[str]) -> None:
    unenforced = resources.Unenforced()
    values = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "9", "kernel.panic": "1"}
    isolators: list[tuple[str, object]] = [("os/unix/sysctl", values)]
    assert resources.sysctl(isolators, {"ipc"}, unenforced) == {"kernel.msgmax": "9"}
    unenforced.tell()
    assert "os/unix/sysctl net.ipv4.ip_forward (it is not of a namespace of the pod)" in (
        capsys.readouterr().err
    )


def test_selinux_context(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"user": "u", "role": "r", "type": "t", "level": "s0:c1"}
    isolators: list[tuple[str, object]] = [("os/linux/selinux-context", value)]
    unenforced = resources.Unenforced()
    monkeypatch.setattr(resources, "SELINUX_ENFORCE", "/nowhere")
    assert resources.selinux_label("a", isolators, unenforced) == ""
    unenforced.tell()
    assert "os/linux/selinux-context (SELinux is not enabled)" in capsys.readouterr().err
    monkeypatch.setattr(resources, "SELINUX_ENFORCE", "/")
    known = ["u:r:t:s0:c1"]
    monkeypatch.setattr(selinux, "in_policy", lambda context: context in known)
    assert resources.selinux_label("a", isolators, unenforced) == "u:r:t:s0:c1"
    known.clear()
    with pytest.raises(RktError, match='"u:r:t:s0:c1": the SELinux policy of this host does not'):
        resources.selinux_label("a", isolators, unenforced)


def test_mounts_are_in_the_context_of_the_pods_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RKT_SELINUX_MOUNT_CONTEXT", raising=False)
    assert spec.in_context("mode=755") == "mode=755"
    monkeypatch.setenv("RKT_SELINUX_MOUNT_CONTEXT", "u:object_r:t:s0:c1,c2")
    assert spec.in_context("mode=755") == 'mode=755,context="u:object_r:t:s0:c1,c2"'


def test_oom_score_needs_permission_to_go_down(capsys: pytest.CaptureFixture[str]) -> None:
    up: list[tuple[str, object]] = [("os/linux/oom-score-adj", 900)]
    down: list[tuple[str, object]] = [("os/linux/oom-score-adj", -900)]
    unenforced = resources.Unenforced()
    assert resources.oom_score_adj("a", up, (), unenforced) == 900
    assert resources.oom_score_adj("a", down, ("CAP_SYS_RESOURCE",), unenforced) == -900
    assert resources.oom_score_adj("a", down, (), unenforced) is None
    unenforced.tell()
    assert capsys.readouterr().err == (
        'rkt: warning: isolators that cannot be enforced are ignored: app "a": '
        "os/linux/oom-score-adj (no permission to lower it to -900)\n"
    )
    assert resources.oom_score_adj("a", [], (), unenforced) is None
