"""Why an app ended, in words, and the file that keeps it; what is told of one without."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rkt.pod import lifecycle, state
from rkt.pod import reason as told
from rkt.stage1.supervision import reason

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
FORBIDDEN = "killed by SIGSYS: it made a system call that its seccomp filter forbids"
GLIBC = b"/prog: error while loading shared libraries: libz.so.1: cannot open shared object file\n"
MUSL = b"Error loading shared library libz.so.1: No such file or directory (needed by /prog)\n"


@pytest.mark.parametrize(("code", "oom", "memory", "filtered", "tail", "kind", "status", "text"), [
    (0, False, 0, False, b"", "exited", 0, "exited with status 0"),
    (9, False, 0, True, b"", "exited", 9, "exited with status 9"),
    (0, True, 0, False, b"", "exited", 0, "exited with status 0"),  # a child's death was no harm
    (-11, False, 0, True, b"", "signal", 139, "killed by SIGSEGV"),
    (-9, False, MIB, False, b"", "signal", 137, "killed by SIGKILL"),
    (-64, False, 0, False, b"", "signal", 192, "killed by SIGRTMAX"),
    (-40, False, 0, False, b"", "signal", 168, "killed by signal 40"),
    (-9, True, 16 * MIB, False, b"", "oom", 137,
     "killed by SIGKILL: out of memory (the limit is 16 MiB)"),
    (-9, True, 1 << 30, False, b"", "oom", 137,
     "killed by SIGKILL: out of memory (the limit is 1 GiB)"),
    (-9, True, 12345, False, b"", "oom", 137,
     "killed by SIGKILL: out of memory (the limit is 12345 bytes)"),
    (-9, True, 0, False, b"", "oom", 137,
     "killed by SIGKILL: out of memory (no limit of its own)"),
    (-15, True, 0, False, b"", "signal", 143, "killed by SIGTERM"),
    (7, True, 512 << 10, False, b"", "oom", 7,
     "exited with status 7: a process of it was killed, out of memory (the limit is 512 KiB)"),
    (-31, False, 0, True, b"", "seccomp", 159, FORBIDDEN),
    (-31, False, 0, False, b"", "signal", 159, "killed by SIGSYS"),
    (127, False, 0, False, GLIBC, "library", 127,
     'exited with status 127: library "libz.so.1" is missing'),
    (127, False, 0, False, MUSL, "library", 127,
     'exited with status 127: library "libz.so.1" is missing'),
    (127, False, 0, False, b"sh: x: not found\n", "exited", 127, "exited with status 127"),
    (1, False, 0, False, GLIBC, "exited", 1, "exited with status 1"),
])  # fmt: skip
def test_the_end_of_a_main_process(
    code: int, oom: bool, memory: int, filtered: bool, tail: bytes, kind: str, status: int,
    text: str,
) -> None:  # fmt: skip
    end = reason.of_main(code, oom=oom, memory=memory, filtered=filtered, tail=tail)
    assert (end.kind, end.status, end.text) == (kind, status, text)
    assert end.signal == max(-code, 0)


def test_a_library_is_named_without_what_could_harm_a_terminal() -> None:
    mark = b"error while loading shared libraries: "
    assert reason.missing_library(mark + b"lib\x1b[2J\xff.so: cannot") == "lib[2J\ufffd.so"
    assert reason.missing_library(mark + b"a: x\n" + mark + b"b: y\n") == "b"
    assert len(reason.missing_library(mark + b"x" * 4096)) == 200
    assert reason.missing_library(mark + b": ") == ""


def test_a_program_that_could_not_be_executed_after_its_sockets_were_announced() -> None:
    tail = b'before\nrkt: cannot execute "/x\x1b": No such file or directory\n'
    end = reason.of_main(126, oom=False, memory=0, filtered=False, tail=tail, announced=True)
    text = 'could not be started: cannot execute "/x": No such file or directory'
    assert (end.kind, end.status, end.text) == ("start", 126, text)
    for code, announced in ((126, False), (1, True)):
        end = reason.of_main(code, oom=False, memory=0, filtered=False, tail=tail,
                             announced=announced)  # fmt: skip
        assert end.text == f"exited with status {code}"
    end = reason.of_main(
        126, oom=False, memory=0, filtered=False, tail=tail + b"x\n", announced=True
    )
    assert end.text == "exited with status 126"


CRUN = (
    b'{"msg":"exec container process (missing dynamic library?) `/x`: No such file or directory",'
    b'"level":"error","time":"2026-01-01T00:00:00.000000Z"}\n'
)


@pytest.mark.parametrize(("tail", "why"), [
    (b"before\nexec /x: exec format error\n", "exec format error"),
    (b"exec /x: permission\x1b denied", "permission denied"),
    (b"exec /y: exec format error\n", ""),
    (CRUN, "no such file or directory"),
    (CRUN.replace(b"/x", b"/y"), ""),
    (CRUN[:60], ""),
    (CRUN + b"more\n", ""),
    (b"", ""),
])  # fmt: skip
def test_a_program_that_the_runtime_could_not_execute(tail: bytes, why: str) -> None:
    end = reason.of_main(1, oom=False, memory=0, filtered=False, tail=tail, program="/x")
    text = f'could not be started: cannot execute "/x": {why}' if why else "exited with status 1"
    assert (end.kind, end.text) == ("start" if why else "exited", text)
    end = reason.of_main(2, oom=False, memory=0, filtered=False, tail=tail, program="/x")
    assert end.text == "exited with status 2"


def test_handlers_and_stops() -> None:
    end = reason.of_handler("pre-start", 3)
    assert (end.kind, end.status, end.text) == (
        "handler", 3, "pre-start handler exited with status 3",
    )  # fmt: skip
    end = reason.of_handler("pre-start", -9)
    assert (end.status, end.signal) == (137, 9)
    assert end.text == "pre-start handler was killed by SIGKILL"
    end = reason.of_stop(reason.of_handler("pre-start", -15), "the pod was stopped by SIGTERM")
    assert (end.kind, end.status, end.signal) == ("stopped", 143, 15)
    assert end.text.endswith(" by SIGTERM: the pod was stopped by SIGTERM")


@pytest.fixture
def pod(tmp_path: Path) -> lifecycle.Pod:
    made = lifecycle.create(str(tmp_path))
    os.makedirs(f"{made.path}/stage1/rootfs/rkt/status")
    return made


def write(pod: lifecycle.Pod, path: str, data: bytes = b"") -> None:
    with open(f"{pod.path}/{path}", "wb") as file:
        file.write(data)


def why(pod: lifecycle.Pod, now: str = "exited") -> str | None:
    found = told.of_apps(pod, now, ["web"]).get("web")
    return None if found is None else found.text


RKT = "stage1/rootfs/rkt"
BOOTED = b"00000000-0000-0000-0000-000000000000\n"


def test_what_was_recorded_is_told_as_it_is(pod: lifecycle.Pod) -> None:
    end = reason.End(137, "oom", 'sp\u00e4t, "zu" sp\u00e4t\\n', number=9)
    write(pod, f"{RKT}/status/web.reason", end.encode(restarts=3, again=False))
    found = told.of_apps(pod, "exited", ["web"])["web"]
    assert (found.kind, found.text, found.status, found.signal, found.restarts, found.again) == (
        "oom", end.text, 137, 9, 3, False,
    )  # fmt: skip
    assert found.time > 0


def test_a_long_reason_is_cut_and_read_again(pod: lifecycle.Pod) -> None:
    end = reason.End(1, "health", "x" * 10_000)
    write(pod, f"{RKT}/status/web.reason", end.encode(restarts=0, again=False))
    text = why(pod)
    assert text is not None
    assert text == "x" * 399 + "\u2026"


def test_without_a_record_the_exit_code_tells(pod: lifecycle.Pod) -> None:
    write(pod, f"{RKT}/status/web", b"3\n")
    assert why(pod) == "exited with status 3"
    write(pod, f"{RKT}/status/web.reason", b'{"kind": 1}')
    assert why(pod) == "exited with status 3"


def test_of_a_running_pod_only_what_was_recorded(pod: lifecycle.Pod) -> None:
    write(pod, f"{RKT}/status/web.pid", b"1\n")
    assert why(pod, "running") is None
    end = reason.End(3, "exited", "exited with status 3")
    write(pod, f"{RKT}/status/web.reason", end.encode(restarts=1, again=True))
    assert why(pod, "running") == "exited with status 3"


def test_stage1_was_not_executed(pod: lifecycle.Pod) -> None:
    write(pod, "boot-id", b"of another boot\n")
    write(pod, "not-started", b'tree "x" is not in the store\n')
    assert why(pod) == 'was not started: tree "x" is not in the store'


def test_the_supervisor_was_killed(pod: lifecycle.Pod) -> None:
    assert why(pod) == "was not started: its supervisor was killed before"
    write(pod, "pid", b"1\n")
    assert why(pod) == "no exit status was recorded"
    write(pod, f"{RKT}/status/web.pid", b"1\n")
    assert why(pod) == "its supervisor was killed while it ran"


def test_an_app_that_was_only_added(pod: lifecycle.Pod) -> None:
    write(pod, "pid", b"1\n")
    write(pod, f"{RKT}/status/web-created")
    assert why(pod, "running") is None
    assert why(pod) == "was not started"
    write(pod, f"{RKT}/status/web.pid", b"1\n")
    assert why(pod) == "its supervisor was killed while it ran"


def test_killed_while_it_was_to_start_again(pod: lifecycle.Pod) -> None:
    end = reason.End(3, "exited", "exited with status 3")
    write(pod, f"{RKT}/status/web.reason", end.encode(restarts=1, again=True))
    write(pod, f"{RKT}/status/web.pid", b"1\n")
    assert why(pod) == "its supervisor was killed while it ran"


def test_the_host_was_rebooted(pod: lifecycle.Pod) -> None:
    write(pod, "boot-id", BOOTED)
    assert why(pod) == "was not started: the host was rebooted, or crashed, before"
    write(pod, f"{RKT}/status/web.pid", b"1\n")
    assert why(pod) == "the host was rebooted, or crashed, while it ran"
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        write(pod, "boot-id", file.read())
    assert why(pod) == "its supervisor was killed while it ran"


def test_every_state_of_the_end_tells(pod: lifecycle.Pod) -> None:
    for now in state.ENDED:
        assert why(pod, now) is not None
