"""Many pods at once: start them, and weigh what keeps them running."""

from __future__ import annotations

import contextlib
import os
import subprocess


def start(argv: list[str], count: int, env: dict[str, str]) -> None:
    """Start a command so many times, all at the same time; each must succeed."""
    started = [
        subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in started:
        words = process.communicate()[1]
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(argv)}: exit status {process.returncode}: {words}")


def beside_apps(work: str) -> int:
    """Sum up the PSS of the processes that keep pods or containers below `work` running.

    They name that directory in their command line, as supervisors and podman's monitors do, or are
    the first process of a pod; an app does neither.
    """
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                words = file.read()
            if "--inside=" in words or (work not in words and "rkt-init" not in words):
                continue
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(1024 * int(line.split()[1]) for line in file if line[:4] == "Pss:")
    return total
