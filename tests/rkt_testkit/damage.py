"""Runs commands of rkt against copies of a pod, each with one file damaged (a program of its own).

It reads a JSON document from stdin and prints what each command said.  Commands are forked from
one process in which the launcher was run before: thousands of them take seconds.  Standard library
only, so that rkt comes from where its launcher finds it: `python3 -I -S damage.py`.
"""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DAMAGES = ("missing", "empty", "garbage", "directory", "fifo", "link", "link-to-directory")
_GARBAGE = b"\xff\xfe\x00{]%s\n../../x\x1b[31m" * 8
_TIMEOUT = 30  # seconds: far more than any command takes; SIGALRM ends what hangs


def damage(path: str, how: str, *, outside: str) -> None:
    """Replace a file or directory.  Links lead to what is `outside`."""
    mode = os.stat(path, follow_symlinks=False).st_mode
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    if how in ("empty", "garbage"):
        with open(path, "wb") as file:
            file.write(_GARBAGE if how == "garbage" else b"")
            os.fchmod(file.fileno(), mode & 0o777)
    elif how == "directory":
        os.makedirs(f"{path}/x")
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        os.symlink(f"{outside}/secret", path)
    elif how == "link-to-directory":
        os.symlink(outside, path)


def places(pod: str, apps: list[str]) -> list[str]:
    """Name every file and directory of a pod that is rkt's own, not its apps'."""
    found = []
    for top, dirs, files in os.walk(pod):
        base = os.path.relpath(top, pod)
        for name in [*dirs, *files]:
            found.append(os.path.normpath(f"{base}/{name}"))
        keep = [n for n in dirs if not (n in apps and base.endswith(("/upper", "/opt/stage2")))]
        dirs[:] = [n for n in keep if n not in ("work", "sharedVolumes")]
    return sorted(place for place in found if not place.endswith("/work"))


def copy(source: str, target: str) -> None:
    """Copy a pod as `cp -a` does, FIFOs, sockets and times of directories included."""
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{target}/{entry.name}"
            info = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), path)
            elif entry.is_dir():
                copy(entry.path, path)
            elif entry.is_file():
                shutil.copy2(entry.path, path)
            else:
                os.mknod(path, info.st_mode, info.st_rdev)
    shutil.copystat(source, target)


def run(launcher: str, argv: list[str]) -> tuple[int, str, str]:
    """Run a command line; its status is minus the signal if one ended it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
                signal.alarm(_TIMEOUT)
                status = call(launcher, argv)
                sys.stdout.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
    return status, texts[0], texts[1]


def call(launcher: str, argv: list[str]) -> int:
    """Run the launcher in this process."""
    sys.argv = [launcher, *argv]
    try:
        runpy.run_path(launcher, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 70
    return 70


def case(order: dict[str, Any], place: str, how: str, end: list[str]) -> list[dict[str, Any]]:
    """Run all commands against one damaged pod; the last one must take it away."""
    uuid, target = order["uuid"], order["target"]
    said = []
    copy(order["template"], target)
    damage(f"{target}/{place}", how, outside=order["outside"])
    for words in [*order["readers"], end]:
        if words[0] == "export" and not is_exported(place):
            continue
        if words[0] in ("enter", "stop", "stats") and "/" in place:
            continue  # of a pod that does not run they look at nothing below its directory
        argv = [word.replace("UUID", uuid) for word in words]
        status, out, err = run(order["launcher"], [*order["flags"], *argv])
        said.append({"place": place, "how": how, "command": words, "status": status,
                     "stdout": out, "stderr": err})  # fmt: skip
    left = [where for where in os.listdir(order["pods"])
            if os.path.lexists(f"{order['pods']}/{where}/{uuid}")]  # fmt: skip
    said.append({"place": place, "how": how, "left": left})
    for where in left:
        shutil.rmtree(f"{order['pods']}/{where}/{uuid}")
    if os.path.lexists(order["export"]):
        os.unlink(order["export"])
    return said


def is_exported(place: str) -> bool:
    """Say whether export looks at a file; it is the slowest of the commands by far."""
    top = place.split("/")[0]
    return top in ("pod", "appsinfo", "overlay", "overlay-prepared") and "/rkt" not in place


def main() -> int:
    """Read the order, run the cases, print what was said."""
    order = json.load(sys.stdin)
    leave, own = os._exit, os.getpid()

    def stay(status: int) -> None:
        """Leave in a child only: the launcher is to come back."""
        if os.getpid() == own:
            raise SystemExit(status)
        leave(status)

    os._exit = stay  # type: ignore[assignment]
    for words in order["warm"]:  # loads the modules of the commands, once for all forks
        real, sys.stdout = sys.stdout, io.StringIO()
        call(order["launcher"], [*order["flags"], *words])
        sys.stdout = real
    os._exit = leave
    gc.freeze()
    said = []
    for first, place in enumerate(places(order["template"], order["apps"])):
        for number, how in enumerate(DAMAGES):
            # Both ways to remove a pod see every place, and every kind of damage.
            end = order["ends"][(first + number) % len(order["ends"])]
            said += case(order, place, how, end)
    json.dump(said, sys.stdout)
    return 0


if __name__ == "__main__":
    socket.setdefaulttimeout(_TIMEOUT)
    sys.exit(main())
