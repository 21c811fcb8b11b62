"""What is kept of apps' output, with real pods."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"
SHELL = ("--exec=/bin/sh", "--", "-c")


@pytest.fixture
def image(rkt: RktContext) -> str:
    return AciBuilder("example.com/app").busybox().build(rkt.files).path


def run(rkt: RktContext, image: str, script: str, *flags: str, status: int = 0) -> str:
    """Run a pod to its end; gives its UUID."""
    save = f"--uuid-file-save={rkt.files}/uuid"
    rkt.rkt(OPEN, "run", *flags, save, image, *SHELL, script, status=status)
    with open(f"{rkt.files}/uuid") as file:
        return file.read()


def start(rkt: RktContext, image: str, script: str, *flags: str) -> str:
    """Start a pod in the background; gives its UUID."""
    return rkt.rkt(OPEN, "run", "--detach", *flags, image, *SHELL, script).stdout.strip()


def end(rkt: RktContext, uuid: str) -> None:
    rkt.rkt("stop", uuid)
    rkt.rkt("status", "--wait", uuid)


def supervisor(rkt: RktContext, uuid: str) -> int:
    with open(f"{rkt.pod_dir(uuid)}/oci-state") as file:
        found = re.search(r'"supervisor": (\d+)', file.read())
    assert found
    return int(found[1])


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def test_logs_outlive_the_app_until_it_is_collected(rkt: RktContext, image: str) -> None:
    uuid = run(rkt, image, r"echo out; echo err >&2; printf 'a\0b\r\nunfinished'; exit 3", status=3)
    for _ in range(2):
        result = rkt.rkt("logs", uuid[:8])
        assert (result.stdout, result.stderr) == ("out\na\0b\nunfinished", "err\n")
        rkt.rkt("gc")  # marks it
    assert rkt.rkt("logs", "--stream=stderr", uuid).stdout == ""
    directory = f"{rkt.pod_dir(uuid)}/logs"
    assert os.stat(directory).st_mode & 0o777 == 0o700
    rkt.rkt("rm", uuid)
    gone = f'rkt: problem retrieving pod: no matches found for "{uuid}"\n'
    assert rkt.rkt("logs", uuid, status=254).stderr == gone


@pytest.mark.parametrize("flags", [[], ["--until=2200-01-01"]], ids=["endless", "until"])
def test_following_ends_with_the_pod_and_tears_no_line(
    rkt: RktContext, image: str, flags: list[str]
) -> None:
    script = "printf half; until [ -e /go ]; do sleep 0.02; done; echo ' whole'; sleep 1000"
    uuid = start(rkt, image, script)
    follower = rkt.spawn("logs", "--follow", *flags, uuid)
    rkt.rkt("enter", uuid, "/bin/touch", "/go")
    assert line(follower) == b"half whole\n"
    assert follower.poll() is None
    end(rkt, uuid)
    assert line(follower) == b""
    assert follower.wait(20) == 0


def test_following_ends_when_the_supervisor_is_killed(rkt: RktContext, image: str) -> None:
    uuid = start(rkt, image, "i=0; while :; do i=$((i+1)); echo line $i; done")
    follower = rkt.spawn("logs", "--follow", uuid)
    for index in range(1, 1000):
        assert line(follower) == b"line %d\n" % index
    os.kill(supervisor(rkt, uuid), signal.SIGKILL)
    assert follower.stdout is not None
    out = follower.stdout.read()
    assert follower.wait(20) == 0
    numbers = [int(number) for number in re.findall(rb"^line (\d+)$", out, re.MULTILINE)]
    assert numbers[:-1] == list(range(1000, 1000 + len(numbers) - 1))
    assert rkt.rkt("logs", uuid).stdout.encode().endswith(out)
    rkt.rkt("rm", uuid)


def test_a_flood_stays_within_its_bound(rkt: RktContext, image: str) -> None:
    uuid = run(rkt, image, "seq 1 1000000; seq 1 1000000 >&2", "--log-max-size=1Mi")
    directory = f"{rkt.pod_dir(uuid)}/logs/app"
    names = sorted(os.listdir(directory))
    assert len(names) == 2
    assert sum(os.path.getsize(f"{directory}/{name}") for name in names) <= 1 << 20
    numbers = [int(word) for word in rkt.rkt("logs", uuid).stderr.split()]
    assert len(numbers) > 50_000
    assert numbers == list(range(numbers[0], 1_000_001))


def test_a_flood_neither_stops_for_its_reader_nor_fills_the_memory(
    rkt: RktContext, image: str
) -> None:
    uuid = start(rkt, image, f"yes {'0123456789' * 10}")
    pid = supervisor(rkt, uuid)
    directory = f"{rkt.pod_dir(uuid)}/logs/app"
    rkt.wait_for(lambda: int(max(os.listdir(directory), default="0")) > 8)  # more than 100 MB
    with open(f"/proc/{pid}/status") as file:
        peak = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    assert peak
    assert int(peak[1]) < 20_000
    follower = rkt.spawn("logs", "--follow", "--tail=1", uuid)
    assert {len(line(follower)) for _ in range(20_000)} == {101}
    end(rkt, uuid)
    assert follower.stdout is not None
    follower.stdout.read()
    assert follower.wait(20) == 0


def test_which_lines(rkt: RktContext, image: str) -> None:
    script = "echo one; until [ -e /2 ]; do sleep 0.05; done; echo two; "
    script += "until [ -e /3 ]; do sleep 0.05; done; echo three >&2"
    uuid = start(rkt, image, script)
    for text, go_on in (("one\n", "/2"), ("one\ntwo\n", "/3")):
        rkt.wait_for(lambda text=text: rkt.rkt("logs", uuid).stdout == text)  # type: ignore[misc]
        rkt.rkt("enter", uuid, "/bin/touch", go_on)
    rkt.rkt("status", "--wait", uuid)
    result = rkt.rkt("logs", "--timestamps", uuid)
    form = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (\w+)")
    found = form.findall(result.stdout + result.stderr)
    assert [word for _, word in found] == ["one", "two", "three"]
    times = [moment for moment, _ in found]
    assert times == sorted(times)
    # datetime has no nanoseconds: the time of a line, cut to microseconds, is before it.
    assert rkt.rkt("logs", f"--since={times[1]}", uuid)[1:] == ("two\n", "three\n")
    assert rkt.rkt("logs", f"--until={times[1]}", uuid)[1:] == ("one\n", "")
    assert rkt.rkt("logs", "--tail=1", uuid)[1:] == ("", "three\n")
    assert rkt.rkt("logs", "--tail=2", "--stream=stdout", uuid)[1:] == ("one\ntwo\n", "")
    assert rkt.rkt("logs", "--since=1h", uuid)[1:] == ("one\ntwo\n", "three\n")
    assert rkt.rkt("logs", f"--since={time.time() + 10:.0f}", uuid)[1:] == ("", "")
    assert rkt.rkt("logs", "--follow", uuid)[1:] == ("one\ntwo\n", "three\n")


@pytest.mark.parametrize(("flag", "text"), [
    ("--since=tomorrow", '"tomorrow" for --since=tomorrow: is neither a duration nor a time'),
    ("--tail=few", '"few" for --tail=few: must be a number or "all"'),
    ("--tail=-1", '"-1" for --tail=-1: must be a number or "all"'),
    ("--tail=\u00b2", '"\u00b2" for --tail=\u00b2: must be a number or "all"'),
    ("--since=9999999h", '"9999999h" for --since=9999999h: is neither a duration nor a time'),
    ("--until=\u00b2", '"\u00b2" for --until=\u00b2: is neither a duration nor a time'),
    ("--stream=both", '"both" for --stream=both: must be "stdout" or "stderr"'),
])  # fmt: skip
def test_flags_refused(rkt: RktContext, flag: str, text: str) -> None:
    assert f"rkt: invalid argument {text}\n" in rkt.rkt("logs", flag, "aa", status=254).stderr


def test_several_apps(rkt: RktContext, image: str) -> None:
    second = "until [ -e /go ]; do sleep 0.05; done; echo of two; echo bad >&2"
    uuid = rkt.rkt(
        OPEN, "run", "--detach", image, "--name=one", *SHELL, "echo of one", "---",
        image, "--name=two", *SHELL, second,
    ).stdout.strip()  # fmt: skip
    rkt.wait_for(lambda: rkt.rkt("logs", uuid).stdout == "one: of one\n")
    rkt.rkt("enter", "--app=two", uuid, "/bin/touch", "/go")
    rkt.rkt("status", "--wait", uuid)
    assert rkt.rkt("logs", uuid)[1:] == ("one: of one\ntwo: of two\n", "two: bad\n")
    assert rkt.rkt("logs", "--app=two", uuid)[1:] == ("of two\n", "bad\n")
    assert rkt.rkt("logs", "--app=two", "--app=two", uuid)[1:] == ("of two\n", "bad\n")
    result = rkt.rkt("logs", "--app=three", uuid, status=254)
    assert result.stderr == f'rkt: pod "{uuid}": no app "three"\nhint: its apps are: one, two\n'


def test_no_logs(rkt: RktContext, image: str) -> None:
    uuid = run(rkt, image, "echo hello", "--log-max-size=0")
    text = f'rkt: pod "{uuid}": no logs were kept of it\n'
    assert rkt.rkt("logs", uuid, status=254).stderr == text
    prepared = rkt.rkt(OPEN, "prepare", image).stdout.strip()
    text = f'rkt: pod "{prepared}" has not been started: it is prepared\n'
    assert rkt.rkt("logs", prepared, status=254).stderr == text


def test_handlers_and_restarts_are_in_the_log(rkt: RktContext) -> None:
    handlers = [{"name": "pre-start", "exec": ["/bin/echo", "before"]},
                {"name": "post-stop", "exec": ["/bin/echo", "after"]}]  # fmt: skip
    aci = AciBuilder("example.com/app", app={"eventHandlers": handlers}).busybox().build(rkt.files)
    uuid = run(rkt, aci.path, "echo run; exit 1", "--restart=on-failure:1", status=1)
    result = rkt.rkt("logs", uuid)
    assert result.stdout == "before\nrun\nafter\n" * 2
    assert result.stderr == "rkt: exited with status 1; it starts again in 0.1 s\n"


def test_following_sees_an_app_that_is_removed_and_added_again(rkt: RktContext, image: str) -> None:
    key = rkt.rkt(OPEN, "fetch", image).stdout.strip()
    sandbox = rkt.spawn("app", "sandbox", f"--uuid-file-save={rkt.files}/uuid")
    rkt.wait_for(lambda: os.path.exists(f"{rkt.files}/uuid"))
    with open(f"{rkt.files}/uuid") as file:
        uuid = file.read()
    rkt.rkt("status", "--wait-ready", uuid)
    refused = rkt.rkt("logs", "--app=one", uuid, status=254)
    assert refused.stderr == f'rkt: pod "{uuid}": no app "one"\n'
    follower = rkt.spawn("logs", "--follow", uuid)
    for word in ("first", "second"):
        script = f"echo {word}; printf 'end of {word}'; sleep 1000"
        rkt.rkt(OPEN, "app", "add", uuid, key, "--name=one", *SHELL, script)
        rkt.rkt("app", "start", uuid, "--app=one")
        assert line(follower) == b"one: %s\n" % word.encode()
        rkt.rkt("app", "stop", uuid, "--app=one")
        rkt.rkt("app", "rm", uuid, "--app=one")
        assert line(follower) == b"one: end of %s\n" % word.encode()
    rkt.rkt("stop", uuid)
    sandbox.wait(30)
    assert line(follower) == b""
    assert follower.wait(20) == 0


@pytest.fixture
def small_disk(rkt: RktContext) -> Iterator[None]:
    """Put the data directory on a file system of its own, in the namespace of the commands."""
    argv = [*rkt.enter_argv(), "mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "none"]
    assert rkt.run([*argv, rkt.data]).status == 0
    yield
    rkt.rkt("gc", "--grace-period=0s")
    rkt.run([*rkt.enter_argv(), "umount", rkt.data])


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_does_not_disturb_the_app(rkt: RktContext, image: str) -> None:
    script = "seq 1 5000000; echo end >&2; exit 5"  # 39 MB
    result = rkt.rkt(
        OPEN, "run", "--pod-name=full", "--log-max-size=1Gi", image, *SHELL, script, status=5
    )
    assert len(result.stdout) == 38_888_896
    said = 'rkt: warning: app "app": its log cannot be written (No space left on device); '
    assert result.stderr.splitlines()[1:] == [
        f"{said}the app goes on, output is lost",
        "end",
        'rkt: app "app" exited with status 5',
    ]
    lines = rkt.rkt("status", "full").stdout.splitlines()
    assert "app=5" in lines
    assert "app-reason=exited with status 5" in lines
    numbers = [int(word) for word in rkt.rkt("logs", "full").stdout.split()]
    assert numbers == sorted(set(numbers))  # what came in small pieces still fitted at times
    assert len(numbers) > 1_000_000
    rkt.rkt("rm", "full")
    rkt.rkt(OPEN, "run", image)


@pytest.mark.usefixtures("small_disk")
def test_when_there_is_room_again_the_log_says_what_is_missing(rkt: RktContext, image: str) -> None:
    line = "x" * 5000
    script = f"i=0; while :; do i=$((i+1)); echo $i {line}; sleep 0.01; done"
    uuid = start(rkt, image, script)
    argv = [*rkt.enter_argv(), "dd", "if=/dev/zero", f"of={rkt.data}/filler", "bs=4k"]
    assert "No space left" in rkt.run(argv).stderr
    time.sleep(0.3)  # meanwhile lines are lost
    assert rkt.run([*rkt.enter_argv(), "rm", f"{rkt.data}/filler"]).status == 0
    rkt.wait_for(lambda: "lost" in rkt.rkt("logs", uuid).stderr)
    end(rkt, uuid)
    result = rkt.rkt("logs", uuid)
    lost = re.fullmatch(r"rkt: (\d+) bytes of output were lost: no room for them\n", result.stderr)
    assert lost, result.stderr
    lines = result.stdout.splitlines()
    whole = [int(text[: -len(line)]) for text in lines if text.endswith(f" {line}")]
    assert whole == sorted(set(whole))
    assert whole[-1] - len(whole) >= int(lost[1]) // 5010
    # Only the lines at the two edges of the gap may be cut, and only at their ends.
    cut = [text for text in lines if not text.endswith(f" {line}")]
    assert len(cut) <= 1
